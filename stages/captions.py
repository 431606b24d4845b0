"""Caption the representative frames with BLIP, fine-tuned so that captions also name sounds.

GIT can take BLIP's place.  Other captioning models (docs/backbones.md) are asked as they are:
`finetune` must be `off` then.

Reads    data/representative_frames, data/frames; to fine-tune and to measure data/audio,
         data/audio_features and, with `self_critical`, data/label_audio
Writes   data/captions, a row per clip:
             steps      list<int32>    the representative frames' indices, ascending
             captions   list<string>   one each, in lower case
         models/captions: a Hugging Face directory of the captioner, fine-tuned on all training
         clips (as published with `off`)
`finetune` (how: audio_from_video/captioning, jobs.py and fine_tuning.py):
    off            captions of the published model
    tags           it learns its own captions of some frames of audible training clips, labelled or
                   not, and, when prompted, the same together with the labels that AST hears around
                   the frame's time
    self_critical  after `tags`, by reward: how well the audio of the labels that a caption is
                   mapped to meets the real one (the labels' audio stands in for the generator,
                   which comes later and itself depends on the captions)
Cross-fitting: a training clip's captions come from a model that has not met its source
(generator.folds); validation and test clips get those of the model fitted on all training clips.
An item's key names the weights that made it.
"""

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.audio import label_names_of
from audio_from_video.backbones.settings import PUBLISHED_WEIGHTS, CaptionerSettings
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.jobs import (
    TuningClip,
    fine_tuned,
    fine_tunings,
    iter_frames,
    spread_steps,
)
from audio_from_video.captioning.settings import CaptionsParams
from audio_from_video.captioning.workers import Setup, SoundWindows, Task
from audio_from_video.clipset import folds
from audio_from_video.clipset.folds import WHOLE
from audio_from_video.evaluation import captions as caption_evaluation
from audio_from_video.evaluation.captions import StepCaptions
from audio_from_video.meaning.attention import CaptionReader
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.worker import Failure, require_result
from audio_from_video.storage import accounting, fit_on, item_store, layout, shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.row_file import scratch

# Of captions, of the labels heard and of trained weights; raise it when one of them changes for
# the same input.  2: some clips together, whose last bits differ from those of each alone.
CODE_VERSION = 2
# Of captions, and of the fine-tuned weights that make them (their reward reads text and sound).
LIBRARIES = (
    "numpy",
    "opencv-contrib-python-headless",
    "sentence-transformers",
    "soundfile",
    "torch",
    "transformers",
)
# How rewards and metrics map captions to labels.  Fixed, so that another `mapping` needs no new
# captions.
TOP_K = 3
TEMPERATURE = 0.05

CAPTIONS = pa.schema(
    [
        ("steps", pa.list_(pa.int32())),
        ("captions", pa.list_(pa.string())),
    ]
)
LABELS = pa.list_(pa.list_(pa.int32()))
HEARD = pa.schema([*CAPTIONS, ("labels", LABELS)])


@dataclass(frozen=True)
class Hearing:
    """How the sound around a frame is heard.

    model: that scores the labels.  window_s: length of the sound.  score: from which on a label
    counts as audible.
    """

    model: str
    window_s: float
    score: float


def main(stage: stage_run.StageRun) -> None:
    parallel.preload("stages.captions", hub.PRELOADED)
    p = params.load("captions", CaptionsParams)
    captioners.require_tunable(p.captioner, p.finetune)
    model = params.read("audio_features", "model", str)
    label_model = params.read("audio_features", "label_model", str)
    hearing = Hearing(
        model=label_model or model,
        window_s=params.read("audio_features", "window_s", float),
        score=label_cut(p.tag_score),
    )
    reader = caption_reader(hearing)
    version = item_version(p)
    clips = selected_clips()
    fold_count = params.read("generator", "folds", int)
    fold_of = folds_by_clip(fold_count)
    # Without fine-tuning both stay empty, and every clip gets the published weights.
    tuning_clips: list[TuningClip] = []
    tuned: dict[int, dict[str, Any]] = {}
    with scratch() as files:
        if p.finetune != "off":
            tuning_clips = listen(stage, p, hearing, clips, version)
            jobs = fine_tunings(p, tuning_clips, fold_of, fold_count, reader)
            tuned = fine_tuned(stage, jobs, tuning_clips, version, files)
        weights = {fold: store_weights(row["weights"], files) for fold, row in tuned.items()}
        weights_of = {
            clip["clip_id"]: weights.get(fold_of[clip["clip_id"]], PUBLISHED_WEIGHTS)
            for clip in clips
        }
        index = write_captions(stage, p, clips, weights_of, version)
        save_model(p, weights.get(WHOLE, PUBLISHED_WEIGHTS))
    figures = written_figures(p, tuning_clips, reader)
    for sentence in caption_evaluation.caption_warnings(figures["captions_tell_actions_apart"]):
        print(f"captions: warning: {sentence}", file=sys.stderr)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "finetune": p.finetune,
            **figures,
            **tuning_figures(p, list(tuned.values())),
        }
    )


def caption_reader(hearing: Hearing) -> CaptionReader:
    """Return how rewards and metrics map captions to the labels of the audio model."""
    return CaptionReader(
        text_model=params.read("label_audio", "model", str),
        names=label_names_of(hearing.model),
        top_k=TOP_K,
        temperature=TEMPERATURE,
    )


def item_version(p: CaptionsParams) -> str:
    """Return the version of captions, of what is heard and of fine-tuned weights.

    The revision has the model's kind: its config is one of the files.
    """
    asked = [p.prompt] if p.prompt else []
    return item_store.version(
        "captions",
        CODE_VERSION,
        hub.revision(p.model),
        p.beams,
        p.max_tokens,
        *asked,
        libraries=LIBRARIES,
    )


def selected_clips() -> list[dict]:
    """Return the clips with representative frames, and the frames' `steps`."""
    source = layout.REPRESENTATIVE_FRAMES
    steps = {row["clip_id"]: row["steps"] for row in shards.iter_rows(source, ["steps"])}
    return [clip | {"steps": steps[clip["clip_id"]]} for clip in shards.inputs(source)]


def folds_by_clip(fold_count: int) -> dict[str, int]:
    """Return each clip's fold by clip_id; -1 for validation and test clips."""
    table = pd.DataFrame(shards.ok_rows(layout.FRAMES))
    fold = folds.of_clips(table, fold_count, fit_on.fitted(table.clip_id)).tolist()
    return dict(zip(table.clip_id, fold, strict=True))


def listen(
    stage: stage_run.StageRun, p: CaptionsParams, hearing: Hearing, clips: list[dict], version: str
) -> list[TuningClip]:
    """Return what is learned from: audible training, unlabelled and validation clips to fit on.

    Each has some of its representative steps, their captions by the published model, and the
    labels that AST hears around them.  They are stored items; clips whose worker failed are left
    out.
    """
    # What the labels depend on beside the frames, the sound and the published captioner.
    knobs = (
        hub.revision(hearing.model),
        hearing.window_s,
        p.finetune_frames,
        p.tags,
        hearing.score,
    )
    # Test clips and later clips are not heard: nothing is learned from them.
    fitted = fit_on.fitted(clip["clip_id"] for clip in clips)
    to_fit_on = [clip for clip, is_fitted in zip(clips, fitted, strict=True) if is_fitted]
    sound_keys = {
        row["clip_id"]: row["item_key"]
        for row in shards.ok_rows(layout.AUDIO)
        if row["split"] != "test"
    }
    audible = [
        clip
        | {
            "input_key": digest(clip["input_key"], sound_keys[clip["clip_id"]], *knobs),
            "steps": spread_steps(clip["steps"], p.finetune_frames),
        }
        for clip in to_fit_on
        if clip["clip_id"] in sound_keys
    ]
    setup = Setup(p.captioner, p.frames_per_batch, stage.workers, hearing.model)

    def compute(missing: Iterator[Task]) -> Iterator[dict | Failure]:
        for row in caption_workers.results(caption_workers.describe, missing, setup):
            if not isinstance(row, Failure):
                row["labels"] = [
                    best_labels(scores, p.tags, hearing.score) for scores in row["scores"]
                ]
            yield row

    with ClipItems("captions_heard", version, HEARD) as items:
        to_hear = items.missing(audible)
        missing = [clip for clip in audible if clip["clip_id"] in to_hear]
        items.fill(stage, audible, listening_tasks(missing, hearing.window_s), compute)
        rows = [(clip, items.row(clip)) for clip in audible]
    return [
        TuningClip(
            clip_id=clip["clip_id"],
            split=clip["split"],
            input_key=clip["input_key"],
            steps=row["steps"],
            captions=row["captions"],
            labels=row["labels"],
        )
        for clip, row in rows
        if row["status"] == "ok"
    ]


def listening_tasks(clips: list[dict], window_s: float) -> Iterator[tuple[str, Task]]:
    """Yield (clip_id, task): the frames of a clip's `steps`, and its sound around them."""
    steps_of = {clip["clip_id"]: clip["steps"] for clip in clips}
    sound_rows = shards.iter_rows(layout.AUDIO, ["flac"], clip_ids=set(steps_of))
    flacs = ((row["clip_id"], row["flac"]) for row in sound_rows)
    names = (str(layout.REPRESENTATIVE_FRAMES), str(layout.FRAMES), str(layout.AUDIO))
    streams = (steps_of.items(), iter_frames(steps_of), flacs)
    for clip_id, (steps, (jpegs, times_s), flac) in aligned(names, streams):
        yield clip_id, Task(steps, jpegs, sound=SoundWindows(flac, times_s, window_s))


def best_labels(scores: np.ndarray, tags: int, least: float) -> list[int]:
    """Return at most `tags` labels of scores [L], highest first, that reach a score."""
    ranking = np.argsort(-scores, kind="stable")[:tags].tolist()
    return [label for label in ranking if scores[label] >= least]


def write_captions(
    stage: stage_run.StageRun,
    p: CaptionsParams,
    clips: list[dict],
    weights_of: dict[str, str],
    version: str,
) -> list[dict]:
    """Caption each clip's `steps` with its weights, write data/captions and return its index.

    weights_of: file of the decoder's weights by clip_id; its name is the weights' digest, so that
    an item's key names what made it.
    """
    keyed = [
        clip | {"input_key": digest(clip["input_key"], Path(weights_of[clip["clip_id"]]).name)}
        for clip in clips
    ]
    setup = Setup(p.captioner, p.frames_per_batch, stage.workers)

    def compute(missing: Iterator[Task]) -> Iterator[dict | Failure]:
        return caption_workers.results(caption_workers.describe, missing, setup)

    with ClipItems("captions", version, CAPTIONS) as items:
        to_caption = items.missing(keyed)
        steps_of = {
            clip["clip_id"]: clip["steps"] for clip in clips if clip["clip_id"] in to_caption
        }
        names = (str(layout.REPRESENTATIVE_FRAMES), str(layout.FRAMES))
        streams = (steps_of.items(), iter_frames(steps_of))
        tasks = (
            (clip_id, Task(steps, jpegs, weights_of[clip_id]))
            for clip_id, (steps, (jpegs, _)) in aligned(names, streams)
        )
        items.fill(stage, keyed, tasks, compute)
        return items.pack(layout.CAPTIONS, keyed)


def written_figures(
    p: CaptionsParams, tuning_clips: list[TuningClip], reader: CaptionReader
) -> dict[str, Any]:
    """Return the figures of data/captions beside those of the published model's captions."""
    clips = shards.ok_rows(layout.CAPTIONS)
    captions = caption_evaluation.captions_by_clip(layout.CAPTIONS)
    naming = caption_evaluation.caption_figures(
        clips,
        captions,
        original_captions(tuning_clips, captions, p.finetune_frames),
        caption_evaluation.audible_labels(label_cut(p.tag_score)),
        reader,
    )
    apart = caption_evaluation.captions_tell_actions_apart(clips, captions, reader.text_model)
    return {**naming, "captions_tell_actions_apart": apart}


def original_captions(
    tuning_clips: list[TuningClip], captions: dict[str, StepCaptions], count: int
) -> dict[str, StepCaptions]:
    """Return captions of the published model by clip_id, for at most `count` frames a clip.

    They are those that were learned from; where nothing was fine-tuned, some of the `captions`.
    """
    if tuning_clips:
        return {
            clip.clip_id: dict(zip(clip.steps, clip.captions, strict=True)) for clip in tuning_clips
        }
    return {
        clip_id: {step: by_step[step] for step in spread_steps(list(by_step), count)}
        for clip_id, by_step in captions.items()
    }


def tuning_figures(p: CaptionsParams, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means over fine-tunings: epochs and, by reward, the reward before and after."""
    figures: dict[str, Any] = {}
    if rows:
        figures["epochs"] = float(np.mean([row["epochs"] for row in rows]))
    if p.finetune == "self_critical":
        rewards = [row["reward"] for row in rows]
        before, after = np.mean(rewards, axis=0).tolist()
        figures["reward"] = {"before": before, "after": after}
    return figures


def store_weights(weights: bytes, folder: Path) -> str:
    """Write weights to a file whose name is their digest, and return its path."""
    path = folder / hashlib.blake2b(weights, digest_size=16).hexdigest()
    path.write_bytes(weights)
    return str(path)


def save_model(p: CaptionsParams, weights: str) -> None:
    """Write models/captions, which appears at once.

    A worker does so, as this process has not imported transformers.  Raises UserError when it
    fails.
    """
    with atomic.replace_directory(layout.CAPTION_MODEL) as temporary:
        task = (p.captioner, temporary.absolute(), weights)
        for result in parallel.map_items(save_captioner, [task], 1):
            require_result(result, "saving the captioner")


def save_captioner(task: tuple[CaptionerSettings, Path, str]) -> None:
    """Write the directory of a captioner with these weights (runs in a worker)."""
    settings, folder, weights = task
    captioners.load(settings, "cpu").save(folder, weights)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "captions")
