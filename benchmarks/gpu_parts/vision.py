"""ViT-base: JPEG in Parquet to written features, by the stage video_features, and its steps."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial

import numpy as np
import pyarrow as pa
import torch

from audio_from_video.backbones import hub
from audio_from_video.media import codecs
from audio_from_video.storage import layout, shards
from audio_from_video.storage.clip_items import ClipItems
from benchmarks.gpu_parts import inputs
from benchmarks.gpu_parts.inputs import STEPS, VERSION
from benchmarks.gpu_parts.measuring import (
    Measurement,
    Setup,
    TimedRun,
    flops_of,
    inference,
    peak_memory_gib,
    reset_peak_memory,
    seconds_per_call,
)

PART = "vision"
FITTING = "resizing decoded pictures on the device"
WHOLE = "the stage video_features, JPEG in Parquet to written features"


def measure(setup: Setup) -> None:
    """Record the stage's steps, the whole stage, and ways of running the model."""
    settings = inputs.write_params(setup.tiny, "video_features")
    count = setup.count(1024, 12)
    pictures = inputs.write_frames(count, setup.tiny)
    setup.attempt(PART, "reading JPEG from Parquet", lambda: reading(count))
    setup.attempt(PART, "decoding, one thread", lambda: decoding(setup, pictures, 1))
    setup.attempt(PART, "decoding, all cores", lambda: decoding(setup, pictures, setup.workers))
    setup.attempt(PART, "copying decoded pictures, pinned", lambda: copying(setup, pictures))
    setup.attempt(PART, FITTING, lambda: fitting(setup, settings, pictures))
    setup.attempt(PART, "writing features: item store and shards", lambda: writing(setup, count))
    model = Model(setup, settings["video_features"]["model"])
    flops = model.flops()
    setup.attempt(PART, WHOLE, lambda: whole_stage(setup, flops))
    for what, way in model.ways().items():
        setup.attempt(PART, what, partial(model.computing, what, way, flops))


def whole_stage(setup: Setup, flops: float) -> Measurement:
    """Run the stage as the pipeline does, and record its start."""
    from stages import video_features

    reset_peak_memory(setup.device)
    stage = TimedRun("video_features", "rgb", setup.workers)
    video_features.main(stage)
    clips, seconds = stage.steady()
    peak = peak_memory_gib(setup.device)
    setup.record_start(PART, stage)
    return Measurement(PART, WHOLE, "images", clips * STEPS, seconds, flops, peak)


def reading(count: int) -> Measurement:
    """Read all rows once, as the stage does."""

    def read() -> None:
        for _ in shards.iter_rows(layout.FRAMES, ["jpegs"]):
            pass

    seconds = seconds_per_call(read, "cpu", warm_ups=1)
    return Measurement(PART, "reading JPEG from Parquet", "images", count * STEPS, seconds)


def decoding(setup: Setup, pictures: list[bytes], threads: int) -> Measurement:
    """Decode pictures in threads: OpenCV lets other threads work meanwhile."""
    what = "decoding, one thread" if threads == 1 else "decoding, all cores"
    clips = setup.count(16, 2) * threads

    def decode(clip: int) -> np.ndarray:
        return np.stack([codecs.decode_jpeg(pictures[step]) for step in range(STEPS)])

    with ThreadPoolExecutor(threads) as pool:

        def decode_all() -> None:
            for _ in pool.map(decode, range(clips)):
                pass

        seconds = seconds_per_call(decode_all, "cpu", warm_ups=1)
    return Measurement(PART, what, "images", clips * STEPS, seconds)


def copying(setup: Setup, pictures: list[bytes]) -> Measurement:
    """Copy decoded pictures to the device from pinned memory."""
    image = codecs.decode_jpeg(pictures[0])
    host = torch.from_numpy(np.stack([image] * setup.count(576, 8)))
    if setup.device == "cuda":
        host = host.pin_memory()
    there = torch.empty_like(host, device=setup.device)
    seconds = seconds_per_call(lambda: there.copy_(host, non_blocking=True), setup.device)
    return Measurement(PART, "copying decoded pictures, pinned", "images", len(host), seconds)


def fitting(setup: Setup, settings: dict, pictures: list[bytes]) -> Measurement:
    """Resize decoded pictures that lie on the device already, as Pillow does."""
    from audio_from_video.backbones.vision import VisionBackbone

    backbone = VisionBackbone(settings["video_features"]["model"], device=setup.device)
    image = codecs.decode_jpeg(pictures[0])
    images = torch.from_numpy(np.stack([image] * setup.count(576, 8))).to(setup.device)
    reset_peak_memory(setup.device)
    seconds = seconds_per_call(lambda: backbone.fit(images), setup.device)
    peak = peak_memory_gib(setup.device)
    return Measurement(PART, FITTING, "images", len(images), seconds, peak_memory_gib=peak)


def writing(setup: Setup, count: int) -> Measurement:
    """Store and pack features of as many clips, computed beforehand."""
    width = 32 if setup.tiny else 768
    columns = pa.schema([("features", shards.tensor(pa.float16(), STEPS, width))])
    features = np.random.default_rng(0).normal(size=(STEPS, width)).astype(np.float32)
    row = {"features": features, "status": "ok", "reason": ""}
    clips = shards.inputs(layout.FRAMES)
    names = ((clip["clip_id"], None) for clip in clips)
    stage = TimedRun("writing", "", 1)
    with ClipItems("writing", VERSION, columns) as items:
        items.fill(stage, clips, names, lambda payloads: (row for _ in payloads))
        items.pack(layout.DATA / "writing", clips)
    seconds = stage.elapsed_s()
    what = "writing features: item store and shards"
    return Measurement(PART, what, "images", count * STEPS, seconds)


class Model:
    """The model alone, on pictures that lie on the device already."""

    def __init__(self, setup: Setup, name: str):
        from transformers import AutoModel

        self.setup = setup
        self.model = hub.load_frozen_model(AutoModel, name, "a vision model", setup.device)
        size = self.model.config.image_size
        images = setup.count(1152, 8)
        self.values = torch.randn(images, 3, size, size, device=setup.device)

    def flops(self) -> float:
        """Return the operations for one picture."""
        values = self.values[:1]
        self.model.set_attn_implementation("eager")
        with torch.inference_mode():
            flops = flops_of(lambda: self.model(values))
        self.model.set_attn_implementation("sdpa")
        return flops

    def ways(self) -> dict[str, tuple[Callable, int]]:
        """Return ways of running the model: a function of pictures, and pictures per batch."""
        half = self.half()
        ways: dict[str, tuple[Callable, int]] = {}
        for batch in (288, 576, 1152):
            ways[f"computing, bf16 autocast, batches of {batch}"] = (self.autocast, batch)
            ways[f"computing, bf16 weights, batches of {batch}"] = (half, batch)
        if self.setup.device == "cuda":
            layers = self.half(compiled=True)
            ways["computing, bf16 weights, layers compiled, batches of 576"] = (layers, 576)
        return ways

    def autocast(self, values: torch.Tensor) -> torch.Tensor:
        """Return mean patch outputs, with float32 weights."""
        with hub.autocast(self.setup.device):
            return self.model(values).last_hidden_state[:, 1:].float().mean(1)

    def half(self, compiled: bool = False) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the same with the weights in bf16.

        compiled: each layer is.  Compiled as a whole the model took 1.7 times as long on an H200.
        """
        model = deepcopy(self.model).bfloat16()
        if compiled:
            # In this process: a pool of compilers is slow to end.
            os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
            for layer in model.layers:
                layer.compile()

        def run(values: torch.Tensor) -> torch.Tensor:
            return model(values.bfloat16()).last_hidden_state[:, 1:].float().mean(1)

        return run

    def computing(self, what: str, way: tuple[Callable, int], flops: float) -> Measurement:
        """Run the model on batches."""
        run, batch = way
        values = self.values[:batch]
        return inference(self.setup.device, PART, what, "images", run, values, flops)
