"""From decoded pictures to a model's input, as the checkpoint's own preprocessor config says.

    fit         resize and crop, uint8 to uint8
    normalise   rescale and normalise, uint8 to float32

Both take batches on the model's device, and need neither torchvision nor a processor's Python loop
over images.  Between them pictures are bytes, which is what goes from a worker to a GPU.  `fit`
gives the bytes of the Hugging Face processor that resizes by Pillow (resampling.py).
DINOv3's, Video-MAE's and other processors that only run with torchvision resize without rounding
between the axes, or after rescaling: up to 1/255 per pixel for bilinear, more where bicubic
overshoots.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audio_from_video.backbones import hub, resampling
from audio_from_video.runtime.errors import UserError

BILINEAR = 2
BICUBIC = 3
HALF = [0.5, 0.5, 0.5]
IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
WARPED_FROM_PX = 384  # ConvNeXT's processor crops smaller pictures, and warps larger ones
VJEPA2_MARGIN = 256 / 224  # V-JEPA 2's processor resizes to its crop times this

# What a processor does where its config is silent: old configs name little.  The keys are class
# names without what tells the variants of a class apart (SUFFIXES).
SUFFIXES = ("Fast", "Pil", "ImageProcessor", "VideoProcessor", "FeatureExtractor")
COMMON: dict[str, Any] = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": HALF,
    "image_std": HALF,
    "resample": BILINEAR,
    "size": {"height": 224, "width": 224},
    "crop_size": {"height": 224, "width": 224},
    "offset": False,
}
_OF_CLIP = {"resample": BICUBIC, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_OF_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
_CROPPED = {"size": {"shortest_edge": 224}, "do_center_crop": True}
DEFAULTS: dict[str, dict[str, Any]] = {
    "Beit": {"resample": BICUBIC},
    "Bit": {**_OF_CLIP, **_CROPPED},
    "Blip": {**_OF_CLIP, "size": {"height": 384, "width": 384}},
    "CLIP": {**_OF_CLIP, **_CROPPED},
    "ConvNext": {"resample": BICUBIC, "size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "DINOv3ViT": _OF_IMAGENET,
    "DeiT": {
        "resample": BICUBIC,
        "size": {"height": 256, "width": 256},
        "do_center_crop": True,
    },
    "LlavaOnevision": {**_OF_CLIP, "size": {"height": 384, "width": 384}},
    "Siglip": {"resample": BICUBIC},
    "Siglip2": {"patch_size": 16, "max_num_patches": 256},
    "Timesformer": {**_OF_IMAGENET, **_CROPPED},
    "VJEPA2": {**_OF_IMAGENET, **_CROPPED, "crop_size": {"height": 256, "width": 256}},
    "ViT": {},
    "VideoMAE": _CROPPED,
    "Vivit": {
        "size": {"shortest_edge": 256},
        "do_center_crop": True,
        "rescale_factor": 1 / 127.5,
        "offset": True,
    },
}


@dataclass(frozen=True)
class Settings:
    """A preprocessor's config, complete.

    kind: a key of DEFAULTS.  size: {height, width}, {shortest_edge}, {shortest_edge, longest_edge}
    or {max_height, max_width}, in px.  crop_size: (height, width).  offset: subtract 1 after
    rescaling.  crop_pct: of ConvNeXT.  patch_size, max_num_patches: of SigLIP 2, whose pictures
    keep their shape and get about so many patches.
    """

    kind: str
    do_resize: bool
    do_center_crop: bool
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: list[float]
    image_std: list[float]
    resample: int
    size: dict[str, int]
    crop_size: tuple[int, int]
    offset: bool
    crop_pct: float | None = None
    patch_size: int | None = None
    max_num_patches: int | None = None

    @property
    def seen_px(self) -> int:
        """The shorter side of what the model sees, in px."""
        if self.max_num_patches and self.patch_size:
            return int(self.max_num_patches**0.5) * self.patch_size
        if self.do_center_crop:
            return min(self.crop_size)
        return min(self.size.values())


def read_settings(name: str, video: bool = False) -> Settings:
    """Return the preprocessing of a model, by directory or hub name.

    video: the checkpoint's video processor comes before its image processor, as for clip models.
    Raises UserError when there is none, or one that this module does not know.
    """
    found = _config(hub.locate(name), video)
    if found is None:
        raise UserError(
            f"'{name}' has no preprocessor config, which says how pictures become its input: "
            "give a directory that also has preprocessor_config.json"
        )
    class_name = _class_name(found) or _usual_class_name(hub.model_type_of(name))
    kind = class_name
    for suffix in SUFFIXES:
        kind = kind.removesuffix(suffix)
    if kind not in DEFAULTS:
        raise UserError(
            f"'{name}' prepares pictures by {class_name or 'an unnamed processor'}, which is not "
            f"supported: those of {', '.join(DEFAULTS)} are"
        )
    named = {key: value for key, value in found.items() if value is not None}
    values = COMMON | DEFAULTS[kind] | named
    if kind == "VJEPA2":
        values["size"] = {"shortest_edge": int(_square(values["crop_size"])[0] * VJEPA2_MARGIN)}
    values["size"] = _size(values["size"], "shortest_edge" in DEFAULTS[kind].get("size", {}))
    values["crop_size"] = _square(values["crop_size"])
    values["kind"] = kind
    fields = Settings.__dataclass_fields__
    settings = Settings(**{key: value for key, value in values.items() if key in fields})
    _check(settings, name)
    return settings


def _config(directory: Path, video: bool) -> dict | None:
    """The config of a processor: transformers 5 nests it, others have a file of their own."""
    kinds = ["video", "image"] if video else ["image", "video"]
    nested = _read_json(directory / "processor_config.json")
    for kind in kinds:
        if isinstance(nested.get(f"{kind}_processor"), dict):
            return nested[f"{kind}_processor"]
    files = {"video": "video_preprocessor_config.json", "image": "preprocessor_config.json"}
    for kind in kinds:
        if (directory / files[kind]).is_file():
            return _read_json(directory / files[kind])
    return None


def _read_json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{path} is no JSON file") from None
    return values if isinstance(values, dict) else {}


def _class_name(config: dict) -> str:
    for key in ("video_processor_type", "image_processor_type", "feature_extractor_type"):
        if isinstance(config.get(key), str):
            return config[key]
    return ""


def _usual_class_name(model_type: str) -> str:
    """The processor that transformers takes for a model whose config names none, as old ones do."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    return IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {}).get("torchvision", "")


def _size(size, shortest: bool) -> dict[str, int]:
    """A size by its keys; old configs have a number, of the shortest edge or of both."""
    if isinstance(size, int):
        return {"shortest_edge": size} if shortest else {"height": size, "width": size}
    if isinstance(size, list | tuple):
        return {"height": size[0], "width": size[1]}
    return {key: value for key, value in size.items() if value is not None}


def _square(size) -> tuple[int, int]:
    sides = _size(size, shortest=False)
    if "shortest_edge" in sides:
        return sides["shortest_edge"], sides["shortest_edge"]
    return sides["height"], sides["width"]


def _check(settings: Settings, name: str) -> None:
    known = [
        {"height", "width"},
        {"shortest_edge"},
        {"shortest_edge", "longest_edge"},
        {"max_height", "max_width"},
    ]
    if set(settings.size) not in known:
        raise UserError(
            f"the preprocessor of '{name}' has a size of {', '.join(settings.size)}; supported are "
            + ", ".join(" and ".join(sorted(keys)) for keys in known)
        )
    if settings.resample not in resampling.NUMBERS:
        raise UserError(
            f"the preprocessor of '{name}' has resample = {settings.resample}; "
            f"supported are {sorted(resampling.NUMBERS)}, as in PIL.Image.Resampling"
        )


class Preprocessor:
    """A checkpoint's preprocessing, on a device."""

    def __init__(self, settings: Settings, device: str):
        import torch

        self.settings = settings
        self.device = device
        mean = torch.tensor(settings.image_mean).view(3, 1, 1)
        std = torch.tensor(settings.image_std).view(3, 1, 1)
        if not settings.do_normalize:
            mean = torch.zeros_like(mean)
            std = torch.ones_like(std)
        scale = settings.rescale_factor if settings.do_rescale else 1.0
        if settings.offset:
            mean = mean + 1
        self._gain = (scale / std).to(device)
        self._offset = (mean / std).to(device)

    def fit(self, images):
        """Return images [N, H, W, 3] uint8, a tensor or an array, as a tensor on the device.

        It is [N, 3, h, w] uint8.
        """
        import torch

        if isinstance(images, np.ndarray):
            images = torch.from_numpy(np.ascontiguousarray(images))
        pixels = images.to(self.device).permute(0, 3, 1, 2)
        if self.settings.do_resize:
            pixels = self._resize(pixels)
        if self.settings.do_center_crop:
            pixels = centre_crop(pixels, *self.settings.crop_size)
        return pixels

    def fit_all(self, images: list[np.ndarray]):
        """Return pictures [H, W, 3] uint8 of any sizes as a tensor [N, 3, h, w] uint8.

        Those of equal size are one batch.  All must be of one size in the end.
        """
        import torch

        by_shape: dict[tuple, list[int]] = {}
        for i, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(i)
        fitted: list = [None] * len(images)
        for rows in by_shape.values():
            batch = self.fit(np.stack([images[i] for i in rows]))
            for i, pixels in zip(rows, batch, strict=True):
                fitted[i] = pixels
        return torch.stack(fitted)

    def normalise(self, pixels):
        """Return pixels [..., 3, h, w] uint8, a tensor or an array, as the model's float32."""
        import torch

        return torch.as_tensor(pixels).to(self.device).float() * self._gain - self._offset

    def _resize(self, pixels):
        height, width = resized_size(self.settings, *pixels.shape[-2:])
        resized = resampling.resize(pixels, height, width, self.settings.resample)
        if self.settings.kind != "ConvNext":
            return resized
        side = self.settings.size["shortest_edge"]  # of the square that is left
        return centre_crop(resized, side, side)


def resized_size(s: Settings, height: int, width: int) -> tuple[int, int]:
    """Return height and width of a picture after resizing and before a crop, in px.

    The formulas, with their truncations, are those of transformers.image_transforms and of the
    processors of ConvNeXT and SigLIP 2.
    """
    if s.max_num_patches and s.patch_size:
        return _size_of_patches(height, width, s.patch_size, s.max_num_patches)
    if s.kind == "ConvNext":
        side = s.size["shortest_edge"]
        if side >= WARPED_FROM_PX:
            return side, side
        return _by_shortest(height, width, int(side / (s.crop_pct or 1)))
    if "height" in s.size:
        return s.size["height"], s.size["width"]
    if "max_height" in s.size:
        factor = min(s.size["max_height"] / height, s.size["max_width"] / width)
        return int(height * factor), int(width * factor)
    shortest = s.size["shortest_edge"]
    if "longest_edge" in s.size:
        longest = s.size["longest_edge"]
        if max(height, width) / min(height, width) * shortest > longest:
            shortest = round(longest * min(height, width) / max(height, width))
    return _by_shortest(height, width, shortest)


def _by_shortest(height: int, width: int, shortest: int) -> tuple[int, int]:
    longest = int(shortest * max(height, width) / min(height, width))
    return (longest, shortest) if width <= height else (shortest, longest)


def _size_of_patches(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """The largest size of about this shape, in whole patches, that has no more than `most`."""

    def scaled(factor: float) -> tuple[int, int]:
        sides = [
            max(patch, int(np.ceil(side * factor / patch)) * patch) for side in (height, width)
        ]
        return sides[0], sides[1]

    smallest, largest = 1e-6, 100.0
    while largest - smallest >= 1e-5:
        factor = (smallest + largest) / 2
        high, wide = scaled(factor)
        if high // patch * (wide // patch) <= most:
            smallest = factor
        else:
            largest = factor
    return scaled(smallest)


def centre_crop(pixels, height: int, width: int):
    """Return the middle [..., height, width] of pixels [..., H, W]; what lacks is black."""
    import torch

    old_height, old_width = pixels.shape[-2:]
    missing_rows = max(0, height - old_height)
    missing_columns = max(0, width - old_width)
    if missing_rows or missing_columns:
        top = (missing_rows + 1) // 2
        left = (missing_columns + 1) // 2
        borders = (left, missing_columns - left, top, missing_rows - top)
        pixels = torch.nn.functional.pad(pixels, borders)
    top = (pixels.shape[-2] - height) // 2
    left = (pixels.shape[-1] - width) // 2
    return pixels[..., top : top + height, left : left + width]
