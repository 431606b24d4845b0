"""Captioning models of several kinds behind one protocol: pictures to captions.

A model's kind is the `model_type` of its config.  All are AutoModelForImageTextToText of
transformers; docs/backbones.md lists them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from audio_from_video.backbones import hub
from audio_from_video.backbones.blip import BlipCaptioner
from audio_from_video.backbones.git import GitCaptioner
from audio_from_video.backbones.prompted_captioners import (
    Blip2Captioner,
    Florence2Captioner,
    QwenCaptioner,
    SmolVlmCaptioner,
)
from audio_from_video.backbones.settings import (
    PUBLISHED_WEIGHTS,
    TAGS_PROMPT,
    CaptionerSettings,
)
from audio_from_video.runtime.errors import UserError

# Arrays by name, which workers pass on.  Those of several clips are joined along the first axis
# where all the others agree.
Pictures = dict[str, np.ndarray]


class Captioner(Protocol):
    """A captioning model on a device, asked with the prompt of its settings.

    Its weights are loaded when they are needed first: `prepare` does without.
    """

    settings: CaptionerSettings
    device: str

    def prepare(self, images: list[np.ndarray]) -> Pictures:
        """Return N BGR images [H, W, 3] uint8 of one size as the model's input."""

    def captions(self, pictures: Pictures, weights: str = PUBLISHED_WEIGHTS) -> list[str]:
        """Return N captions of prepared images, in lower case and without the prompt.

        weights: a file of fine-tuned ones, for models that can be fine-tuned.
        """

    def save(self, folder: Path, weights: str = PUBLISHED_WEIGHTS) -> None:
        """Write a Hugging Face directory of the model with these weights."""


KINDS: dict[str, Callable[[CaptionerSettings, str | None], Captioner]] = {
    "blip": BlipCaptioner,
    "blip-2": Blip2Captioner,
    "git": GitCaptioner,
    "florence2": Florence2Captioner,
    "smolvlm": SmolVlmCaptioner,
    "idefics3": SmolVlmCaptioner,
    "qwen2_vl": QwenCaptioner,
    "qwen2_5_vl": QwenCaptioner,
}
# Those that can be fine-tuned: their decoders learn from stored outputs of the picture encoder.
Tunable = BlipCaptioner | GitCaptioner
TUNABLE = ("blip", "git")


def kind_of(name: str) -> str:
    """Return the kind of a captioning model; UserError when it is not among KINDS."""
    kind = hub.model_type_of(name)
    if kind not in KINDS:
        raise UserError(
            f"'{name}' is of the kind '{kind}', which is no captioning model that is supported: "
            f"captions.model takes {', '.join(KINDS)} (docs/backbones.md)"
        )
    return kind


def load(settings: CaptionerSettings, device: str | None = None) -> Captioner:
    """Return a captioner on a device (default: `hub.device()`).

    Raises UserError when the model cannot be found or its kind is not supported.
    """
    new_captioner = KINDS[kind_of(settings.model)]
    return new_captioner(settings, device)


def load_tunable(settings: CaptionerSettings, device: str | None = None) -> Tunable:
    """Return a captioner that `require_tunable` has let pass, on a device; see `load`."""
    return as_tunable(load(settings, device))


def as_tunable(captioner: Captioner) -> Tunable:
    """Return a captioner of which `require_tunable` has made sure that it can be fine-tuned."""
    if not isinstance(captioner, Tunable):
        raise ValueError(f"only {' and '.join(TUNABLE)} have picture outputs to learn from")
    return captioner


def require_tunable(settings: CaptionerSettings, finetune: str) -> None:
    """Raise UserError where a model cannot be fine-tuned as `captions.finetune` asks."""
    kind = kind_of(settings.model)
    if finetune == "off":
        return
    if kind not in TUNABLE:
        raise UserError(
            f"captions.finetune = '{finetune}': models of the kind '{kind}' are not fine-tuned "
            f"here, {' and '.join(TUNABLE)} are; set captions.finetune to off"
        )
    if settings.prompt == TAGS_PROMPT:
        raise UserError(
            f"captions.prompt = '{TAGS_PROMPT}': fine-tuning asks for captions that name sounds by "
            "this prompt; give another one for the original captions, or set captions.finetune "
            "to off"
        )
