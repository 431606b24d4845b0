"""AST's geometry: patches, frames that hold sound, seconds that one pass takes."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTModel

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.audio import label_names_of
from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.runtime.errors import UserError
from tests.support.tiny_audio import write_audioset_ast, write_clap, write_yamnet
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


def test_windows_have_the_frames_of_their_sound_and_no_others(models):
    backbone = AstBackbone(str(models["ast"]))
    wave = noise(3 * RATE_HZ)
    starts = [0, 1600, 32_000]
    windows, lengths = backbone.prepare_windows(wave, starts, RATE_HZ)
    assert windows.shape == (3, 98, backbone.config.num_mel_bins) and lengths == [98] * 3
    alone, _ = backbone.log_mel([wave[start : start + RATE_HZ] for start in starts])
    np.testing.assert_allclose(windows, alone[:, :98], atol=1e-6)

    between_frames, _ = backbone.prepare_windows(wave, [1601, 1759], RATE_HZ)
    assert np.array_equal(between_frames[0], windows[1])
    assert np.array_equal(between_frames[1], windows[1])


def test_a_window_shorter_than_a_patch_is_padded_as_a_sound_is(models):
    backbone = AstBackbone(str(models["ast"]))
    wave = noise(3 * RATE_HZ)
    windows, lengths = backbone.prepare_windows(wave, [0], 2666)
    padded, _ = backbone.log_mel([wave[:2666]])
    assert windows.shape[1] == 16 and lengths == [15]
    np.testing.assert_allclose(windows, padded[:, :16], atol=1e-6)


def test_short_windows_are_heard_as_by_an_ast_of_their_length(models):
    """The stock model of 98 frames, whose positions are the first ones of the longer model."""
    backbone = AstBackbone(str(models["ast"]))
    windows = backbone.prepare_windows(noise(3 * RATE_HZ), [0, 16_000], RATE_HZ)
    heard = backbone.hear(windows)

    config = copy.deepcopy(backbone.config)
    config.max_length = 98
    short = ASTModel(config).eval()
    high, wide = short.embeddings.get_shape(config)
    weights = backbone.model.audio_spectrogram_transformer.state_dict()
    positions = weights["embeddings.position_embeddings"][0]
    by_place = positions[2:].reshape(high, -1, config.hidden_size)
    kept = [
        *positions[:2],
        *(by_place[row, column] for row in range(high) for column in range(wide)),
    ]
    weights["embeddings.position_embeddings"] = torch.stack(kept)[None]
    short.load_state_dict(weights)
    with torch.no_grad():
        outputs = short(torch.from_numpy(windows.values)).last_hidden_state[:, 2:]
    expected = outputs.reshape(2, high, wide, -1).mean(1)
    assert heard.valid == [wide, wide] == [9, 9]
    np.testing.assert_allclose(heard.frames, expected, atol=1e-5)


def test_threads_may_share_a_model_for_short_and_whole_inputs(models):
    backbone = AstBackbone(str(models["ast"]))
    wave = noise(3 * RATE_HZ)
    inputs = [backbone.prepare([wave]), backbone.prepare_windows(wave, [0, 16_000], RATE_HZ)] * 8
    expected = [backbone.hear(one).frames for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        for heard, frames in zip(pool.map(backbone.hear, inputs), expected, strict=True):
            np.testing.assert_allclose(heard.frames, frames, atol=1e-6)


def test_patches_are_16_frames_of_25_ms_10_ms_apart(models):
    backbone = AstBackbone(str(models["ast"]))
    assert np.allclose(backbone.frame_times_s(3), [[0, 0.175], [0.1, 0.275], [0.2, 0.375]])


def test_another_kind_of_model_is_a_sentence(models):
    sentence = "cannot be loaded as an Audio Spectrogram Transformer"
    with pytest.raises(UserError, match=sentence) as caught:
        AstBackbone(str(models["vit"]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("write", [write_yamnet, write_clap, write_audioset_ast])
def test_scores_have_audiosets_labels_whatever_a_model_calls_them(write, tmp_path):
    names = label_names_of(str(write(tmp_path / "model")))
    assert names == [label.display_name for label in load_labels()]


def test_an_ast_of_other_labels_keeps_them(base):
    assert label_names_of(str(base)) == [f"LABEL_{index}" for index in range(LABELS)]
