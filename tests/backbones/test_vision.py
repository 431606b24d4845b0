"""Vision backbones against the plain Hugging Face models, and what attention must obey."""

import numpy as np
import pytest
import torch

from audio_from_video.backbones.hub import width_of
from audio_from_video.backbones.image_models import temporal_positions
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.runtime.errors import UserError
from tests.support.stock_vision import stock_features
from tests.support.tiny_backbones import images

pytestmark = pytest.mark.usefixtures("on_cpu")

ORDER = [3, 0, 5, 1, 4, 2]


def encode(model, pictures, attention="frame", temporal_scale=0.0) -> np.ndarray:
    """Return the frames' vectors [T, D] of a clip."""
    backbone = VisionBackbone(str(model), attention, temporal_scale)
    return backbone.encode(backbone.fit(np.stack(pictures))[None])[0]


@pytest.mark.parametrize("name, width", [("vit", 32), ("dinov2", 24), ("resnet", 16)])
@pytest.mark.parametrize("height, wide", [(32, 32), (48, 64), (70, 40)])
def test_per_frame_features_are_the_stock_models(models, name, width, height, wide):
    pictures = images(18, height, wide)
    features = encode(models[name], pictures)
    expected = stock_features(models[name], pictures)
    assert features.shape == (18, width) == expected.shape
    assert width_of(str(models[name])) == width
    assert np.allclose(features, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - expected.mean(0)).max() > 0.05  # frames do differ


def test_red_is_red(models):
    """OpenCV's BGR reaches the model as RGB."""
    backbone = VisionBackbone(str(models["vit"]))
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 2] = 255
    for size in (32, 40):
        pixels = backbone.fit(np.resize(picture, (1, size, size, 3)))
        assert pixels.shape == (1, 3, 32, 32)
        assert pixels[0].amax((1, 2)).tolist() == [255, 0, 0]


def test_a_batch_of_clips_is_its_clips(models):
    backbone = VisionBackbone(str(models["vit"]), "joint", 0.5)
    clips = torch.stack([backbone.fit(np.stack(images(6, 32, 32, seed))) for seed in range(3)])
    alone = np.concatenate([backbone.encode(clip[None]) for clip in clips])
    assert np.allclose(backbone.encode(clips), alone, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov2"])
@pytest.mark.parametrize("attention", ["frame", "joint"])
def test_weights_in_bfloat16_as_on_a_gpu_are_close(models, name, attention):
    """bfloat16 keeps 8 bits: rounding once is an error of up to 0.4 %."""
    pictures = images(6, 32, 32)
    exact = encode(models[name], pictures, attention, 0.1)
    backbone = VisionBackbone(str(models[name]), attention, 0.1)
    backbone.model.half = True
    backbone.model.model.bfloat16()
    rounded = backbone.encode(backbone.fit(np.stack(pictures))[None])[0]
    assert rounded.dtype == np.float32
    error = np.linalg.norm(rounded - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_joint_attention_sees_the_other_frames(models, name):
    pictures = images(6, 32, 32)
    frame = encode(models[name], pictures)
    joint = encode(models[name], pictures, "joint")
    assert joint.shape == frame.shape
    assert np.abs(joint - frame).max() > 0.02 * np.abs(frame).max()
    other = [*pictures[:5], 255 - pictures[5]]
    assert np.allclose(encode(models[name], other)[:5], frame[:5], atol=1e-5)
    assert np.abs(encode(models[name], other, "joint")[:5] - joint[:5]).max() > 1e-3


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_joint_attention_over_equal_frames_is_attention_within_one(models, name):
    """A softmax over n copies of the same keys spreads the same weights over them."""
    for pictures, tolerance in ((images(1, 32, 32) * 5, 1e-4), (images(1, 32, 32), 1e-5)):
        joint = encode(models[name], pictures, "joint")
        assert np.allclose(joint, encode(models[name], pictures), atol=tolerance)


@pytest.mark.parametrize("attention", ["frame", "joint"])
def test_only_temporal_positions_tell_the_order(models, attention):
    pictures = images(6, 32, 32)
    shuffled = [pictures[i] for i in ORDER]
    without = [encode(models["vit"], clip, attention) for clip in (pictures, shuffled)]
    assert np.allclose(without[1], without[0][ORDER], atol=1e-4)
    positioned = [encode(models["vit"], clip, attention, 0.5) for clip in (pictures, shuffled)]
    assert np.abs(positioned[1] - positioned[0][ORDER]).max() > 0.02
    assert np.abs(positioned[0] - without[0]).max() > 0.02


def test_temporal_positions_are_vaswanis():
    positions = temporal_positions(18, 32).numpy()
    for t, i in ((0, 0), (1, 0), (5, 3), (17, 15)):
        rate = 10_000 ** (-2 * i / 32)
        assert positions[t, 2 * i] == pytest.approx(np.sin(t * rate), abs=1e-5)
        assert positions[t, 2 * i + 1] == pytest.approx(np.cos(t * rate), abs=1e-5)
    assert temporal_positions(4, 7).shape == (4, 7)


def test_joint_needs_a_model_with_tokens(models):
    sentence = "joint needs a model of ViT's kind .*; '.*resnet' is of the kind resnet: use frame"
    with pytest.raises(UserError, match=sentence):
        VisionBackbone(str(models["resnet"]), "joint")


def test_a_model_for_sound_is_no_vision_model(models):
    with pytest.raises(UserError, match="no supported vision model; supported are vit, deit"):
        VisionBackbone(str(models["ast"]))
