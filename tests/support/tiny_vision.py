"""Vision models of every supported kind: random weights, the published form of their files.

Pictures are 32 px, layers 2, and the preprocessor configs have the keys and the class names that
the published checkpoints have.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as t

from tests.support.tiny_backbones import draw_weights

SIDE = 32
SHAPE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
PATCHES = {"image_size": SIDE, "patch_size": 8}
TEXT = {**SHAPE, "vocab_size": 40, "max_position_embeddings": 8}
SPECIAL_IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1]}
SQUARE = {"height": SIDE, "width": SIDE}
CROPPED = {"size": {"shortest_edge": SIDE}, "crop_size": SQUARE, "do_center_crop": True}


def _two_towers(model: str, config: str) -> torch.nn.Module:
    """The model of pictures and texts that a checkpoint has."""
    made = getattr(t, config)(
        vision_config={**SHAPE, **PATCHES},
        text_config={**TEXT, **SPECIAL_IDS},
        projection_dim=12,
    )
    return getattr(t, model)(made)


def _siglip2() -> torch.nn.Module:
    vision = {**SHAPE, "patch_size": 8, "num_patches": 16}
    return t.Siglip2Model(
        t.Siglip2Config(vision_config=vision, text_config={**TEXT, **SPECIAL_IDS})
    )


def _video_prism_vision() -> dict:
    return {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "num_spatial_layers": 1,
        "num_temporal_layers": 1,
        "num_auxiliary_layers": 1,
        "image_size": SIDE,
        "num_frames": 4,
        "tubelet_size": [1, 8, 8],
    }


def _swin(version: str) -> torch.nn.Module:
    config = getattr(t, f"Swin{version}Config")(
        image_size=SIDE, patch_size=4, embed_dim=12, depths=[1, 1], num_heads=[2, 2], window_size=4
    )
    return getattr(t, f"Swin{version}Model")(config)


def _video_prism() -> torch.nn.Module:
    text = {**TEXT, **SPECIAL_IDS}
    return t.VideoPrismClipModel(
        t.VideoPrismConfig(vision_config=_video_prism_vision(), text_config=text)
    )


VIDEO_SHAPE = {**SHAPE, "image_size": SIDE}
# A kind: the model with the head that published checkpoints have, and its preprocessor's config.
MODELS: dict[str, tuple[Callable[[], torch.nn.Module], dict]] = {
    "vit": (
        lambda: t.ViTForImageClassification(t.ViTConfig(**SHAPE, **PATCHES)),
        {"image_processor_type": "ViTImageProcessor", "size": SQUARE},
    ),
    "deit": (
        lambda: t.DeiTModel(t.DeiTConfig(**SHAPE, **PATCHES)),
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 36, "crop_size": SIDE},
    ),
    "dinov2": (
        lambda: t.Dinov2Model(t.Dinov2Config(**SHAPE, image_size=48, patch_size=8)),
        {"image_processor_type": "BitImageProcessor", **CROPPED},
    ),
    "dinov2_with_registers": (
        lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**SHAPE, **PATCHES, num_register_tokens=4)
        ),
        {"image_processor_type": "BitImageProcessor", **CROPPED},
    ),
    "ijepa": (
        lambda: t.IJepaModel(t.IJepaConfig(**SHAPE, **PATCHES)),
        {"image_processor_type": "ViTImageProcessor", "size": SQUARE},
    ),
    "vit_mae": (
        lambda: t.ViTMAEForPreTraining(
            t.ViTMAEConfig(
                **SHAPE,
                **PATCHES,
                decoder_hidden_size=16,
                decoder_num_hidden_layers=1,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=16,
            )
        ),
        {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE},
    ),
    "beit": (
        lambda: t.BeitModel(t.BeitConfig(**SHAPE, **PATCHES, use_relative_position_bias=True)),
        {"feature_extractor_type": "BeitFeatureExtractor", "size": SIDE, "do_center_crop": False},
    ),
    "data2vec-vision": (
        lambda: t.Data2VecVisionModel(
            t.Data2VecVisionConfig(**SHAPE, **PATCHES, use_shared_relative_position_bias=True)
        ),
        {"feature_extractor_type": "BeitFeatureExtractor", "size": SIDE, "do_center_crop": False},
    ),
    "dinov3_vit": (
        lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**SHAPE, **PATCHES, num_register_tokens=4)),
        {
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "do_center_crop": None,
            "size": SQUARE,
        },
    ),
    "dinov3_convnext": (
        lambda: t.DINOv3ConvNextModel(
            t.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])
        ),
        {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": SQUARE},
    ),
    "clip": (
        lambda: _two_towers("CLIPModel", "CLIPConfig"),
        {"feature_extractor_type": "CLIPFeatureExtractor", "size": SIDE, "crop_size": SIDE},
    ),
    "clip_vision_model": (
        lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**SHAPE, **PATCHES)),
        {"image_processor_type": "CLIPImageProcessor", **CROPPED},
    ),
    "siglip": (
        lambda: _two_towers("SiglipModel", "SiglipConfig"),
        {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "resample": 3},
    ),
    "siglip_vision_model": (
        lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**SHAPE, **PATCHES)),
        {"image_processor_type": "SiglipImageProcessor", "size": SQUARE, "resample": 3},
    ),
    "siglip2": (
        _siglip2,
        {
            "image_processor_type": "Siglip2ImageProcessor",
            "patch_size": 8,
            "max_num_patches": 16,
        },
    ),
    "siglip2_vision_model": (
        lambda: t.Siglip2VisionModel(t.Siglip2VisionConfig(**SHAPE, patch_size=8, num_patches=16)),
        {
            "image_processor_type": "Siglip2ImageProcessorFast",
            "patch_size": 8,
            "max_num_patches": 16,
        },
    ),
    "aimv2": (
        lambda: _two_towers("Aimv2Model", "Aimv2Config"),
        {"image_processor_type": "CLIPImageProcessor", **CROPPED},
    ),
    "aimv2_vision_model": (
        lambda: t.Aimv2VisionModel(t.Aimv2VisionConfig(**SHAPE, **PATCHES)),
        {"image_processor_type": "CLIPImageProcessor", **CROPPED},
    ),
    "swin": (
        lambda: _swin(""),
        {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE, "resample": 3},
    ),
    "swinv2": (
        lambda: _swin("v2"),
        {"feature_extractor_type": "ViTFeatureExtractor", "size": SIDE, "resample": 3},
    ),
    "convnext": (
        lambda: t.ConvNextModel(t.ConvNextConfig(**STAGES, num_stages=2)),
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": SIDE, "crop_pct": 0.875},
    ),
    "convnextv2": (
        lambda: t.ConvNextV2Model(t.ConvNextV2Config(**STAGES, num_stages=2)),
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": SIDE}},
    ),
    "resnet": (
        lambda: t.ResNetModel(t.ResNetConfig(embedding_size=8, layer_type="basic", **STAGES)),
        {"feature_extractor_type": "ConvNextFeatureExtractor", "size": SIDE, "crop_pct": 0.875},
    ),
    "videomae": (
        lambda: t.VideoMAEModel(
            t.VideoMAEConfig(**VIDEO_SHAPE, patch_size=8, num_frames=4, use_mean_pooling=False)
        ),
        {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": SIDE, "crop_size": SIDE},
    ),
    "timesformer": (
        lambda: t.TimesformerForVideoClassification(
            t.TimesformerConfig(**VIDEO_SHAPE, patch_size=8, num_frames=4)
        ),
        {"image_processor_type": "VideoMAEImageProcessor", **CROPPED},
    ),
    "vivit": (
        lambda: t.VivitModel(t.VivitConfig(**VIDEO_SHAPE, num_frames=8, tubelet_size=[2, 8, 8])),
        {
            "image_processor_type": "VivitImageProcessor",
            "size": {"shortest_edge": 36},
            "crop_size": SQUARE,
            "offset": True,
            "rescale_factor": 1 / 127.5,
        },
    ),
    "vjepa2": (
        lambda: t.VJEPA2Model(
            t.VJEPA2Config(
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=2,
                patch_size=8,
                crop_size=SIDE,
                frames_per_clip=64,
                pred_hidden_size=24,
                pred_num_attention_heads=2,
                pred_num_hidden_layers=1,
            )
        ),
        {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": SQUARE},
    ),
    "videoprism": (
        _video_prism,
        {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "size": SQUARE,
            "do_normalize": False,
        },
    ),
    "videoprism_vision_model": (
        lambda: t.VideoPrismVisionModel(t.VideoPrismVisionConfig(**_video_prism_vision())),
        {
            "video_processor_type": "LlavaOnevisionVideoProcessor",
            "size": SQUARE,
            "do_normalize": False,
        },
    ),
}


def write(kind: str, folder: Path, seed: int = 0) -> Path:
    """Write a model directory of a kind."""
    torch.manual_seed(seed)
    make, preprocessor = MODELS[kind]
    model = make()
    draw_weights(model)
    model.save_pretrained(folder)
    video = "video_processor_type" in preprocessor
    name = "video_preprocessor_config.json" if video else "preprocessor_config.json"
    (folder / name).write_text(json.dumps(preprocessor))
    return folder
