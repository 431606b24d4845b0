"""Vision models of every kind against the stock models of transformers.

References are written out from the stock model's hidden states: which tokens are no patches, where
the final norm comes, in which order space and time stand.
"""

from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import transformers

from audio_from_video.backbones import clip_models, image_models
from audio_from_video.backbones.vision import VisionBackbone
from tests.support import conformance
from tests.support.tiny_backbones import images

FRAMES = 18
# What a kind is called, and what is special.
NAMES = {
    "vit": "ViT",
    "deit": "DeiT",
    "dinov2": "DINOv2",
    "dinov2_with_registers": "DINOv2 with registers",
    "ijepa": "I-JEPA",
    "vit_mae": "ViT-MAE; no patch is masked",
    "beit": "BEiT",
    "data2vec-vision": "Data2Vec",
    "dinov3_vit": "DINOv3",
    "dinov3_convnext": "DINOv3 ConvNeXt",
    "clip": "CLIP with its text tower",
    "clip_vision_model": "CLIP's vision tower",
    "siglip": "SigLIP, or SigLIP 2 of a fixed size, with its text tower",
    "siglip_vision_model": "SigLIP's vision tower",
    "siglip2": "SigLIP 2 with its text tower",
    "siglip2_vision_model": "SigLIP 2's vision tower",
    "aimv2": "AIMv2 with its text tower",
    "aimv2_vision_model": "AIMv2's vision tower",
    "swin": "Swin",
    "swinv2": "Swin V2",
    "convnext": "ConvNeXt",
    "convnextv2": "ConvNeXt V2",
    "resnet": "ResNet",
    "videomae": "VideoMAE",
    "timesformer": "TimeSformer",
    "vivit": "ViViT",
    "vjepa2": "V-JEPA 2",
    "videoprism": "VideoPrism with its text tower",
    "videoprism_vision_model": "VideoPrism",
}
# The tower within what AutoModel loads, its final norm ('' where hidden states have passed it, or
# where patches pass none), and the tokens in front of the patches.
IMAGE_REFERENCES = {
    "vit": ("", "layernorm", 1),  # [CLS]
    "deit": ("", "layernorm", 2),  # [CLS] and [DIST]
    "dinov2": ("", "layernorm", 1),
    "dinov2_with_registers": ("", "layernorm", 5),  # [CLS] and 4 registers
    "ijepa": ("", "layernorm", 0),
    "vit_mae": ("", "layernorm", 1),
    "beit": ("", "layernorm", 1),
    "data2vec-vision": ("", "layernorm", 1),
    "dinov3_vit": ("", "norm", 5),
    "dinov3_convnext": ("", "layer_norm", 0),  # hidden states are maps of patches alone
    "clip": ("vision_model", "", 1),
    "clip_vision_model": ("", "", 1),
    "siglip": ("vision_model", "post_layernorm", 0),
    "siglip_vision_model": ("", "post_layernorm", 0),
    "siglip2": ("vision_model", "post_layernorm", 0),
    "siglip2_vision_model": ("", "post_layernorm", 0),
    "aimv2": ("vision_model", "rms_norm", 0),
    "aimv2_vision_model": ("", "rms_norm", 0),
    "swin": ("", "layernorm", 0),
    "swinv2": ("", "layernorm", 0),
    "convnext": ("", "", 0),
    "convnextv2": ("", "", 0),
    "resnet": ("", "", 0),
}
# The same, then frames of a window, frames of a temporal patch, and whether time comes first.
CLIP_REFERENCES = {
    "videomae": ("", "layernorm", 0, 4, 2, True),
    "timesformer": ("", "layernorm", 1, 4, 1, False),
    "vivit": ("", "layernorm", 1, 8, 2, True),
    "vjepa2": ("", "encoder.layernorm", 0, 8, 2, True),
    "videoprism": ("video_model.vision_model", None, 0, 4, 1, True),
    "videoprism_vision_model": ("", None, 0, 4, 1, True),
}


def pictures(count: int = FRAMES, seed: int = 0) -> np.ndarray:
    """Return pictures [count, 40, 56, 3] uint8."""
    return np.stack(images(count, 40, 56, seed))


class VisionFindings(NamedTuple):
    """What a model of a kind gives; differences are the largest, in units of the largest value.

    from_stock: difference to the means of the stock model's patches.  from_alone: of a batch of
    four clips to the clips one by one.  from_float32: of bfloat16, root of the mean square in units
    of that of the features.
    """

    from_stock: float
    from_alone: float
    from_float32: float

    @property
    def as_stock(self) -> bool:
        return self.from_stock <= 1e-4

    @property
    def as_alone(self) -> bool:
        return self.from_alone <= 1e-4

    @property
    def bfloat16_is_near(self) -> bool:
        return 0 < self.from_float32 < 0.05


def findings(kind: str, folder: Path, backbone: VisionBackbone) -> VisionFindings:
    """Return what the model of a kind in a folder gives."""
    clips = torch.stack([backbone.fit(pictures(seed=seed)) for seed in range(4)])
    together = backbone.encode(clips)
    alone = np.concatenate([backbone.encode(clip[None]) for clip in clips])
    with torch.autocast("cpu", torch.bfloat16):
        half = backbone.encode(clips[:1])
    error = np.sqrt(np.mean((half - alone[:1]) ** 2) / np.mean(alone[:1] ** 2))
    if kind in IMAGE_REFERENCES:
        difference = image_difference(kind, folder, backbone)
    else:
        difference = clip_difference(kind, folder, backbone)
    return VisionFindings(
        from_stock=difference,
        from_alone=largest_difference(together, alone),
        from_float32=float(error),
    )


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference in units of the largest value; infinite if shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def stock_model(folder: Path, tower: str) -> torch.nn.Module:
    """Return what AutoModel loads, or a tower of it."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return attrgetter(tower)(model) if tower else model


def last_hidden(model, norm: str, values, **inputs) -> torch.Tensor:
    """Return tokens [N, S, D] of the last layer's hidden states, behind the final norm."""
    argument = "pixel_values_videos" if "video" in model.main_input_name else "pixel_values"
    with torch.no_grad():
        output = model(**{argument: values}, **inputs, output_hidden_states=True)
        hidden = output.hidden_states[-1]
        if hidden.ndim == 4:  # [N, D, h, w]
            hidden = hidden.flatten(2).transpose(1, 2)
        return attrgetter(norm)(model)(hidden) if norm else hidden


def image_difference(kind: str, folder: Path, backbone: VisionBackbone) -> float:
    """Return the largest difference of frames to the means of the stock model's patches."""
    tower, norm, special_tokens = IMAGE_REFERENCES[kind]
    model = stock_model(folder, tower)
    fitted = backbone.fit(pictures(5))
    values = backbone.preprocessor.normalise(fitted)
    inputs = {}
    if kind == "vit_mae":
        model.config.mask_ratio = 0.0  # its shuffling of the patches stays
    if kind.startswith("siglip2"):
        # Patches of 8 x 8, channels last, as its processor hands them over.
        values = torch.nn.functional.unfold(values, 8, stride=8).transpose(1, 2)  # [N, P, 3 * 64]
        values = values.unflatten(2, (3, 64)).transpose(2, 3).flatten(2)
        inputs["pixel_attention_mask"] = torch.ones(values.shape[:2], dtype=torch.long)
        high, wide = (side // 8 for side in fitted.shape[-2:])
        inputs["spatial_shapes"] = torch.tensor([[high, wide]] * len(values))
    patches = last_hidden(model, norm, values, **inputs)[:, special_tokens:]
    return largest_difference(backbone.encode(fitted[None])[0], patches.mean(1).numpy())


def clip_difference(kind: str, folder: Path, backbone: VisionBackbone) -> float:
    """Return the same of a clip as long as a window, where frame and time stamp are the same."""
    tower, norm, special_tokens, length, tubelet, time_first = CLIP_REFERENCES[kind]
    model = stock_model(folder, tower)
    fitted = backbone.fit(pictures(length))
    values = backbone.preprocessor.normalise(fitted)[None]
    if norm is None:  # VideoPrism: hidden states of its temporal encoder go by place
        with torch.no_grad():
            output = model(pixel_values_videos=values)
            by_place = model.layernorm2(output.last_temporal_hidden_state)  # [P, T, D]
        over_space = by_place.mean(0).numpy()
    else:
        tokens = last_hidden(model, norm, values)[0, special_tokens:]
        order = (length // tubelet, -1) if time_first else (-1, length // tubelet)
        over_space = tokens.unflatten(0, order).mean(1 if time_first else 0).numpy()
    centres = np.arange(length // tubelet) * tubelet + (tubelet - 1) / 2
    expected = [
        [np.interp(frame, centres, column) for column in over_space.T] for frame in range(length)
    ]
    return largest_difference(backbone.encode(fitted[None])[0], np.array(expected))


def vision_table(found: dict[str, VisionFindings]) -> str:
    """Return the page's table of vision models, by kind."""
    header = [
        "`model_type`",
        "models",
        "sees at once",
        "left out of the mean",
        "joint attention",
        "as the stock model",
        "a batch of four as four alone",
        "bfloat16",
    ]
    rows = []
    for kind, of_kind in found.items():
        tokens = (IMAGE_REFERENCES | CLIP_REFERENCES)[kind][2]
        like_vit = kind in image_models.KINDS and image_models.KINDS[kind].like_vit
        rows.append(
            [
                f"`{kind}`",
                NAMES[kind],
                seen_at_once(kind),
                f"{tokens} token{'s' * (tokens > 1)}" if tokens else "",
                "on demand" if like_vit else "",
                conformance.yes(of_kind.as_stock),
                conformance.yes(of_kind.as_alone),
                conformance.yes(of_kind.bfloat16_is_near),
            ]
        )
    return conformance.table(header, rows)


def seen_at_once(kind: str) -> str:
    """Return how many frames a model of the published size sees together."""
    if kind in image_models.KINDS:
        return "a frame"
    if clip_models.KINDS[kind].any_length:
        return "the clip"
    model_type = "videoprism_vision_model" if kind == "videoprism" else kind
    config = transformers.CONFIG_MAPPING[model_type]()
    return f"{config.num_frames} frames"
