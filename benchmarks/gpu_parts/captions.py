"""BLIP-base: representative frames in Parquet to written captions, and its steps alone.

Random weights write captions of the full length, which is the dearest case.
"""

import os
from copy import deepcopy
from functools import partial

import torch

from audio_from_video.backbones import hub
from benchmarks.gpu_parts import inputs
from benchmarks.gpu_parts.inputs import VERSION
from benchmarks.gpu_parts.measuring import (
    Measurement,
    Setup,
    TimedRun,
    flops_of,
    peak_memory_gib,
    reset_peak_memory,
    seconds_per_call,
)

PART = "captions"
WHOLE = "captions of the stage captions, JPEG in Parquet to written captions"
STEPS = [2, 7, 12, 17]  # representative frames: a quarter of the clip's


def measure(setup: Setup) -> None:
    """Record captions as the stage writes them, and ways of encoding and of writing."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    settings = inputs.write_params(setup.tiny, "captions")
    count = setup.count(512, 4)
    inputs.write_frames(count, setup.tiny)
    inputs.write_representative_frames(count, STEPS)
    setup.attempt(PART, WHOLE, lambda: whole_stage(setup))
    computing(setup, settings["captions"]["model"])


def computing(setup: Setup, name: str) -> None:
    """Record ways of encoding pictures and of writing captions."""
    model = Model(setup, name)
    for batch in setup.batches((32, 128, 512), (2,)):
        what = f"picture encoder, bf16 autocast, batches of {batch}"
        setup.attempt(PART, what, partial(model.encoding, what, batch))
        for way, decoder in model.ways():
            what = f"decoder, {way}, batches of {batch}"
            setup.attempt(PART, what, partial(model.writing, what, decoder, batch))


class Model:
    """The model alone, on pictures that lie on the device already."""

    def __init__(self, setup: Setup, name: str):
        from transformers import BlipForConditionalGeneration

        self.setup = setup
        self.model = hub.load_frozen_model(
            BlipForConditionalGeneration, name, "a BLIP captioning model", setup.device
        )
        size = self.model.config.vision_config.image_size
        self.half = deepcopy(self.model.text_decoder).bfloat16()
        self.values = torch.randn(setup.count(512, 2), 3, size, size, device=setup.device)

    def encoding(self, what: str, batch: int) -> Measurement:
        """Encode pictures."""
        values = self.values[:batch]
        encoder = self.model.vision_model
        with torch.inference_mode():
            self.model.set_attn_implementation("eager")
            flops = flops_of(lambda: encoder(values[:1]))
            self.model.set_attn_implementation("sdpa")

        def encode() -> torch.Tensor:
            with torch.inference_mode(), hub.autocast(self.setup.device):
                return encoder(values).last_hidden_state

        reset_peak_memory(self.setup.device)
        seconds = seconds_per_call(encode, self.setup.device)
        peak = peak_memory_gib(self.setup.device)
        return Measurement(PART, what, "pictures", batch, seconds, flops, peak)

    def ways(self) -> list[tuple[str, torch.nn.Module]]:
        """Return ways of writing captions: name and decoder.

        A static cache is none: BLIP's cross-attention writes into it and fails (transformers 5.23).
        """
        return [("bf16 autocast", self.model.text_decoder), ("bf16 weights", self.half)]

    def writing(self, what: str, decoder: torch.nn.Module, batch: int) -> Measurement:
        """Write captions of picture outputs, by greedy search."""
        config = self.model.config.text_config
        width = self.model.config.vision_config.hidden_size
        patches = (self.values.shape[-1] // self.model.config.vision_config.patch_size) ** 2 + 1
        kind = next(decoder.parameters()).dtype
        outputs = torch.randn(batch, patches, width, device=self.setup.device, dtype=kind)
        tokens = self.setup.count(28, 4)
        start = torch.full((batch, 1), config.bos_token_id, device=self.setup.device)
        mask = torch.ones(outputs.shape[:2], dtype=torch.long, device=self.setup.device)

        def write() -> torch.Tensor:
            with torch.no_grad(), hub.autocast(self.setup.device):
                return decoder.generate(
                    input_ids=start,
                    encoder_hidden_states=outputs,
                    encoder_attention_mask=mask,
                    eos_token_id=config.sep_token_id,
                    pad_token_id=config.pad_token_id,
                    min_new_tokens=tokens,
                    max_new_tokens=tokens,
                    num_beams=1,
                    do_sample=False,
                )

        reset_peak_memory(self.setup.device)
        seconds = seconds_per_call(write, self.setup.device, warm_ups=1)
        peak = peak_memory_gib(self.setup.device)
        return Measurement(PART, what, "captions", batch, seconds, peak_memory_gib=peak)


def whole_stage(setup: Setup) -> Measurement:
    """Write data/captions with the published weights, as the stage does without fine-tuning."""
    from audio_from_video.captioning.settings import CaptionsParams
    from audio_from_video.runtime import params
    from stages import captions

    p = params.load("captions", CaptionsParams)
    clips = captions.selected_clips()
    weights_of = dict.fromkeys((clip["clip_id"] for clip in clips), captions.PUBLISHED_WEIGHTS)
    reset_peak_memory(setup.device)
    stage = TimedRun("captions", "", setup.workers)
    captions.write_captions(stage, p, clips, weights_of, VERSION)
    rows, seconds = stage.steady()
    peak = peak_memory_gib(setup.device)
    setup.record_start(PART, stage)
    return Measurement(PART, WHOLE, "captions", rows * len(STEPS), seconds, peak_memory_gib=peak)
