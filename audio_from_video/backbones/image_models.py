"""Image models, frozen: each frame of a clip to the mean of its patch outputs.

Patch outputs are the model's last_hidden_state without special tokens: [CLS], [DIST] and registers
never enter the mean.  The final norm is applied where the model itself applies it to patches: CLIP
does not, SigLIP and AIMv2 do.
"""

from typing import NamedTuple

import numpy as np

from audio_from_video.backbones import hub
from audio_from_video.runtime.errors import UserError


class Kind(NamedTuple):
    """How models of a config's model_type are read.

    loader: the class of transformers.  tower: its attribute with the vision tower, where the loader
    cannot take that alone.  special_tokens: in front of the patches, registers not counted.
    like_vit: the model is embeddings, layers and a final layernorm in a row, between which temporal
    positions and attention over the whole clip can come.
    """

    loader: str
    special_tokens: int = 0
    like_vit: bool = False
    tower: str = ""


KINDS = {
    "vit": Kind("ViTModel", 1, like_vit=True),
    "deit": Kind("DeiTModel", 2, like_vit=True),
    "dinov2": Kind("Dinov2Model", 1, like_vit=True),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", 1, like_vit=True),
    "ijepa": Kind("IJepaModel", like_vit=True),
    "vit_mae": Kind("ViTMAEModel", 1),
    "beit": Kind("BeitModel", 1),
    "data2vec-vision": Kind("Data2VecVisionModel", 1),
    "dinov3_vit": Kind("DINOv3ViTModel", 1),
    "dinov3_convnext": Kind("DINOv3ConvNextModel", 1),  # the mean of the patches comes first
    "clip": Kind("CLIPVisionModel", 1),
    "clip_vision_model": Kind("CLIPVisionModel", 1),
    "siglip": Kind("SiglipVisionModel"),
    "siglip_vision_model": Kind("SiglipVisionModel"),
    "siglip2": Kind("Siglip2VisionModel"),
    "siglip2_vision_model": Kind("Siglip2VisionModel"),
    "aimv2": Kind("Aimv2Model", tower="vision_model"),
    "aimv2_vision_model": Kind("Aimv2VisionModel"),
    "swin": Kind("SwinModel"),
    "swinv2": Kind("Swinv2Model"),
    "convnext": Kind("ConvNextModel"),
    "convnextv2": Kind("ConvNextV2Model"),
    "resnet": Kind("ResNetModel"),
}


class ImageModel:
    """An image model that encodes clips frame by frame.

    attention: `frame` lets the patches of one frame attend to each other, `joint` those of the
    whole clip.  temporal_scale: factor of sinusoidal temporal positions (Vaswani et al. 2017) added
    to a frame's tokens; at 0 with `frame` the result equals the stock model's.  Tokens come from
    the checkpoint's own patch projection and spatial positions: a fresh projection before a
    pretrained encoder would destroy it.
    """

    def __init__(
        self, name: str, model_type: str, attention: str, temporal_scale: float, device: str
    ):
        """Raises UserError when the model cannot be loaded or has no layers for these settings."""
        import transformers

        self.model_type = model_type
        self.kind = KINDS[model_type]
        self.attention = attention
        self.temporal_scale = temporal_scale
        if not self.kind.like_vit:
            _refuse_temporal_settings(name, model_type, attention, temporal_scale)
        loader = getattr(transformers, self.kind.loader)
        model = hub.load_frozen_model(loader, name, "a vision model", device)
        self.model = getattr(model, self.kind.tower) if self.kind.tower else model
        if model_type == "vit_mae":
            self.model.config.mask_ratio = 0.0  # it would hide 75 % of the patches at random
        self.half = self.kind.like_vit and device.startswith("cuda")
        if self.half:
            self.model.bfloat16()

    def __call__(self, values):
        """Return the vectors [B, T, D] float32 of frames [B, T, 3, h, w] float32."""
        import torch

        if not self.half:
            return self._vectors(values)
        # Autocast would keep norms and sums in float32, which takes longer and gains nothing.
        with torch.autocast(values.device.type, enabled=False):
            return self._vectors(values.bfloat16())

    def _vectors(self, values):
        """Return the vectors [B, T, D] float32 of frames [B, T, 3, h, w] in the model's type."""
        batch, frames = values.shape[:2]
        images = values.flatten(0, 1)
        if self.kind.like_vit:
            hidden = self._encode_tokens(images, batch)
        else:
            hidden = self._encode_images(images)
        if hidden.ndim == 4:  # [B*T, D, h', w']
            hidden = hidden.flatten(2).transpose(1, 2)
        registers = getattr(self.model.config, "num_register_tokens", 0)
        patches = hidden[:, self.kind.special_tokens + registers :]  # [B*T, P, D]
        return patches.float().mean(1).unflatten(0, (batch, frames))

    def _encode_images(self, images):
        """Return the last hidden states of images [N, 3, h, w] by the stock model."""
        import torch

        if self.model_type == "vit_mae":
            # It shuffles the patches by noise, which decides the last bits: keep them in order.
            high, wide = self._grid(images)
            order = torch.arange(high * wide, dtype=torch.float32, device=images.device)
            return self.model(images, noise=order.expand(len(images), -1)).last_hidden_state
        if self.kind.loader == "Siglip2VisionModel":
            patches = self._siglip2_patches(images)
            mask = torch.ones(patches.shape[:2], dtype=torch.long, device=images.device)
            shapes = torch.tensor([self._grid(images)] * len(images), device=images.device)
            return self.model(patches, mask, shapes).last_hidden_state
        return self.model(images).last_hidden_state

    def _siglip2_patches(self, images):
        """Return images [N, 3, h, w] as SigLIP 2's patches [N, P, patch * patch * 3]."""
        side = self.model.config.patch_size
        high, wide = self._grid(images)
        grid = images.unflatten(3, (wide, side)).unflatten(2, (high, side))
        patches = grid.permute(0, 2, 4, 3, 5, 1)  # [N, high, wide, side, side, 3]
        return patches.reshape(len(images), high * wide, -1)

    def _grid(self, images) -> tuple[int, int]:
        """How many patches images [N, 3, h, w] have, high and wide."""
        side = self.model.config.patch_size
        return images.shape[2] // side, images.shape[3] // side

    def _encode_tokens(self, images, batch: int):
        """Return the last hidden states [B*T, S+P, D] of [B*T, 3, h, w], S special tokens first.

        The way leads through embeddings, layers and final norm of the checkpoint, one by one,
        because temporal positions and joint attention come in between.
        """
        tokens = self.model.embeddings(images)  # [B*T, S+P, D]
        frames = tokens.shape[0] // batch
        tokens = tokens.unflatten(0, (batch, frames))  # [B, T, S+P, D]
        if self.temporal_scale:
            positions = temporal_positions(frames, tokens.shape[-1]).to(tokens)
            tokens = tokens + self.temporal_scale * positions[:, None]

        # A sequence is what attends to itself: a clip or a frame.
        sequence = tokens.flatten(1, 2) if self.attention == "joint" else tokens.flatten(0, 1)
        for layer in self._layers():
            output = layer(sequence)
            sequence = output[0] if isinstance(output, tuple) else output
        return self.model.layernorm(sequence).reshape(tokens.shape).flatten(0, 1)

    def _layers(self):
        if hasattr(self.model, "layers"):
            return self.model.layers
        return self.model.encoder.layer


def _refuse_temporal_settings(
    name: str, model_type: str, attention: str, temporal_scale: float
) -> None:
    like_vit = ", ".join(each for each, kind in KINDS.items() if kind.like_vit)
    if attention == "joint":
        raise UserError(
            f"video_features.attention: joint needs a model of ViT's kind ({like_vit}); "
            f"'{name}' is of the kind {model_type}: use frame"
        )
    if temporal_scale:
        raise UserError(
            f"video_features.temporal_scale = {temporal_scale} needs a model of ViT's kind "
            f"({like_vit}); '{name}' is of the kind {model_type}: use 0"
        )


def temporal_positions(steps: int, width: int):
    """Return sinusoidal positions [steps, width] (Vaswani et al. 2017, section 3.5)."""
    import torch

    slope = -np.log(10_000.0) / width
    rates = torch.exp(torch.arange(0, width, 2) * slope)
    angles = torch.arange(steps)[:, None] * rates
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # [steps, width / 2, 2]
    return pairs.flatten(1)[:, :width]
