"""AST-base: FLAC in Parquet to written features, by the stage audio_features, and its steps."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial

import numpy as np
import torch

from audio_from_video.backbones import hub
from audio_from_video.media import codecs
from benchmarks.gpu_parts import inputs
from benchmarks.gpu_parts.inputs import STEPS
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

PART = "audio"
WHOLE = "the stage audio_features, FLAC in Parquet to written features"
THREADS = "FLAC to features in threads that share one model, nothing written"
PASSES = STEPS + 1  # of a clip: a window per time step, and the whole clip


def measure(setup: Setup) -> None:
    """Record the stage's steps, the whole stage, and ways of running the model."""
    settings = inputs.write_params(setup.tiny, "audio_features")
    if setup.tiny:
        settings["audio_features"]["components"] = 8
        inputs.store_params(settings)
    sounds = inputs.write_audio(setup.count(320, 12))
    name = settings["audio_features"]["model"]

    setup.attempt(
        PART, "decoding and log-mels, one core", lambda: preparing(setup, name, sounds, 1)
    )
    setup.attempt(
        PART,
        "decoding and log-mels, threads on all cores",
        lambda: preparing(setup, name, sounds, setup.workers),
    )
    model = Model(setup, name)
    flops = model.flops()
    of_clip = flops_of_clip(setup, name)
    setup.attempt(PART, WHOLE, lambda: whole_stage(setup, of_clip))
    setup.attempt(PART, THREADS, lambda: in_threads(setup, sounds, of_clip))
    for what, way in model.ways().items():
        setup.attempt(PART, what, partial(model.computing, what, way, flops))


def preparing(setup: Setup, name: str, sounds: list[bytes], threads: int) -> Measurement:
    """Decode clips and compute the log-mels of their windows on the host."""
    from audio_from_video.backbones.audio import load_audio

    backbone = load_audio(name, "cpu")
    size = backbone.rate_hz  # samples in a window of 1 s

    def prepare(clip: int) -> None:
        wave = codecs.decode_flac(sounds[clip % len(sounds)])
        latest = len(wave) - size
        starts = [step * latest // (STEPS - 1) for step in range(STEPS)]
        backbone.prepare([wave])
        backbone.prepare_windows(wave, starts, size)

    clips = setup.count(8, 1) * threads
    with ThreadPoolExecutor(threads) as pool:
        seconds = seconds_per_call(lambda: list(pool.map(prepare, range(clips))), "cpu", warm_ups=1)
    where = "one core" if threads == 1 else "threads on all cores"
    return Measurement(PART, f"decoding and log-mels, {where}", "clips", clips, seconds)


def flops_of_clip(setup: Setup, name: str) -> float:
    """Return the operations for a clip of 3 s: one pass of AST's length, and short windows."""
    from audio_from_video.backbones.audio_ast import AstBackbone

    backbone = AstBackbone(name, setup.device)
    wave = np.zeros(3 * backbone.rate_hz, np.float32)
    whole = backbone.prepare([wave])
    windows = backbone.prepare_windows(wave, [0] * STEPS, backbone.rate_hz)
    backbone.model.set_attn_implementation("eager")
    return flops_of(lambda: (backbone.hear(whole), backbone.hear(windows)))


class Model:
    """The model alone, on log-mels that lie on the device already."""

    def __init__(self, setup: Setup, name: str):
        from transformers import ASTForAudioClassification

        self.setup = setup
        self.model = hub.load_frozen_model(
            ASTForAudioClassification, name, "an Audio Spectrogram Transformer", setup.device
        )
        config = self.model.config
        passes = setup.count(16 * PASSES, 2)
        shape = (passes, config.max_length, config.num_mel_bins)
        self.values = torch.randn(shape, device=setup.device)

    def flops(self) -> float:
        """Return the operations for one pass."""
        self.model.set_attn_implementation("eager")
        with torch.inference_mode():
            flops = flops_of(lambda: self.model(self.values[:1]))
        self.model.set_attn_implementation("sdpa")
        return flops

    def ways(self) -> dict[str, tuple[Callable, int]]:
        """Return ways of running the model: a function of log-mels, and passes per batch."""
        half_model = deepcopy(self.model).bfloat16()

        def autocast(values: torch.Tensor) -> torch.Tensor:
            with hub.autocast(self.setup.device):
                return self.model(values).logits

        def half(values: torch.Tensor) -> torch.Tensor:
            return half_model(values.bfloat16()).logits

        ways: dict[str, tuple[Callable, int]] = {}
        for clips in self.setup.batches((1, 4, 16), (1,)):
            passes = clips * PASSES
            ways[f"computing, bf16 autocast, batches of {passes} passes"] = (autocast, passes)
            ways[f"computing, bf16 weights, batches of {passes} passes"] = (half, passes)
        return ways

    def computing(self, what: str, way: tuple[Callable, int], flops: float) -> Measurement:
        """Run the model on batches."""
        run, passes = way
        values = self.values[:passes]
        return inference(self.setup.device, PART, what, "passes", run, values, flops)


def whole_stage(setup: Setup, flops: float) -> Measurement:
    """Run the stage as the pipeline does, and record its start."""
    from stages import audio_features

    reset_peak_memory(setup.device)
    stage = TimedRun("audio_features", "", setup.workers)
    audio_features.main(stage)
    clips, seconds = stage.steady()
    peak = peak_memory_gib(setup.device)
    setup.record_start(PART, stage)
    return Measurement(PART, WHOLE, "clips", clips, seconds, flops, peak)


def in_threads(setup: Setup, sounds: list[bytes], flops: float) -> Measurement:
    """Encode clips as the stage's workers do, in threads of this process."""
    from audio_from_video.backbones.settings import AudioFeaturesParams
    from audio_from_video.runtime import params
    from stages import audio_features

    p = params.load("audio_features", AudioFeaturesParams)
    audio_features.load_backbone(p.model, p.label_model)
    clips = setup.count(128, 2)
    tasks = [(sounds[clip % len(sounds)], STEPS, p) for clip in range(clips)]
    reset_peak_memory(setup.device)
    with ThreadPoolExecutor(setup.workers) as pool:

        def encode() -> None:
            for _ in pool.map(audio_features.encode_clip, tasks):
                pass

        seconds = seconds_per_call(encode, setup.device, warm_ups=1)
    peak = peak_memory_gib(setup.device)
    return Measurement(PART, THREADS, "clips", clips, seconds, flops, peak)
