"""Vision models, frozen: the frames of a clip to one vector each."""

from functools import cached_property

import numpy as np

from audio_from_video.backbones import hub
from audio_from_video.runtime.errors import UserError


class VisionBackbone:
    """Frames to one vector each: patch tokens, encoder, mean of the patch outputs (never [CLS]).

    attention: `frame` lets the patches of one frame attend to each other, `joint` those of the
    whole clip (ViT-like models only).  temporal_scale: factor of sinusoidal temporal positions
    (Vaswani et al. 2017) added to a frame's tokens; at 0 with `frame` the result equals the stock
    model's.  Tokens come from the checkpoint's own patch projection and spatial positions: a fresh
    projection before a pretrained encoder would destroy it.
    """

    def __init__(
        self,
        name: str,
        attention: str = "frame",
        temporal_scale: float = 0.0,
        device: str | None = None,
    ):
        """Load a model by directory or hub name onto a device (default: `hub.device()`).

        Raises UserError when it cannot be found or is no vision model, and with `joint` attention
        when it keeps no sequence of tokens.
        """
        from transformers import AutoImageProcessor, AutoModel

        self.device = device or hub.device()
        self.model = hub.load_frozen_model(AutoModel, name, "a vision model", self.device)
        self.processor = hub.load_pretrained(AutoImageProcessor, name, "an image processor")
        self.attention = attention
        self.temporal_scale = temporal_scale
        if attention == "joint" and self._layers is None:
            raise UserError(
                "video_features.attention: joint needs a model of ViT's kind; "
                f"'{name}' is {type(self.model).__name__}: use frame"
            )
        self._gain, self._offset = self._rescaling()

    def _rescaling(self):
        """Return gain and offset [3, 1, 1]: the processor computes uint8 * gain - offset."""
        import torch

        mean = torch.tensor(self.processor.image_mean).view(3, 1, 1)
        std = torch.tensor(self.processor.image_std).view(3, 1, 1)
        if not self.processor.do_normalize:
            mean = torch.zeros_like(mean)
            std = torch.ones_like(std)
        scale = self.processor.rescale_factor if self.processor.do_rescale else 1.0
        gain = scale / std
        offset = mean / std
        return gain.to(self.device), offset.to(self.device)

    def resize(self, images: list[np.ndarray]) -> np.ndarray:
        """Return T BGR images [H, W, 3] uint8 as the model's input, RGB [T, 3, h, w] uint8.

        The model's own processor resizes and crops them.
        """
        rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        unchanged = all(image.shape[:2] == self._input_size for image in rgb)
        if unchanged:  # the processor takes its time even where it has nothing to do
            return np.stack(rgb).transpose(0, 3, 1, 2)
        resized = self.processor(rgb, do_rescale=False, do_normalize=False, return_tensors="np")
        return np.stack(resized["pixel_values"]).astype(np.uint8)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return the frames' vectors [B, T, D] float32 of RGB [B, T, 3, h, w] uint8."""
        import torch

        batch, frames = pixels.shape[:2]
        with torch.inference_mode(), hub.autocast(self.device):
            values = torch.from_numpy(pixels).to(self.device).flatten(0, 1).float()
            values = values * self._gain - self._offset  # [B*T, 3, h, w]
            patches = self._patch_outputs(values, batch)
            vectors = patches.float().mean(1)  # [B*T, D]
            return vectors.unflatten(0, (batch, frames)).cpu().numpy()

    def _patch_outputs(self, values, batch: int):
        """Return [B*T, P, D] of [B*T, 3, h, w], the frames of `batch` clips."""
        if self._layers is None:
            return self._encode_by_stock_model(values)
        return self._encode_tokens(values, batch)

    def _encode_by_stock_model(self, values):
        """Return [N, P, D] of [N, 3, h, w], for models without a sequence of tokens (ResNet)."""
        hidden = self.model(values).last_hidden_state
        if hidden.ndim == 4:  # [N, D, h', w']
            return hidden.flatten(2).transpose(1, 2)
        return hidden

    def _encode_tokens(self, values, batch: int):
        """Return patch outputs [B*T, P, D] of [B*T, 3, h, w].

        The way leads through embeddings, layers and final norm of the checkpoint, one by one,
        because temporal positions and joint attention come in between.
        """
        tokens = self.model.embeddings(values)  # [B*T, S+P, D], S special tokens first
        frames = tokens.shape[0] // batch
        tokens = tokens.unflatten(0, (batch, frames))  # [B, T, S+P, D]
        if self.temporal_scale:
            positions = temporal_positions(frames, tokens.shape[-1]).to(tokens)
            tokens = tokens + self.temporal_scale * positions[:, None]

        # A sequence is what attends to itself: a clip or a frame.
        sequence = tokens.flatten(1, 2) if self.attention == "joint" else tokens.flatten(0, 1)
        for layer in self._layers:
            output = layer(sequence)
            sequence = output[0] if isinstance(output, tuple) else output
        sequence = self.model.layernorm(sequence).reshape(tokens.shape).flatten(0, 1)
        return sequence[:, sequence.shape[1] - self._patch_count(values) :]

    def _patch_count(self, values) -> int:
        size = self.model.config.patch_size
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        return (values.shape[-2] // high) * (values.shape[-1] // wide)

    @cached_property
    def _layers(self):
        """The encoder's layers where the model is of ViT's kind, else None.

        That kind has embeddings, layers and layernorm.
        """
        has_tokens = (
            hasattr(self.model, "embeddings")
            and hasattr(self.model, "layernorm")
            and hasattr(self.model.config, "patch_size")
        )
        if not has_tokens:
            return None
        encoder = getattr(self.model, "encoder", None)
        return (
            getattr(self.model, "layers", None)
            or getattr(encoder, "layer", None)
            or getattr(encoder, "layers", None)
        )

    @cached_property
    def _input_size(self) -> tuple[int, int] | None:
        """(height, width) of images that the processor neither resizes nor crops.

        None where that depends on the image.
        """
        size = self.processor.size
        if not self.processor.do_resize or "height" not in size:
            return None
        fixed = (size["height"], size["width"])
        if getattr(self.processor, "do_center_crop", None):
            crop = self.processor.crop_size
            return fixed if (crop["height"], crop["width"]) == fixed else None
        return fixed


def temporal_positions(steps: int, width: int):
    """Return sinusoidal positions [steps, width] (Vaswani et al. 2017, section 3.5)."""
    import torch

    slope = -np.log(10_000.0) / width
    rates = torch.exp(torch.arange(0, width, 2) * slope)
    angles = torch.arange(steps)[:, None] * rates
    pairs = torch.stack([angles.sin(), angles.cos()], dim=-1)  # [steps, width / 2, 2]
    return pairs.flatten(1)[:, :width]
