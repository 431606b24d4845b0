"""The fine-tunings of a captioner: one per fold that is left out, as stored items.

Cross-fitting needs a decoder for each fold that has not met the fold's sources, and one that
learned from all training clips.  A fine-tuning's weights are an item whose key names all that it
learned from.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.numpy import load_file

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.tuned_weights import dump_weights
from audio_from_video.captioning import fine_tuning
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.fine_tuning import Example, Material
from audio_from_video.captioning.reward import Reward
from audio_from_video.captioning.settings import TuningParams
from audio_from_video.captioning.workers import Setup, Task
from audio_from_video.clipset.folds import WHOLE
from audio_from_video.meaning import label_words
from audio_from_video.meaning.attention import CaptionReader
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure, require_result, work_failed
from audio_from_video.storage import layout, shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.row_file import RowFile

WEIGHTS = pa.schema(
    [
        ("weights", pa.binary()),
        ("epochs", pa.int32()),
        ("reward", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class TuningClip:
    """An audible clip to learn from: some of its frames, with original captions and labels.

    labels: of each frame the indices of the labels that AST hears around it, highest score first.
    """

    clip_id: str
    split: str
    input_key: str
    steps: list[int]
    captions: list[str]
    labels: list[list[int]]


def spread_steps(steps: list[int], count: int) -> list[int]:
    """Return at most `count` of the steps, evenly spread."""
    centres = (np.arange(count) + 0.5) * len(steps) / count
    positions = np.unique(np.floor(centres).astype(int))
    return [steps[i] for i in positions]


def iter_frames(
    wanted: dict[str, list[int]],
) -> Iterator[tuple[str, tuple[list[bytes], np.ndarray]]]:
    """Yield (clip_id, (JPEGs, times in s)) of the wanted steps of each clip, in shard order."""
    for row in shards.iter_rows(layout.FRAMES, ["jpegs", "times_s"], clip_ids=set(wanted)):
        steps = wanted[row["clip_id"]]
        jpegs = [row["jpegs"][step] for step in steps]
        yield row["clip_id"], (jpegs, row["times_s"][steps])


@dataclass
class FineTuning:
    """One fine-tuning: frames to learn from and to stop by, and with `self_critical` its reward."""

    p: TuningParams
    input_keys: list[str]  # of the clips that the examples come from
    learned: list[Example]
    held_out: list[Example]
    # Real audio features [rows, A] around every example's frame, centred.
    sound: np.ndarray | None = None
    reward: Reward | None = None

    def key(self) -> str:
        """Return the digest of all that the weights depend on beside the version."""
        parts: list = [self.p.training.model_dump(), self.input_keys, self.learned, self.held_out]
        if self.reward and self.sound is not None:
            for array in (self.reward.labels, self.reward.label_audio, self.sound):
                parts.append(hashlib.blake2b(array.tobytes()).hexdigest())
            parts += [
                self.reward.reader.top_k,
                self.reward.reader.temperature,
                self.p.self_critical_steps,
                self.p.self_critical_learning_rate,
            ]
        return digest(*parts)

    def rewards(self, captions: list[str], rows: list[int]) -> np.ndarray:
        """Return the rewards [n] of captions of the frames in these rows."""
        if self.reward is None or self.sound is None:
            raise ValueError("this fine-tuning has no reward")
        return self.reward(captions, self.sound[rows])


def tune(task: tuple[FineTuning, RowFile]) -> dict:
    """Return the row of a fine-tuning: weights, epochs and reward (runs in a worker)."""
    job, outputs = task
    p = job.p
    torch.manual_seed(0)  # of dropout, and of the captions that the reward samples
    captioner = captioners.load_tunable(p.captioner)
    material = Material(outputs, job.learned, job.held_out)
    decoder, curve = fine_tuning.fine_tune(captioner, material, p.training)
    rewards: list[float] = []
    if job.reward:
        slower = p.training.model_copy(update={"learning_rate": p.self_critical_learning_rate})
        rewards = fine_tuning.self_critical(
            captioner, decoder, material, job.rewards, p.self_critical_steps, slower
        )
    return {
        "weights": dump_weights(decoder),
        "epochs": len(curve),
        "reward": rewards,
        "status": "ok",
        "reason": "",
    }


def fine_tunings(
    p: TuningParams,
    clips: list[TuningClip],
    fold_of: dict[str, int],
    fold_count: int,
    reader: CaptionReader,
) -> dict[int, FineTuning]:
    """Return the fine-tunings by the fold that each leaves out, WHOLE for none.

    fold_of: by clip_id.  reader: names the labels, and maps captions to them in rewards.
    Raises UserError when there is nothing to learn from or to stop by.
    """
    # One list of examples for all fine-tunings: they share the file of picture outputs.
    owners, examples = _examples(clips, reader.names)
    held_out = [i for i, clip in enumerate(owners) if clip.split == "validation"]
    jobs: dict[int, FineTuning] = {}
    for fold in (WHOLE, *range(fold_count)):
        learned = [
            i
            for i, clip in enumerate(owners)
            if clip.split != "validation" and fold_of[clip.clip_id] != fold
        ]
        if not learned or not held_out:
            raise UserError(
                f"captions.finetune: {p.finetune} needs audible validation clips and audible "
                "training clips of several sources; metrics/audio.json says what became of the "
                "sound; `off` needs none"
            )
        jobs[fold] = FineTuning(
            p,
            input_keys=[owners[i].input_key for i in (*learned, *held_out)],
            learned=[examples[i] for i in learned],
            held_out=[examples[i] for i in held_out],
        )
    if p.finetune == "self_critical":
        return _with_rewards(jobs, clips, reader)
    return jobs


def _examples(clips: list[TuningClip], names: list[str]) -> tuple[list[TuningClip], list[Example]]:
    """Return an example per frame of all clips, and the clip that it belongs to.

    An example's row is its place among all of them: the file of picture outputs has their order.
    """
    owners: list[TuningClip] = []
    examples: list[Example] = []
    for clip in clips:
        for caption, labels in zip(clip.captions, clip.labels, strict=True):
            tagged = label_words.tagged(caption, [names[label] for label in labels])
            examples.append(Example(len(examples), caption, tagged))
            owners.append(clip)
    return owners, examples


def _with_rewards(
    jobs: dict[int, FineTuning], clips: list[TuningClip], reader: CaptionReader
) -> dict[int, FineTuning]:
    """Return the fine-tunings with their rewards.

    A reward has label audio that was made without the fine-tuning's fold, and real audio relative
    to the mean of what it learns from.  Raises UserError when there is no label audio.
    """
    path = layout.LABEL_AUDIO_FEATURES
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dvc repro` so that the stage label_audio writes it"
        )
    label_audio = load_file(path)
    around_frames, of_clips = _real_audio(clips)
    rewarded: dict[int, FineTuning] = {}
    for fold, job in jobs.items():
        # Label audio is relative to the mean sound of the same clips: the cosine of the two would
        # mostly measure that mean otherwise.
        mean = of_clips[[example.row for example in job.learned]].mean(0)
        audio = label_audio["whole"] if fold == WHOLE else label_audio["folds"][fold]
        reward = Reward(reader, audio)
        rewarded[fold] = replace(job, sound=around_frames - mean, reward=reward)
    return rewarded


def _real_audio(clips: list[TuningClip]) -> tuple[np.ndarray, np.ndarray]:
    """Return audio features [rows, A] float32 around each example's frame, and of its whole clip.

    Around a frame means over its time step and the two beside it.
    """
    features = {
        row["clip_id"]: row["features"].astype(np.float32)
        for row in shards.iter_rows(layout.AUDIO_FEATURES, ["features"])
    }
    around_frames: list[np.ndarray] = []
    of_clips: list[np.ndarray] = []
    for clip in clips:
        audio = features[clip.clip_id]  # [T, A]
        clip_mean = audio.mean(0)
        for step in clip.steps:
            around_frames.append(audio[max(0, step - 1) : step + 2].mean(0))
            of_clips.append(clip_mean)
    return np.stack(around_frames), np.stack(of_clips)


def fine_tuned(
    stage: stage_run.StageRun,
    jobs: dict[int, FineTuning],
    clips: list[TuningClip],
    version: str,
    folder: Path,
) -> dict[int, dict[str, Any]]:
    """Return the stored row of each fine-tuning: weights, epochs, reward; compute missing ones.

    folder: for the file of picture outputs.  Raises UserError when a worker fails.
    """
    p = jobs[WHOLE].p
    keys = [{"clip_id": f"fold {fold}", "input_key": job.key()} for fold, job in jobs.items()]
    payloads = ((f"fold {fold}", job) for fold, job in jobs.items())

    def compute(missing: Iterator[FineTuning]) -> Iterator[dict | Failure]:
        to_train = list(missing)
        if not to_train:
            return
        outputs = store_outputs(stage, p, clips, folder / "outputs")
        tasks = [(job, outputs) for job in to_train]
        if hub.device() == "cpu":
            yield from parallel.map_items(tune, tasks, stage.workers)
        else:
            yield from map(tune, tasks)  # one after the other: they share the device

    with ClipItems("captions_weights", version, WEIGHTS) as items:
        items.fill(stage, keys, payloads, compute)
        rows = {fold: items.row(key) for fold, key in zip(jobs, keys, strict=True)}
    for row in rows.values():
        if row["status"] != "ok":
            raise work_failed("fine-tuning the captioner", row["reason"])
    return rows


def store_outputs(
    stage: stage_run.StageRun, p: TuningParams, clips: list[TuningClip], path: Path
) -> RowFile:
    """Write the picture outputs [P, D] of all examples' frames to a file, a row each.

    The picture encoder is frozen, so that a frame passes through it once.  Raises UserError when
    a worker fails.
    """
    steps_of = {clip.clip_id: clip.steps for clip in clips}
    names = ("the clips to learn from", str(layout.FRAMES))
    streams = (steps_of.items(), iter_frames(steps_of))
    tasks = (Task(steps, jpegs) for _, (steps, (jpegs, _)) in aligned(names, streams))
    setup = Setup(p.captioner, p.frames_per_batch, stage.workers)

    def frames() -> Iterator[np.ndarray]:
        results = caption_workers.results(caption_workers.encode_to_store, tasks, setup)
        for outputs in stage.timed("encoding_s", results):
            yield from require_result(outputs, "encoding frames for the fine-tuning of captions")

    # The file needs the shape of a row before the first one is written.
    rows = frames()
    first = next(rows)
    return RowFile(path, first.shape).write(chain([first], rows))
