"""Vision models, frozen: images of a clip to patch outputs per time step."""

from functools import cached_property

import numpy as np

from audio_from_video.backbones.hub import _load, _load_model, device
from audio_from_video.runtime.errors import UserError


class VisionBackbone:
    """Frames to one vector each: patch tokens -> encoder -> mean of the patch outputs (never [CLS]).

    attention: `frame` lets the patches of one frame attend to each other, `joint` those of the whole clip (ViT-like
    models only).  temporal_scale: factor of sinusoidal temporal positions (Vaswani et al. 2017) added to a frame's
    tokens; at 0 with `frame` the result equals the stock model's.  Tokens come from the checkpoint's own patch
    projection and spatial positions: a fresh projection before a pretrained encoder would destroy it.
    """

    def __init__(self, name: str, attention: str = "frame", temporal_scale: float = 0.0):
        import torch

        self.device = device()
        self.model = _load_model(name, "AutoModel", "a vision model")
        self.processor = _load(name, "AutoImageProcessor", "an image processor")
        self.attention, self.temporal_scale = attention, temporal_scale
        if attention == "joint" and self._layers is None:
            kind = type(self.model).__name__
            raise UserError(
                f"video_features.attention: joint needs a model of ViT's kind; '{name}' is {kind}: use frame"
            )
        mean, std = (
            torch.tensor(getattr(self.processor, key)).view(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
        if not self.processor.do_normalize:
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        scale = self.processor.rescale_factor if self.processor.do_rescale else 1.0
        self._gain, self._offset = (scale / std).to(self.device), (mean / std).to(self.device)

    def resize(self, images: list[np.ndarray]) -> np.ndarray:
        """BGR images [H, W, 3] uint8 -> RGB [T, 3, h, w] uint8, resized and cropped by the model's own processor."""
        rgb = [np.ascontiguousarray(image[..., ::-1]) for image in images]
        if all(
            image.shape[:2] == self._input_size for image in rgb
        ):  # the processor would change nothing
            return np.stack(rgb).transpose(0, 3, 1, 2)
        return np.stack(
            self.processor(rgb, do_rescale=False, do_normalize=False, return_tensors="np")[
                "pixel_values"
            ]
        ).astype(np.uint8)

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """RGB [B, T, 3, h, w] uint8 -> [B, T, D] float32."""
        import torch

        batch, frames = pixels.shape[:2]
        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")),
        ):
            values = (
                torch.from_numpy(pixels).to(self.device).flatten(0, 1).float() * self._gain
                - self._offset
            )  # [B*T, 3, h, w]
            patches = (
                self._tokens_path(values, batch)
                if self._layers is not None
                else self._stock_path(values)
            )
            return patches.float().mean(1).unflatten(0, (batch, frames)).cpu().numpy()

    def _stock_path(self, values):
        """[N, 3, h, w] -> [N, P, D] for models that keep no token sequence of their own, such as ResNet."""
        hidden = self.model(values).last_hidden_state
        if hidden.ndim == 4:  # [N, D, h', w']
            return hidden.flatten(2).transpose(1, 2)
        return hidden

    def _tokens_path(self, values, batch: int):
        """[B*T, 3, h, w] -> patch outputs [B*T, P, D] through embeddings, layers and final norm of the checkpoint."""
        tokens = self.model.embeddings(values)  # [B*T, S+P, D], S special tokens first
        frames = tokens.shape[0] // batch
        tokens = tokens.unflatten(0, (batch, frames))  # [B, T, S+P, D]
        if self.temporal_scale:
            tokens = (
                tokens
                + self.temporal_scale
                * temporal_positions(frames, tokens.shape[-1]).to(tokens)[:, None]
            )
        sequence = tokens.flatten(1, 2) if self.attention == "joint" else tokens.flatten(0, 1)
        for layer in self._layers:
            output = layer(sequence)
            sequence = output[0] if isinstance(output, tuple) else output
        sequence = self.model.layernorm(sequence).reshape(tokens.shape).flatten(0, 1)
        return sequence[:, sequence.shape[1] - self._patches(values) :]

    def _patches(self, values) -> int:
        size = self.model.config.patch_size
        high, wide = size if isinstance(size, list | tuple) else (size, size)
        return (values.shape[-2] // high) * (values.shape[-1] // wide)

    @cached_property
    def _layers(self):
        """The encoder's layers where the model is of ViT's kind (embeddings, layers, layernorm), else None."""
        if not (
            hasattr(self.model, "embeddings")
            and hasattr(self.model, "layernorm")
            and hasattr(self.model.config, "patch_size")
        ):
            return None
        encoder = getattr(self.model, "encoder", None)
        return (
            getattr(self.model, "layers", None)
            or getattr(encoder, "layer", None)
            or getattr(encoder, "layers", None)
        )

    @cached_property
    def _input_size(self) -> tuple[int, int] | None:
        """(height, width) of images that the processor neither resizes nor crops; None where that depends on the image."""
        size = self.processor.size
        if not self.processor.do_resize or "height" not in size:
            return None
        fixed = (size["height"], size["width"])
        if getattr(self.processor, "do_center_crop", None):
            crop = self.processor.crop_size
            return fixed if (crop["height"], crop["width"]) == fixed else None
        return fixed


def temporal_positions(steps: int, width: int):
    """Sinusoidal positions [steps, width] (Vaswani et al. 2017, section 3.5)."""
    import torch

    rates = torch.exp(torch.arange(0, width, 2) * (-np.log(10_000.0) / width))
    angles = torch.arange(steps)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width]
