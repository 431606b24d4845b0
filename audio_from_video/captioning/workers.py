"""BLIP (Li et al. 2022; transformers.BlipForConditionalGeneration): captions of frames.

A decoder that was fine-tuned (common/caption_tuning.py) is a file of weights beside the model; it is asked with a prompt, the
model as it is without.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.backbones.blip import AS_IT_IS, Captioner
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure


@dataclass
class Task:
    """Frames of one clip, and what is wanted of them; `decode` turns JPEGs and sound into arrays."""

    steps: list[int]
    jpegs: list[bytes]
    weights: str = AS_IT_IS  # the decoder's
    sound: tuple[bytes, np.ndarray, float] | None = (
        None  # FLAC, the frames' times and the length of the windows around them, s
    )
    pixels: np.ndarray | None = None  # [n, 3, h, w] uint8
    log_mel: np.ndarray | None = None  # [n, time, mel bins]


_captioner: Captioner  # one per worker process
_ast: AudioBackbone | None  # there is one where a task has sound


def load_models(blip: tuple[str, int, int], ast: str) -> None:
    global _captioner, _ast
    one_thread()
    _captioner = Captioner(*blip)
    _ast = AudioBackbone(ast) if ast else None


def load_on_cpu(blip: tuple[str, int, int], ast: str) -> None:
    """For workers that only decode: they must not take the device's memory."""
    os.environ["DEVICE"] = "cpu"
    load_models(blip, ast)


def decode(task: Task) -> Task:
    pixels, log_mel = _captioner.resize([codecs.decode_jpeg(jpeg) for jpeg in task.jpegs]), None
    if _ast and task.sound:
        flac, times_s, window_s = task.sound
        log_mel = _ast.log_mel(
            windows(codecs.decode_flac(flac), times_s, window_s, _ast.rate_hz, _ast.max_s)
        )[0]
    return Task(task.steps, [], task.weights, None, pixels, log_mel)


def windows(
    wave: np.ndarray, times_s: np.ndarray, window_s: float, rate_hz: int, length_s: float
) -> list[np.ndarray]:
    """The sound around each time, repeated until it fills what the model hears in one pass.

    Padding instead makes AST hear an end: of what the embedded one reports in padded windows of 1 s (validation clips,
    scores of 0.3 or more) 39 % is also heard in the whole clip, of what it reports in repeated ones 98 %.
    """
    size = min(len(wave), round(window_s * rate_hz))
    starts = np.clip(np.round(times_s * rate_hz - size / 2), 0, len(wave) - size).astype(int)
    return [np.resize(wave[start : start + size], round(length_s * rate_hz)) for start in starts]


def encode(tasks: list[Task]) -> list[torch.Tensor]:
    """Picture outputs [n, P, D] of each clip's frames."""
    outputs = _captioner.encode(
        np.concatenate([task.pixels for task in tasks if task.pixels is not None])
    )
    return list(outputs.split([len(task.steps) for task in tasks]))


def encode_to_store(tasks: list[Task]) -> list[np.ndarray]:
    return [outputs.cpu().numpy().astype(np.float16) for outputs in encode(tasks)]


def describe(tasks: list[Task]) -> list[dict]:
    """Captions of each clip's frames and, where there is sound, AST's `scores` [n, labels] around them."""
    rows: list[dict] = [{"steps": task.steps, "status": "ok", "reason": ""} for task in tasks]
    outputs = encode(tasks)
    for weights in dict.fromkeys(task.weights for task in tasks):
        group = [i for i, task in enumerate(tasks) if task.weights == weights]
        texts = iter(_captioner.caption(torch.cat([outputs[i] for i in group]), weights))
        for i in group:
            rows[i]["captions"] = list(islice(texts, len(tasks[i].steps)))
    if _ast:
        scores = iter(
            _ast.encode(
                np.concatenate([task.log_mel for task in tasks if task.log_mel is not None])
            )[2]
        )
        for row in rows:
            row["scores"] = np.stack(list(islice(scores, len(row["steps"]))))
    return rows


def decode_and_answer(job: tuple[Callable, Task]) -> Any:
    answer, task = job
    return answer([decode(task)])[0]


def answers(
    answer: Callable,
    tasks: Iterable[Task],
    blip: tuple[str, int, int],
    frames_per_batch: int,
    workers: int,
    ast: str = "",
) -> Iterator[Any]:
    """`answer` (encode_to_store or describe) of each task.

    On CPU a clip at a time in each worker: the composition of a batch, and so every bit, does not depend on the other clips.
    On GPU workers decode while the device answers batches of at least `frames_per_batch` frames.
    """
    if hub.device() == "cpu":
        jobs = ((answer, task) for task in tasks)
        yield from parallel.map_items(
            decode_and_answer, jobs, workers, initializer=load_models, initargs=(blip, ast)
        )
        return
    load_models(blip, ast)
    batch: list[Task | Failure] = []

    def flush() -> Iterator[Any]:
        good = [task for task in batch if not isinstance(task, Failure)]
        found = iter(answer(good) if good else [])
        yield from (task if isinstance(task, Failure) else next(found) for task in batch)
        batch.clear()

    for task in parallel.map_items(
        decode, tasks, workers, initializer=load_on_cpu, initargs=(blip, ast)
    ):
        batch.append(task)
        if (
            sum(len(task.steps) for task in batch if not isinstance(task, Failure))
            >= frames_per_batch
        ):
            yield from flush()
    yield from flush()
