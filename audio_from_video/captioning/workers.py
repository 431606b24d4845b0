"""Worker processes around a captioner and an audio model.

They turn stored frames and sound into captions, picture outputs and label scores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from audio_from_video.backbones import captioners, hub
from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_interface import AudioInputs
from audio_from_video.backbones.batches import results_in_batches
from audio_from_video.backbones.captioners import Pictures
from audio_from_video.backbones.settings import PUBLISHED_WEIGHTS, CaptionerSettings
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure

# On CPU: clips that a worker takes together, and frames that pass through the captioner together.
# A search for 48 captions by the published BLIP holds 2 GB.
CLIPS_PER_JOB = 24
FRAMES_AT_ONCE = 48


class SoundWindows(NamedTuple):
    """The sound around the frames of a clip: windows of `window_s` around each time."""

    flac: bytes
    times_s: np.ndarray  # [n]
    window_s: float


@dataclass
class Task:
    """Frames of one clip to be captioned or encoded."""

    steps: list[int]
    jpegs: list[bytes]
    weights: str = PUBLISHED_WEIGHTS  # of the captioner
    sound: SoundWindows | None = None


@dataclass
class DecodedTask:
    """A task whose JPEGs and sound are the models' input."""

    steps: list[int]
    weights: str
    pictures: Pictures  # of n images
    sound: AudioInputs | None  # of n windows


@dataclass(frozen=True)
class Setup:
    """The models of a run over tasks, and how the run is spread.

    ast: name of the audio model, or "" where no task has sound.  frames_per_batch: on GPU.
    """

    captioner: CaptionerSettings
    frames_per_batch: int
    workers: int
    ast: str = ""


class Models:
    """The models of a process."""

    def __init__(self, setup: Setup, device: str | None = None):
        self.captioner = captioners.load(setup.captioner, device)
        self.ast = load_audio(setup.ast, device) if setup.ast else None


_models: Models  # of this process; `load_models` sets it, as the initializer of a worker


def load_models(setup: Setup, device: str | None = None) -> None:
    """Load the models of this process onto a device (default: `hub.device()`)."""
    global _models
    one_thread()
    _models = Models(setup, device)


def decode(task: Task) -> DecodedTask:
    """Turn a task's JPEGs and sound into the models' input (runs in a worker)."""
    pictures = _models.captioner.prepare([codecs.decode_jpeg(jpeg) for jpeg in task.jpegs])
    sound = None
    ast = _models.ast
    if ast and task.sound:
        wave = codecs.decode_flac(task.sound.flac)
        window_s = task.sound.window_s
        length_s = ast.fill_s or window_s
        sound = ast.prepare(windows(wave, task.sound.times_s, window_s, ast.rate_hz, length_s))
    return DecodedTask(task.steps, task.weights, pictures, sound)


def windows(
    wave: np.ndarray, times_s: np.ndarray, window_s: float, rate_hz: int, length_s: float
) -> list[np.ndarray]:
    """Return the sound around each time, repeated until it fills `length_s`.

    wave [samples] at rate_hz; times_s [n]; n windows of round(length_s * rate_hz) samples.

    Padding instead makes AST hear an end.  Measured on validation clips with the embedded AST, at
    scores of 0.3 or more: 39 % of the labels in padded windows of 1 s are also heard in the whole
    clip, but 98 % of those in repeated ones.
    """
    size = min(len(wave), round(window_s * rate_hz))
    starts = np.round(times_s * rate_hz - size / 2)
    starts = np.clip(starts, 0, len(wave) - size).astype(int)
    length = round(length_s * rate_hz)
    return [np.resize(wave[start : start + size], length) for start in starts]


def encode_to_store(tasks: list[DecodedTask]) -> list[np.ndarray]:
    """Return the captioner's picture outputs [n, P, D] float16 of each task's n frames."""
    captioner = captioners.as_tunable(_models.captioner)
    outputs = captioner.encode(joined([task.pictures for task in tasks]))
    parts = outputs.split([len(task.steps) for task in tasks])
    return [part.cpu().numpy().astype(np.float16) for part in parts]


def joined(parts: list[Pictures]) -> Pictures:
    """Return the pictures of several tasks as those of one."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def batch_key(task: DecodedTask) -> tuple:
    """Return what tasks have in common whose frames can be captioned together.

    That is the weights, and the shape of a frame's arrays: larger pictures have more places.
    """
    shapes = [(name, array.shape[1:]) for name, array in task.pictures.items()]
    return task.weights, *shapes


def describe(tasks: list[DecodedTask]) -> list[dict]:
    """Return a row per task: steps, captions of its n frames, status and reason.

    Where the process has an audio model: also its `scores` [n, labels] around the frames.
    """
    rows: list[dict] = [{"steps": task.steps, "status": "ok", "reason": ""} for task in tasks]
    keys = [batch_key(task) for task in tasks]
    for key in dict.fromkeys(keys):
        group = [i for i, other in enumerate(keys) if other == key]
        pictures = joined([tasks[i].pictures for i in group])
        texts = iter(captions(pictures, tasks[group[0]].weights))
        for i in group:
            rows[i]["captions"] = list(islice(texts, len(tasks[i].steps)))

    if _models.ast:
        for row, task in zip(rows, tasks, strict=True):
            if task.sound is not None:
                row["scores"] = _models.ast.hear(task.sound).label_scores
    return rows


def captions(pictures: Pictures, weights: str) -> list[str]:
    """Return the captions of pictures; on CPU FRAMES_AT_ONCE of them at a time."""
    captioner = _models.captioner
    if captioner.device != "cpu":
        return captioner.captions(pictures, weights)
    count = len(next(iter(pictures.values())))
    texts: list[str] = []
    for start in range(0, count, FRAMES_AT_ONCE):
        part = {name: array[start : start + FRAMES_AT_ONCE] for name, array in pictures.items()}
        texts += captioner.captions(part, weights)
    return texts


Compute = Callable[[list[DecodedTask]], list[Any]]


def decode_and_compute(job: tuple[Compute, list[Task]]) -> list[Any]:
    """Return the results of some tasks (runs in a worker)."""
    compute, tasks = job
    return compute([decode(task) for task in tasks])


def results_on_cpu(compute: Compute, tasks: Iterable[Task], setup: Setup) -> Iterator[Any]:
    """Yield the result of each task, CLIPS_PER_JOB of them at a time, in the tasks' order.

    The jobs are the same for any number of workers.  Where a worker fails over one, each of its
    clips is tried alone.
    """
    remaining = iter(tasks)
    in_work: deque[list[Task]] = deque()

    def jobs() -> Iterator[tuple[Compute, list[Task]]]:
        while some := list(islice(remaining, CLIPS_PER_JOB)):
            in_work.append(some)
            yield compute, some

    def mapped(jobs: Iterable[tuple[Compute, list[Task]]]) -> Iterator[Any]:
        return parallel.map_items(
            decode_and_compute,
            jobs,
            setup.workers,
            initializer=load_models,
            initargs=(setup,),
            gpu=True,
        )

    for rows in mapped(jobs()):
        some = in_work.popleft()
        if not isinstance(rows, Failure):
            yield from rows
            continue
        for row in mapped((compute, [task]) for task in some):
            yield row if isinstance(row, Failure) else row[0]


def results(compute: Compute, tasks: Iterable[Task], setup: Setup) -> Iterator[Any]:
    """Yield the result of each task, or its Failure, in the tasks' order.

    compute: `describe` or `encode_to_store`.  On CPU each worker takes some clips at a time.  On
    GPU workers decode while the device computes batches of at least `frames_per_batch` frames.
    """
    if hub.device() == "cpu" or parallel.workers_have_gpus():
        yield from results_on_cpu(compute, tasks, setup)
        return

    load_models(setup)
    # Workers that only decode must not take the device's memory.
    decoded = parallel.map_items(
        decode, tasks, setup.workers, initializer=load_models, initargs=(setup, "cpu")
    )
    yield from results_in_batches(
        decoded, compute, lambda task: len(task.steps), setup.frames_per_batch
    )
