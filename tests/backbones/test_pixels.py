"""Preprocessing against the processors of transformers, wherever these run without torchvision."""

import json

import numpy as np
import pytest
import torch
import transformers
from transformers.models.beit.image_processing_pil_beit import BeitImageProcessorPil
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from transformers.models.vivit.image_processing_vivit import VivitImageProcessor

from audio_from_video.backbones import pixels
from audio_from_video.runtime.errors import UserError
from tests.support.tiny_backbones import images

PROCESSORS = {
    "Beit": BeitImageProcessorPil,
    "Bit": BitImageProcessorPil,
    "Blip": BlipImageProcessorPil,
    "CLIP": CLIPImageProcessorPil,
    "ConvNext": ConvNextImageProcessorPil,
    "DeiT": DeiTImageProcessorPil,
    "Siglip": SiglipImageProcessorPil,
    "ViT": ViTImageProcessorPil,
    "VideoMAE": VideoMAEImageProcessorPil,
    "Vivit": VivitImageProcessor,
}
SHAPES = [(60, 90), (90, 60), (20, 28), (40, 40)]
OPTIONS = {
    "ViT": [
        {"size": {"height": 32, "width": 48}, "resample": 1},
        {"size": {"height": 32, "width": 32}, "do_rescale": False, "image_std": [2.0, 3.0, 4.0]},
        {"size": {"height": 32, "width": 32}, "do_normalize": False},
        {"size": {"shortest_edge": 30, "longest_edge": 40}},
        {"size": {"max_height": 50, "max_width": 40}},
    ],
    "CLIP": [
        {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 30}},
        {"size": {"shortest_edge": 24}, "crop_size": {"height": 40, "width": 33}},  # black borders
        {"do_resize": False, "do_center_crop": False},
    ],
    "ConvNext": [{"size": {"shortest_edge": 32}}, {"size": {"shortest_edge": 384}}],
    "Vivit": [{"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}],
}
CASES = [(kind, {}) for kind in PROCESSORS] + [
    (kind, options) for kind, several in OPTIONS.items() for options in several
]


def prepared(folder, pictures, video=False) -> np.ndarray:
    """Return what our preprocessing makes of pictures [N, H, W, 3], float32 [N, 3, h, w]."""
    preprocessor = pixels.Preprocessor(pixels.read_settings(str(folder), video), "cpu")
    return preprocessor.normalise(preprocessor.fit(np.stack(pictures))).numpy()


def write(folder, config: dict, name: str = "preprocessor_config.json"):
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / name).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kind, options", CASES)
def test_input_is_the_processors(tmp_path, kind, options):
    """With the options alone in the config, so that the defaults are compared, too."""
    processor = PROCESSORS[kind](**options)
    write(tmp_path, {"image_processor_type": f"{kind}ImageProcessor", **options})
    for height, width in SHAPES:
        pictures = images(2, height, width)
        expected = np.stack(processor(pictures, return_tensors="np")["pixel_values"])
        ours = prepared(tmp_path, pictures)
        assert ours.shape == expected.reshape(ours.shape).shape
        assert np.abs(ours - expected.reshape(ours.shape)).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("kind", PROCESSORS)
def test_saved_processors_are_read(tmp_path, kind):
    processor = PROCESSORS[kind]()
    (tmp_path / "config.json").write_text("{}")
    processor.save_pretrained(tmp_path)
    pictures = images(2, 60, 90)
    expected = np.stack(processor(pictures, return_tensors="np")["pixel_values"])
    ours = prepared(tmp_path, pictures)
    assert np.abs(ours - expected.reshape(ours.shape)).max() < 1e-4 * np.abs(expected).max()


def test_siglip2_keeps_the_shape_of_pictures(tmp_path):
    options = {"patch_size": 8, "max_num_patches": 24}
    processor = transformers.models.siglip2.image_processing_pil_siglip2.Siglip2ImageProcessorPil(
        **options
    )
    write(tmp_path, {"image_processor_type": "Siglip2ImageProcessor", **options})
    for height, width in SHAPES:
        pictures = images(1, height, width)
        expected = processor(pictures, return_tensors="np")
        high, wide = expected["spatial_shapes"][0]
        patches = expected["pixel_values"][0][: high * wide]
        picture = patches.reshape(high, wide, 8, 8, 3).transpose(4, 0, 2, 1, 3)
        ours = prepared(tmp_path, pictures)
        assert ours.shape == (1, 3, high * 8, wide * 8)
        assert np.allclose(ours[0], picture.reshape(ours.shape[1:]), atol=1e-4)


def test_processors_that_rescale_first_differ_by_a_rounding(tmp_path):
    """DINOv3's resizes floats; what it does is written out here, for it needs torchvision."""
    write(
        tmp_path,
        {
            "image_processor_type": "DINOv3ViTImageProcessorFast",
            "do_center_crop": None,
            "size": {"height": 32, "width": 32},
        },
    )
    pictures = images(3, 60, 90)
    values = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255
    resized = torch.nn.functional.interpolate(values, (32, 32), mode="bilinear", antialias=True)
    mean = torch.tensor(pixels.IMAGENET_MEAN).view(3, 1, 1)
    std = torch.tensor(pixels.IMAGENET_STD).view(3, 1, 1)
    difference = prepared(tmp_path, pictures) - ((resized - mean) / std).numpy()
    assert np.abs(difference * std.numpy()).max() <= 1 / 255


def test_vjepa2_resizes_to_a_margin_around_its_crop(tmp_path):
    write(
        tmp_path,
        {"video_processor_type": "VJEPA2VideoProcessor", "crop_size": 28, "size": {"height": 1}},
        "video_preprocessor_config.json",
    )
    settings = pixels.read_settings(str(tmp_path), video=True)
    assert settings.size == {"shortest_edge": 32} and settings.crop_size == (28, 28)
    assert settings.image_mean == pixels.IMAGENET_MEAN
    assert settings.seen_px == 28


def test_old_configs_have_numbers_for_sizes(tmp_path):
    write(tmp_path, {"feature_extractor_type": "CLIPFeatureExtractor", "size": 30, "crop_size": 28})
    settings = pixels.read_settings(str(tmp_path))
    assert settings.size == {"shortest_edge": 30} and settings.crop_size == (28, 28)
    write(tmp_path, {"feature_extractor_type": "ViTFeatureExtractor", "size": 30})
    assert pixels.read_settings(str(tmp_path)).size == {"height": 30, "width": 30}


def test_configs_without_a_class_get_that_of_the_model_type(tmp_path):
    for model_type, kind in (
        ("vit", "ViT"),
        ("swin", "ViT"),
        ("clip", "CLIP"),
        ("resnet", "ConvNext"),
    ):
        write(tmp_path, {"size": 30})
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert pixels.read_settings(str(tmp_path)).kind == kind


def test_the_nested_config_comes_first(tmp_path):
    nested = {
        "image_processor": {"image_processor_type": "ViTImageProcessor", "size": 20},
        "video_processor": {"video_processor_type": "VideoMAEVideoProcessor", "size": 24},
    }
    write(tmp_path, nested, "processor_config.json")
    write(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 99})
    assert pixels.read_settings(str(tmp_path)).size == {"height": 20, "width": 20}
    assert pixels.read_settings(str(tmp_path), video=True).size == {"shortest_edge": 24}


def test_pictures_of_several_sizes_are_batched_by_size(tmp_path):
    write(tmp_path, {"image_processor_type": "ViTImageProcessor", "size": 16})
    preprocessor = pixels.Preprocessor(pixels.read_settings(str(tmp_path)), "cpu")
    pictures = [*images(2, 20, 30), *images(2, 30, 20), *images(1, 20, 30, seed=5)]
    order = [0, 2, 4, 1, 3]
    together = preprocessor.fit_all([pictures[i] for i in order])
    alone = torch.cat([preprocessor.fit(pictures[i][None]) for i in order])
    assert together.shape == (5, 3, 16, 16)
    assert torch.equal(together, alone)


@pytest.mark.parametrize(
    "config, sentence",
    [
        ({"image_processor_type": "Qwen2VLImageProcessor"}, "not supported: those of Beit, Bit"),
        ({"size": 20}, "by an unnamed processor, which is not supported"),
        (
            {"image_processor_type": "ViTImageProcessor", "size": {"longest_edge": 9}},
            "has a size of longest_edge; supported are height and width, shortest_edge",
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "resample": 9},
            r"has resample = 9; supported are \[0, 1, 2, 3, 4, 5\]",
        ),
    ],
)
def test_what_is_not_supported_is_said(tmp_path, config, sentence):
    write(tmp_path, config)
    with pytest.raises(UserError, match=sentence):
        pixels.read_settings(str(tmp_path))


def test_a_model_without_a_preprocessor_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="has no preprocessor config"):
        pixels.read_settings(str(tmp_path))
    write(tmp_path, {})
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match="is no JSON file"):
        pixels.read_settings(str(tmp_path))
