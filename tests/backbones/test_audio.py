"""AST's geometry: patches, frames that hold sound, seconds that one pass takes."""

from pathlib import Path

import numpy as np
import pytest

from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.runtime.errors import UserError
from tests.support.tiny_backbones import LABELS, write_ast

RATE_HZ = 16_000

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The folder of a model with AST-base's spectrogram and patches."""
    folder = tmp_path_factory.mktemp("models") / "base"
    return write_ast(folder, num_hidden_layers=1, max_length=1024)


def noise(samples: int) -> np.ndarray:
    wave = np.random.default_rng(0).normal(0, 0.2, samples)
    return wave.astype(np.float32)


def test_ast_base_has_12_by_101_patches_of_which_3_s_fill_29(base):
    backbone = AstBackbone(str(base))
    embeddings = backbone.model.audio_spectrogram_transformer.embeddings
    assert embeddings.get_shape(backbone.config) == (12, 101)
    assert embeddings.position_embeddings.shape[1] == 12 * 101 + 2
    log_mel, frames = backbone.log_mel([noise(3 * RATE_HZ)])
    assert log_mel.shape == (1, 1024, 128)
    assert frames == [298]
    outputs, pooled, scores = backbone.encode(log_mel)
    assert outputs.shape == (1, 101, 24)
    assert pooled.shape == (1, 24)
    assert scores.shape == (1, LABELS)
    assert backbone.valid_patches(298) == 29
    assert backbone.valid_patches(1024) == 101
    assert backbone.max_s == pytest.approx(10.24)


@pytest.mark.parametrize("samples", [48_000, 16_000, 8_000, 2_666, 400, 100, 48_159, 48_160])
def test_the_frames_counted_are_those_that_hold_sound(models, samples):
    backbone = AstBackbone(str(models["ast"]))
    log_mel, (frames,) = backbone.log_mel([noise(samples)])
    padding = log_mel[0, -1]
    is_sound = (log_mel[0] != padding).any(1)
    assert frames == is_sound.sum()
    assert is_sound[:frames].all()


@pytest.mark.parametrize("samples", [400, 16_000, 48_159, 200_000])
def test_log_mel_is_that_of_transformers(models, samples):
    backbone = AstBackbone(str(models["ast"]))
    wave = noise(samples)
    log_mel, _ = backbone.log_mel([wave])
    reference = backbone.extractor(wave, sampling_rate=RATE_HZ, return_tensors="np")
    assert np.allclose(log_mel, reference["input_values"], atol=1e-6)


def test_patches_are_16_frames_of_25_ms_10_ms_apart(models):
    backbone = AstBackbone(str(models["ast"]))
    assert np.allclose(backbone.frame_times_s(3), [[0, 0.175], [0.1, 0.275], [0.2, 0.375]])


def test_another_kind_of_model_is_a_sentence(models):
    sentence = "cannot be loaded as an Audio Spectrogram Transformer"
    with pytest.raises(UserError, match=sentence) as caught:
        AstBackbone(str(models["vit"]))
    assert "\n" not in str(caught.value)
