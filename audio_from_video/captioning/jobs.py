"""The fine-tunings of BLIP: one for each fold that it leaves out, what each learns from, and their weights as stored items."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.numpy import load_file

from audio_from_video.backbones import blip, hub
from audio_from_video.backbones.blip import Captioner, CaptionerSettings
from audio_from_video.captioning import fine_tuning
from audio_from_video.captioning import workers as caption_workers
from audio_from_video.captioning.fine_tuning import Example
from audio_from_video.captioning.reward import Reward
from audio_from_video.captioning.workers import Task
from audio_from_video.learning.loop import TrainingParams
from audio_from_video.meaning import label_words
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout, shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.row_file import RowFile

FRAMES, AUDIO, LABEL_AUDIO = (
    layout.FRAMES,
    layout.AUDIO_FEATURES,
    layout.LABEL_AUDIO_FEATURES,
)
WHOLE = -1  # instead of a fold: the model fitted on all training clips
TOP_K, TEMPERATURE = (
    3,
    0.05,
)  # of the mapping in rewards and metrics: fixed, so that another `mapping` needs no new captions
WEIGHTS = pa.schema(
    [("weights", pa.binary()), ("epochs", pa.int32()), ("reward", pa.list_(pa.float64()))]
)


class TuningParams(params.Section):
    model: str
    beams: int = Field(ge=1, le=32)
    max_tokens: int = Field(ge=1, le=512)
    frames_per_batch: int = Field(ge=1, le=65536)
    finetune: Literal["off", "tags", "self_critical"]
    training: TrainingParams
    self_critical_steps: int = Field(ge=1)
    self_critical_learning_rate: float = Field(gt=0, le=1)

    @property
    def captioner(self) -> CaptionerSettings:
        return CaptionerSettings(self.model, self.beams, self.max_tokens)


def some(steps: list[int], count: int) -> list[int]:
    """At most `count` of the steps, evenly spread."""
    chosen = np.unique(np.floor((np.arange(count) + 0.5) * len(steps) / count).astype(int))
    return [steps[i] for i in chosen]


def frames_of(
    wanted: dict[str, list[int]],
) -> Iterator[tuple[str, tuple[list[bytes], np.ndarray]]]:
    """Yield (clip_id, (JPEGs, times in s)) of the wanted steps of each clip, in the shards' order."""
    for row in shards.iter_rows(FRAMES, ["jpegs", "times_s"]):
        steps = wanted.get(row["clip_id"])
        if steps is not None:
            jpegs = [row["jpegs"][step] for step in steps]
            yield row["clip_id"], (jpegs, row["times_s"][steps])


@dataclass
class Training:
    """One fine-tuning: frames to learn from and to stop by and, with `self_critical`, what the reward is made of."""

    p: TuningParams
    pictures: list[str]  # keys of what the examples were made from
    learned: list[Example]
    held_out: list[Example]
    sound: np.ndarray | None = (
        None  # real audio features around every example's frame, centred [rows, A]
    )
    reward: Reward | None = None

    def key(self) -> str:
        """Digest of all that the weights depend on beside the version."""
        parts: list = [self.p.training.model_dump(), self.pictures, self.learned, self.held_out]
        if self.reward and self.sound is not None:
            parts += [
                hashlib.blake2b(array.tobytes()).hexdigest()
                for array in (self.reward.labels, self.reward.label_audio, self.sound)
            ]
            parts += [
                self.reward.top_k,
                self.reward.temperature,
                self.p.self_critical_steps,
                self.p.self_critical_learning_rate,
            ]
        return digest(*parts)

    def rewards(self, captions: list[str], rows: list[int]) -> np.ndarray:
        """[n] of captions of the frames in these rows."""
        if self.reward is None or self.sound is None:
            raise ValueError("this fine-tuning has no reward")
        return self.reward(captions, self.sound[rows])


def train(task: tuple[Training, RowFile]) -> dict:
    """Fine-tune the decoder (runs in a worker)."""
    job, outputs = task
    p = job.p
    rewards: list[float] = []
    torch.manual_seed(0)
    captioner = Captioner(p.captioner)
    decoder, curve = fine_tuning.fine_tune(
        captioner, outputs, job.learned, job.held_out, p.training
    )
    if job.reward:
        slower = p.training.model_copy(update={"learning_rate": p.self_critical_learning_rate})
        rewards = fine_tuning.self_critical(
            captioner,
            decoder,
            outputs,
            job.learned,
            job.held_out,
            job.rewards,
            p.self_critical_steps,
            slower,
        )
    return {
        "weights": blip.dump_weights(decoder),
        "epochs": len(curve),
        "reward": rewards,
        "status": "ok",
        "reason": "",
    }


def trainings(
    p: TuningParams,
    heard: list[dict],
    fold: dict[str, int],
    count: int,
    names: list[str],
    reader: str,
) -> dict[int, Training]:
    """Each fine-tuning by the fold of `count` that it leaves out.  names: of the labels heard; reader: the text model of rewards."""
    owners = [clip for clip in heard for _ in clip["steps"]]
    texts = [pair for clip in heard for pair in zip(clip["captions"], clip["labels"], strict=True)]
    examples = [
        Example(i, text, label_words.tagged(text, [names[label] for label in labels]))
        for i, (text, labels) in enumerate(texts)
    ]
    held_out = [i for i, clip in enumerate(owners) if clip["split"] == "validation"]
    found = {}
    for number in (WHOLE, *range(count)):
        learned = [
            i
            for i, clip in enumerate(owners)
            if clip["split"] != "validation" and fold[clip["clip_id"]] != number
        ]
        if not learned or not held_out:
            raise UserError(
                f"captions.finetune: {p.finetune} needs audible validation clips and audible training clips of several sources; "
                "metrics/audio.json says what became of the sound; `off` needs none"
            )
        keys = [owners[i]["input_key"] for i in (*learned, *held_out)]
        found[number] = Training(
            p, keys, [examples[i] for i in learned], [examples[i] for i in held_out]
        )
    return rewarded(found, heard, names, reader) if p.finetune == "self_critical" else found


def rewarded(
    jobs: dict[int, Training], heard: list[dict], names: list[str], reader: str
) -> dict[int, Training]:
    """The fine-tunings with label audio that was made without their fold, and real audio relative to what they learn from."""
    if not LABEL_AUDIO.is_file():
        raise UserError(
            f"{LABEL_AUDIO} is missing: run `dvc repro` so that the stage label_audio writes it"
        )
    label_audio = load_file(LABEL_AUDIO)
    features = {
        row["clip_id"]: row["features"].astype(np.float32)
        for row in shards.iter_rows(AUDIO, ["features"])
    }
    around = np.stack(
        [
            features[clip["clip_id"]][max(0, step - 1) : step + 2].mean(0)
            for clip in heard
            for step in clip["steps"]
        ]
    )
    whole = np.stack([features[clip["clip_id"]].mean(0) for clip in heard for _ in clip["steps"]])
    found = {}
    for number, job in jobs.items():
        mean = whole[[example.row for example in job.learned]].mean(0)
        audio = label_audio["whole"] if number == WHOLE else label_audio["folds"][number]
        reward = Reward(reader, names, audio, TOP_K, TEMPERATURE)
        found[number] = replace(job, sound=around - mean, reward=reward)
    return found


def train_all(
    stage: stage_run.StageRun,
    p: TuningParams,
    heard: list[dict],
    jobs: dict[int, Training],
    version: str,
    files: Path,
) -> dict[int, dict]:
    """The item of each fine-tuning (weights, epochs, reward)."""
    keys = [{"clip_id": f"fold {number}", "input_key": job.key()} for number, job in jobs.items()]
    trainings = ((f"fold {number}", job) for number, job in jobs.items())

    def compute(todo: Iterator[Training]) -> Iterator[dict | Failure]:
        if missing := list(todo):
            outputs = store_outputs(stage, p, heard, files / "outputs")
            tasks = [(job, outputs) for job in missing]
            yield from (
                parallel.map_items(train, tasks, stage.workers)
                if hub.device() == "cpu"
                else map(train, tasks)
            )

    with ClipItems("captions_weights", version, WEIGHTS) as items:
        items.fill(stage, keys, trainings, compute)
        rows = [items.row(key) for key in keys]
    if failed := [row for row in rows if row["status"] != "ok"]:
        raise UserError(
            f"fine-tuning BLIP failed: {failed[0]['reason']}; the machine may lack memory, try --workers 1"
        )
    return dict(zip(jobs, rows, strict=True))


def store_outputs(
    stage: stage_run.StageRun, p: TuningParams, heard: list[dict], path: Path
) -> RowFile:
    """Picture outputs of all examples' frames in a file: their encoder is frozen, so a frame passes through it once."""
    wanted = {clip["clip_id"]: clip["steps"] for clip in heard}
    names = ("the clips to learn from", str(FRAMES))
    streams = (wanted.items(), frames_of(wanted))
    tasks = (Task(steps, jpegs) for _, (steps, (jpegs, _)) in aligned(names, streams))

    def encoded() -> Iterator[np.ndarray]:
        found = caption_workers.answers(
            caption_workers.encode_to_store, tasks, p.blip, p.frames_per_batch, stage.workers
        )
        for outputs in stage.timed("encoding_s", found):
            if isinstance(outputs, Failure):
                raise UserError(
                    f"encoding frames for the fine-tuning of BLIP failed: {outputs.reason}; try --workers 1"
                )
            yield from outputs

    frames = encoded()
    first = next(frames)
    return RowFile(path, first.shape).write(chain([first], frames))
