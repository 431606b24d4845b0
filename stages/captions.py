"""Caption the representative frames with BLIP, fine-tuned so that captions also name sounds.

Reads    data/representative_frames, data/frames; to fine-tune and to measure data/audio, data/audio_features and, with
         `self_critical`, data/label_audio
Writes   data/captions, a row per clip:
             steps      list<int32>    the representative frames' indices, ascending
             captions   list<string>   one each, in lower case
         models/captions: a Hugging Face directory of BLIP, fine-tuned on all training clips (as it is with `off`)
`finetune` (how: common/caption_trainings.py, common/caption_tuning.py):
    off            captions of the model as it is
    tags           it learns its own captions of some frames of audible training clips, labelled or not, and, when prompted,
                   the same together with the labels that AST hears around the frame's time
    self_critical  after `tags`, by reward: how well the audio of the labels that a caption is mapped to meets the real one
                   (the labels' audio stands in for the generator, which comes later and itself depends on the captions)
Cross-fitting: a training clip's captions come from a model that has not met its source (generator.folds); validation and
test clips get those of the model fitted on all training clips.  An item's key names the weights that made it.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from audio_from_video.backbones import hub
from audio_from_video.backbones.blip import PUBLISHED_WEIGHTS, Captioner
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.jobs import (
    FRAMES,
    TOP_K,
    WHOLE,
    TuningParams,
    frames_of,
    some,
    train_all,
    trainings,
)
from audio_from_video.captioning.workers import Task
from audio_from_video.clipset import folds
from audio_from_video.evaluation.captions import measure
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.row_file import scratch

CODE_VERSION = 1  # of captions, of what is heard and of trained weights; raise it when one of them changes for the same input
# Of captions, and of the fine-tuned weights that make them (their reward reads text and sound).
LIBRARIES = (
    "numpy",
    "opencv-contrib-python-headless",
    "sentence-transformers",
    "soundfile",
    "torch",
    "transformers",
)
SELECTED, SOUND, OUTPUT = (
    layout.REPRESENTATIVE_FRAMES,
    layout.AUDIO,
    layout.CAPTIONS,
)
CAPTIONS = pa.schema([("steps", pa.list_(pa.int32())), ("captions", pa.list_(pa.string()))])
HEARD = pa.schema([*CAPTIONS, ("labels", pa.list_(pa.list_(pa.int32())))])


class CaptionsParams(TuningParams):
    finetune_frames: int = Field(ge=1, le=1000)
    tags: int = Field(ge=1, le=527)
    tag_score: float = Field(gt=0, lt=1)


@dataclass(frozen=True)
class Hearing:
    """How the sound around a frame is heard: the AST model and the length of the window in s."""

    model: str
    window_s: float


def listen(
    stage: stage_run.StageRun, p: CaptionsParams, hearing: Hearing, clips: list[dict], version: str
) -> list[dict]:
    """What can be learned from: of audible training, unlabelled and validation clips some representative steps, their captions
    by the model as it is, and the labels that AST hears around them, highest score first."""
    knobs = (
        hub.revision(hearing.model),
        hearing.window_s,
        p.finetune_frames,
        p.tags,
        p.tag_score,
    )
    sounds = {
        row["clip_id"]: row["item_key"] for row in shards.ok_rows(SOUND) if row["split"] != "test"
    }
    audible = [
        clip
        | {
            "input_key": digest(clip["input_key"], sounds[clip["clip_id"]], *knobs),
            "steps": some(clip["steps"], p.finetune_frames),
        }
        for clip in clips
        if clip["clip_id"] in sounds
    ]
    wanted = {clip["clip_id"]: clip["steps"] for clip in audible}

    def tasks() -> Iterator[tuple[str, Task]]:
        sound_rows = shards.iter_rows(SOUND, ["flac"])
        flacs = ((row["clip_id"], row["flac"]) for row in sound_rows if row["clip_id"] in wanted)
        names = (str(SELECTED), str(FRAMES), str(SOUND))
        streams = (wanted.items(), frames_of(wanted), flacs)
        for clip_id, (steps, (jpegs, times_s), flac) in aligned(names, streams):
            yield clip_id, Task(steps, jpegs, sound=(flac, times_s, hearing.window_s))

    def compute(todo: Iterator[Task]) -> Iterator[dict | Failure]:
        for row in caption_workers.answers(
            caption_workers.describe, todo, p.blip, p.frames_per_batch, stage.workers, hearing.model
        ):
            if not isinstance(row, Failure):
                ranked = (
                    (scores, np.argsort(-scores, kind="stable")[: p.tags].tolist())
                    for scores in row["scores"]
                )
                row["labels"] = [
                    [label for label in best if scores[label] >= p.tag_score]
                    for scores, best in ranked
                ]
            yield row

    with ClipItems("captions_heard", version, HEARD) as items:
        items.fill(stage, audible, tasks(), compute)
        return [found for clip in audible if (found := clip | items.row(clip))["status"] == "ok"]


def main(stage: stage_run.StageRun) -> None:
    p = params.load("captions", CaptionsParams)
    hearing = Hearing(
        model=params.read("audio_features", "model", str),
        window_s=params.read("audio_features", "window_s", float),
    )
    reader = params.read("label_audio", "model", str)
    count = params.read("generator", "folds", int)
    names = hub.labels_of(hearing.model)
    steps = {row["clip_id"]: row["steps"] for row in shards.iter_rows(SELECTED, ["steps"])}
    clips = [clip | {"steps": steps[clip["clip_id"]]} for clip in shards.inputs(SELECTED)]
    table = pd.DataFrame(shards.ok_rows(FRAMES))
    fold = dict(zip(table.clip_id, folds.of_clips(table, count).tolist(), strict=True))
    version = item_store.version(
        "captions",
        CODE_VERSION,
        hub.revision(p.model),
        p.beams,
        p.max_tokens,
        libraries=LIBRARIES,
    )
    heard: list[dict] = []
    tuned: dict[int, dict] = {}
    with scratch() as files, ClipItems("captions", version, CAPTIONS) as items:
        if p.finetune != "off":
            heard = listen(stage, p, hearing, clips, version)
            tuned = train_all(
                stage, p, heard, trainings(p, heard, fold, count, names, reader), version, files
            )
        weights = {number: store_weights(row["weights"], files) for number, row in tuned.items()}
        used = {clip["clip_id"]: weights.get(fold[clip["clip_id"]], PUBLISHED_WEIGHTS) for clip in clips}
        keyed = [
            clip | {"input_key": digest(clip["input_key"], Path(used[clip["clip_id"]]).name)}
            for clip in clips
        ]
        streams = (steps.items(), frames_of(steps))
        tasks = (
            (clip_id, Task(chosen, jpegs, used[clip_id]))
            for clip_id, (chosen, (jpegs, _)) in aligned((str(SELECTED), str(FRAMES)), streams)
        )
        items.fill(
            stage,
            keyed,
            tasks,
            lambda todo: caption_workers.answers(
                caption_workers.describe, todo, p.blip, p.frames_per_batch, stage.workers
            ),
        )
        index = items.pack(OUTPUT, keyed)
        save_model(p, weights.get(WHOLE, PUBLISHED_WEIGHTS))
    measured = measure(
        OUTPUT,
        heard,
        lambda steps: some(steps, p.finetune_frames),
        p.tag_score,
        names,
        reader,
        TOP_K,
    )
    metrics = {"clips": accounting.status_counts(index), "finetune": p.finetune, **measured}
    if tuned:
        metrics["epochs"] = float(np.mean([row["epochs"] for row in tuned.values()]))
    if p.finetune == "self_critical":
        metrics["reward"] = dict(
            zip(
                ("before", "after"),
                np.mean([row["reward"] for row in tuned.values()], axis=0).tolist(),
                strict=True,
            )
        )
    stage.write_metrics(metrics)


def store_weights(weights: bytes, folder: Path) -> str:
    """A file of these weights, whose name is their digest."""
    path = folder / hashlib.blake2b(weights, digest_size=16).hexdigest()
    path.write_bytes(weights)
    return str(path)


def save_model(p: CaptionsParams, weights: str) -> None:
    """models/captions, which appears at once."""
    folder, temporary = layout.CAPTION_MODEL, Path("models/.captions.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    Captioner(p.captioner).save(temporary, weights)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "captions")
