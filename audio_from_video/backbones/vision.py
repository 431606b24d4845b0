"""Vision models, frozen: the frames of a clip to one vector each.

A checkpoint's config names its model_type, and that decides which file reads it: image models go
frame by frame (image_models.py), clip models see several frames at once (clip_models.py).
docs/backbones.md lists both.
"""

from typing import Protocol

import numpy as np

from audio_from_video.backbones import clip_models, hub, image_models, pixels
from audio_from_video.runtime.errors import UserError


class VisionModel(Protocol):
    """What a kind of model does: frames [B, T, 3, h, w] float32 to vectors [B, T, D] float32."""

    def __call__(self, values): ...


# By model_type of config.json.
MODELS: dict[str, type[image_models.ImageModel] | type[clip_models.ClipModel]] = {
    **dict.fromkeys(image_models.KINDS, image_models.ImageModel),
    **dict.fromkeys(clip_models.KINDS, clip_models.ClipModel),
}


def kind_of(name: str) -> str:
    """Return the model_type of a vision model; UserError where it is none of MODELS."""
    model_type = hub.model_type_of(name)
    if model_type not in MODELS:
        way_out = ""
        if model_type == hub.TIMM:
            way_out = "; timm needs torchvision, so give the model in the form of transformers"
        raise UserError(
            f"'{name}' is of the kind '{model_type}', which is no supported vision model; "
            f"supported are {', '.join(MODELS)}{way_out}"
        )
    return model_type


def seen_px(name: str, offline: bool = False) -> int | None:
    """Return the shorter side of the pictures that a model sees, in px, from its files alone.

    offline: nothing is downloaded; None where the model is not on this machine.  Raises UserError
    as VisionBackbone does.
    """
    if offline and not hub.is_here(name):
        return None
    return pixels.read_settings(name, kind_of(name) in clip_models.KINDS).seen_px


class VisionBackbone:
    """A vision model with its preprocessing.

    attention, temporal_scale: see ImageModel; `frame` and 0 for all others.
    """

    def __init__(
        self,
        name: str,
        attention: str = "frame",
        temporal_scale: float = 0.0,
        device: str | None = None,
    ):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no supported vision model, and for settings
        that its kind does not have.
        """
        self.name = name
        self.device = device or hub.device()
        model_type = kind_of(name)
        settings = pixels.read_settings(name, model_type in clip_models.KINDS)
        self.preprocessor = pixels.Preprocessor(settings, self.device)
        self.model: VisionModel = MODELS[model_type](
            name, model_type, attention, temporal_scale, self.device
        )

    def fit(self, images):
        """Return N BGR images [N, H, W, 3] uint8, a tensor or an array, as the model's input.

        It is a tensor on the device, RGB [N, 3, h, w] uint8.
        """
        import torch

        # Turned round on the device: on the host it takes longer than all else in the process.
        return self.preprocessor.fit(torch.as_tensor(images).to(self.device).flip(-1))

    def vectors(self, fitted):
        """Return the frames' vectors of a tensor RGB [B, T, 3, h, w] uint8.

        They are a tensor [B, T, D] float32 on the device, which may still be computing them.
        """
        import torch

        with torch.inference_mode(), hub.autocast(self.device):
            try:
                return self.model(self.preprocessor.normalise(fitted))
            except ValueError as error:
                height, width = fitted.shape[-2:]
                raise UserError(
                    f"'{self.name}' does not take pictures of {height} x {width} px, as its "
                    f"preprocessor config makes them of the frames: {error}"
                ) from None

    def encode(self, fitted) -> np.ndarray:
        """Return the frames' vectors [B, T, D] float32 of a tensor RGB [B, T, 3, h, w] uint8."""
        return self.vectors(fitted).cpu().numpy()
