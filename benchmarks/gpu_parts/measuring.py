"""Measurements of one part: timing on a device, and rows of JSON that are written as they come."""

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from audio_from_video.runtime import parallel, stage_run


@dataclass(frozen=True)
class Measurement:
    """How long some work took.

    part: vision, say.  what: which step or which way of doing it.  items in `seconds`, of the
    kind `unit`.  flops: floating-point operations of an item on the device, 0 where nobody counted.
    peak_memory_gib: of the device in this process, 0 where nobody looked.
    """

    part: str
    what: str
    unit: str
    items: float
    seconds: float
    flops: float = 0.0
    peak_memory_gib: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds


@dataclass(frozen=True)
class Setup:
    """How a part is measured.

    tiny: small models and few clips, to see that all works.  device: cuda or cpu.  workers: cores
    that decode.  folder: an empty one, where the part writes.  rows: the file of measurements.
    """

    tiny: bool
    device: str
    workers: int
    folder: Path
    rows: Path

    def count(self, base: int, tiny: int) -> int:
        """Return how many items are measured."""
        return tiny if self.tiny else base

    def batches(self, base: tuple[int, ...], tiny: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sizes of batches that are measured."""
        return tiny if self.tiny else base

    def record(self, measurement: Measurement) -> None:
        """Print a measurement and add it to the file: what comes after it may fail."""
        print(line(measurement), flush=True)
        with open(self.rows, "a") as file:
            file.write(json.dumps(asdict(measurement)) + "\n")

    def record_start(self, part: str, stage: "TimedRun") -> None:
        """Record how long a stage took until its first clip was done."""
        what = "the stage's start, until its first clip is done"
        self.record(Measurement(part, what, "starts", 1, stage.times[0] - stage.start))

    def attempt(self, part: str, what: str, measure: Callable[[], Measurement]) -> None:
        """Record a measurement; one that fails is named, and the others go on."""
        try:
            self.record(measure())
        except Exception as error:
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"{part:9s} {what}: failed, {type(error).__name__}: {cause}", flush=True)
            with open(self.rows, "a") as file:
                file.write(json.dumps({"part": part, "what": what, "failed": cause}) + "\n")
        if self.device == "cuda":
            torch.cuda.empty_cache()


def line(measurement: Measurement) -> str:
    """Return a measurement as a line of text."""
    text = f"{measurement.part:9s} {measurement.what:55s}"
    text += f"{measurement.rate:12,.1f} {measurement.unit}/s"
    if measurement.flops:
        text += f"  {measurement.flops * measurement.rate / 1e12:8.1f} TFLOP/s"
    return text


def synchronize(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_per_call(
    work: Callable[[], Any], device: str, least_s: float = 0.4, warm_ups: int = 2
) -> float:
    """Return the mean seconds of a call, over as many calls as take `least_s` or more."""
    for _ in range(warm_ups):
        work()
    synchronize(device)
    calls = 0
    start = time.perf_counter()
    while True:
        work()
        calls += 1
        synchronize(device)
        seconds = time.perf_counter() - start
        if seconds >= least_s:
            return seconds / calls


def reset_peak_memory(device: str) -> None:
    """Forget the device's peak memory so far."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib(device: str) -> float:
    """Return the peak of this process's memory on the device in GiB; 0 on CPU."""
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0


def flops_of(work: Callable[[], Any]) -> float:
    """Return the floating-point operations of a call, counted from the shapes of its products."""
    with FlopCounterMode(display=False) as counter:
        work()
    return float(counter.get_total_flops())


def inference(
    device: str,
    part: str,
    what: str,
    unit: str,
    run: Callable[[torch.Tensor], torch.Tensor],
    values: torch.Tensor,
    flops: float,
) -> Measurement:
    """Measure a model on a batch of values that lie on the device; flops: of one of them."""
    reset_peak_memory(device)

    def compute() -> None:
        with torch.inference_mode():
            run(values)

    seconds = seconds_per_call(compute, device)
    return Measurement(part, what, unit, len(values), seconds, flops, peak_memory_gib(device))


class TimedRun(stage_run.StageRun):
    """A run of a stage that notes when each computed row came."""

    def __init__(self, stage: str, item: str, workers: int):
        super().__init__(stage, item, workers)
        # As every stage does: imported once in the server, not in every worker.
        parallel.preload(f"stages.{stage}")
        self.start = time.perf_counter()
        self.times: list[float] = []

    def fill(self, store, tasks, total, compute):
        """Fill an item store as every stage does, and note the times of rows."""

        def noting(payloads: Iterator[Any]) -> Iterator[Any]:
            for row in compute(payloads):
                self.times.append(time.perf_counter())
                yield row

        return super().fill(store, tasks, total, noting)

    def steady(self) -> tuple[int, float]:
        """Return three quarters of the rows and the seconds that they took; the stage has ended.

        The first quarter has the start of workers and of the model in it.  What comes after the
        last row, such as packing, is shared by all rows.
        """
        first = len(self.times) // 4
        rows = len(self.times) - 1 - first
        after_s = time.perf_counter() - self.times[-1]
        seconds = self.times[-1] - self.times[first] + after_s * rows / len(self.times)
        return rows, seconds

    def elapsed_s(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self.start


def set_environment(device: str, workers: int, folder: Path) -> None:
    """Tell the stages where to run and where to store items."""
    os.environ["DEVICE"] = device
    os.environ["WORKERS"] = str(workers)
    os.environ["ITEM_STORE"] = str(folder / "items")
