"""Pretrained Hugging Face models as frozen feature extractors: any vision model of the Auto classes, AST for sound.

A model is named in `params.yaml` by a local directory or a hub name.  Sizes come from its config, preprocessing from its
own processor.  On CUDA the models run in bfloat16 autocast, on CPU in float32 on one thread.
"""

import hashlib
import json
import os
import textwrap
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np

from stages.common.errors import UserError

HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.model"]  # no pickles


def locate(name: str) -> Path:
    """The local directory of a model: the name itself if it is one, else a snapshot of the hub's repository.

    Raises UserError, with what was looked for, where, and the two ways out.
    """
    if (Path(name) / "config.json").is_file():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES, etag_timeout=5))
    except Exception as error:  # the hub client raises many kinds; each means the same to the user
        raise UserError(
            f"the model '{name}' was found neither as a local directory with a config.json nor on the Hugging Face hub "
            f"({_first_line(error)}); give a local model directory in params.yaml, or run once where the hub can be reached"
        ) from None


def revision(name: str) -> str:
    """Digest of the model's files: what an item version names, so that other weights are other items."""
    return digest_of(locate(name))


def digest_of(directory: Path) -> str:
    """Digest of the settings and weights in a directory."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(directory.glob("*.json")) + sorted(directory.glob("*.safetensors")):
        with open(path, "rb") as file:
            total.update(path.name.encode() + hashlib.file_digest(file, "blake2b").digest())
    return total.hexdigest()


def width_of(name: str) -> int:
    """D, the width of a model's outputs, from its config alone."""
    if isinstance(width := _config_file(name).get("hidden_size"), int):
        return width
    config = _config(name)
    width = (
        getattr(config, "hidden_size", None)
        or (getattr(config, "hidden_sizes", None) or [None])[-1]
    )
    if width is None:
        raise UserError(
            f"'{name}' ({type(config).__name__}) names no hidden size; give the directory of a single vision or audio encoder"
        )
    return width


def label_count_of(name: str) -> int:
    """How many labels a classification model has, from its config alone."""
    return len(_config_file(name).get("id2label", ())) or _config(name).num_labels


def labels_of(name: str) -> list[str]:
    """The names of a classification model's labels, by index."""
    names = _config(name).id2label
    return [names[i] for i in range(len(names))]


def _config_file(name: str) -> dict:
    """A model's config as it stands in its file, without the seconds that importing transformers takes; {} if unreadable."""
    try:
        found = json.loads((locate(name) / "config.json").read_text())
    except ValueError:  # `_config` says what is wrong with it
        return {}
    return found if isinstance(found, dict) else {}


def _config(name: str):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(locate(name), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"'{name}' has no config that transformers can read: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return textwrap.shorten(
        (str(error).strip() or type(error).__name__).splitlines()[0], 240, placeholder=" ..."
    )


def device() -> str:
    """Where models run: the environment's DEVICE, else cuda where there is one, else cpu."""
    if found := os.environ.get("DEVICE"):
        return found
    if version("torch").endswith("+cpu"):  # known without the seconds that importing it takes
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(name: str, loader: str, what: str, **options):
    directory = locate(name)
    import transformers
    from safetensors import SafetensorError

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, loader).from_pretrained(
            directory, local_files_only=True, **options
        )
    except RuntimeError:  # its text refers to a report that transformers only logs
        raise UserError(
            f"'{name}' cannot be loaded as {what}: its weights do not have the shapes that its config.json names"
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise UserError(f"'{name}' cannot be loaded as {what}: {_first_line(error)}") from None


def _load_model(name: str, loader: str, what: str):
    """A frozen model on its device; weights that the directory lacks would be random, which is an error."""
    model, report = _load(name, loader, what, output_loading_info=True, use_safetensors=True)
    if missing := sorted(
        key for key in report["missing_keys"] if "pooler." not in key
    ):  # poolers are not used here
        raise UserError(
            f"'{name}' cannot be loaded as {what}: it has no weights for {missing[0]} (and {len(missing) - 1} others)"
        )
    return model.eval().requires_grad_(False).to(device())


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


class AudioBackbone:
    """AST (Gong et al. 2021; transformers.ASTForAudioClassification): log-mel patches to vectors, and label scores."""

    FRAME_S, HOP_S = 0.025, 0.010  # Kaldi's filter bank, as in ASTFeatureExtractor

    def __init__(self, name: str):
        self.device = device()
        self.model = _load_model(
            name, "ASTForAudioClassification", "an Audio Spectrogram Transformer"
        )
        self.extractor = _load(name, "ASTFeatureExtractor", "a feature extractor")
        self.config = self.model.config
        self.width: int = self.config.hidden_size
        self.labels: list[str] = [self.config.id2label[i] for i in range(self.config.num_labels)]
        self.rate_hz: int = self.extractor.sampling_rate
        self.max_s = self.config.max_length * self.HOP_S  # what one pass can hear

    def log_mel(self, waveforms: list[np.ndarray]) -> tuple[np.ndarray, list[int]]:
        """float32 waveforms -> normalised log-mel [N, max_length, mel bins], zero-padded, and their numbers of frames."""
        shortest = round(self.FRAME_S * self.rate_hz)
        padded = [np.pad(wave, (0, max(0, shortest - len(wave)))) for wave in waveforms]
        frames = [
            min(
                1 + round((len(wave) - shortest) // (self.HOP_S * self.rate_hz)),
                self.config.max_length,
            )
            for wave in padded
        ]
        return np.stack(
            self.extractor(padded, sampling_rate=self.rate_hz, return_tensors="np")["input_values"]
        ), frames

    def encode(self, log_mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log-mel [N, max_length, mel bins] -> patch outputs [N, time, D] (mean over frequency), pooled [N, D] (mean of
        the two special tokens, which the head expects) and label scores [N, 527] (sigmoid)."""
        import torch

        with (
            torch.inference_mode(),
            torch.autocast("cuda", torch.bfloat16, enabled=self.device.startswith("cuda")),
        ):
            values = torch.from_numpy(log_mel).to(self.device)
            output = self.model.audio_spectrogram_transformer(values)
            scores = self.model.classifier(output.pooler_output).sigmoid()
            high, wide = self.model.audio_spectrogram_transformer.embeddings.get_shape(self.config)
            patches = (
                output.last_hidden_state[:, 2:].unflatten(1, (high, wide)).mean(1)
            )  # [N, time, D]
            return tuple(
                part.float().cpu().numpy() for part in (patches, output.pooler_output, scores)
            )

    def valid_patches(self, frames: int) -> int:
        """How many of the time patches lie within `frames` real frames (at least one): the others see padding."""
        return max(1, (frames - self.config.patch_size) // self.config.time_stride + 1)

    def patch_times_s(self, count: int) -> np.ndarray:
        """Start and end [count, 2] in seconds of the first `count` time patches."""
        start = np.arange(count) * self.config.time_stride * self.HOP_S
        return np.stack(
            [start, start + (self.config.patch_size - 1) * self.HOP_S + self.FRAME_S], axis=1
        )
