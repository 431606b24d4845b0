"""What every audio backbone must do, on tiny models of random weights of each kind."""

import json
import shutil
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones import audio, hub
from audio_from_video.backbones.audio import has_labels, load_audio, widths_of
from audio_from_video.backbones.audio_interface import AudioBackbone
from audio_from_video.backbones.audio_labels import positions, reorder
from audio_from_video.backbones.audio_steps import encode_sound
from audio_from_video.backbones.audio_yamnet import YamnetFrontEnd
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.runtime.errors import UserError
from tests.support import audio_conformance, conformance
from tests.support.audio_conformance import (
    RATE_HZ,
    AudioFindings,
    hear,
    sounds,
    yamnet_patches,
)
from tests.support.tiny_audio import WRITERS, write_yamnet

LABELLED = ("ast", "clap", "clap fused", "yamnet", "pe_audio", "wavlm with a head")
UNLABELLED = ("whisper", "wav2vec2", "hubert", "wavlm")
EVERY_KIND = pytest.mark.parametrize("kind", WRITERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {kind: str(write(folder / kind)) for kind, write in WRITERS.items()}


@pytest.fixture(scope="module")
def backbones(folders) -> dict[str, AudioBackbone]:
    return {kind: load_audio(folder, "cpu") for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def found(folders, backbones) -> Callable[[str], AudioFindings]:
    """What the model of a kind gives; it is computed once."""
    return cache(lambda kind: audio_conformance.findings(kind, folders[kind], backbones[kind]))


def parameters(**changes) -> AudioFeaturesParams:
    settings = {"model": "any", "segments": "pooled", "window_s": 1.0, "components": 8}
    return AudioFeaturesParams(**settings | changes)


@EVERY_KIND
def test_frames_times_and_scores_have_their_shapes(kind, folders, backbones):
    backbone = backbones[kind]
    width, pooled_width = widths_of(folders[kind])
    heard = hear(backbone, sounds(1.0, 1.7, 0.01))
    assert heard.frames.shape[0] == 3 and heard.frames.shape[2] == width == backbone.width
    assert heard.frames.dtype == np.float32 and np.isfinite(heard.frames).all()
    assert heard.pooled.shape == (3, pooled_width)
    assert min(heard.valid) >= 1 and max(heard.valid) <= heard.frames.shape[1]
    assert heard.valid[1] > heard.valid[0] >= heard.valid[2]

    times_s = backbone.frame_times_s(heard.valid[1])
    assert times_s.shape == (heard.valid[1], 2)
    assert times_s[0, 0] == 0 and (np.diff(times_s, axis=0) > 0).all()
    assert 0.5 < times_s[-1, 1] <= 1.75  # frames that hold sound end where it ends

    assert has_labels(folders[kind]) == (kind in LABELLED)
    if kind in LABELLED:
        assert heard.label_scores.shape == (3, 527)
        assert (heard.label_scores >= 0).all() and (heard.label_scores <= 1).all()
        assert np.abs(heard.label_scores[0] - heard.label_scores[1]).max() > 1e-4
    else:
        assert heard.label_scores is None


@EVERY_KIND
def test_a_batch_of_four_is_four_batches_of_one(kind, found):
    assert found(kind).alone


@EVERY_KIND
def test_outputs_are_the_stock_models(kind, found):
    for each in found(kind).compared:
        assert each.ours.shape == each.stock.shape
        np.testing.assert_allclose(each.ours, each.stock, rtol=1e-5, atol=each.tolerance)


@EVERY_KIND
def test_bfloat16_is_close_to_float32(kind, found):
    assert found(kind).bfloat16_is_near, found(kind).bfloat16_cosine


def test_the_page_has_what_is_found(found, folders, backbones):
    every_kind = {kind: found(kind) for kind in WRITERS}
    table = audio_conformance.audio_table(every_kind, folders, backbones)
    assert conformance.table_on_page("audio") == table, "run python -m benchmarks.conformance"


@EVERY_KIND
@pytest.mark.parametrize("segments", ["pooled", "windows", "padded_windows", "eighteenth"])
def test_padding_enters_no_mean(kind, segments, backbones, monkeypatch):
    """Frames behind a sound's end become NaN here: one in a mean would make it NaN."""
    backbone = backbones[kind]
    (wave,) = sounds(1.3)
    labeller = backbones["yamnet"] if kind in UNLABELLED else None
    clean = encode_sound(backbone, wave, 6, parameters(segments=segments), labeller)
    real = backbone.hear

    def with_nan(inputs):
        heard = real(inputs)
        for frames, count in zip(heard.frames, heard.valid, strict=True):
            frames[count:] = np.nan
        return heard

    monkeypatch.setattr(backbone, "hear", with_nan)
    heard = encode_sound(backbone, wave, 6, parameters(segments=segments), labeller)
    assert heard.patches.shape == (6, backbone.width)
    assert np.array_equal(heard.patches, clean.patches)
    assert heard.label_scores.shape == (527,)


@pytest.mark.parametrize("kind", LABELLED)
def test_scores_follow_from_pooled_outputs(kind, backbones):
    """For YAMNet with a sound of one patch: of several it scores each and takes the mean."""
    heard = hear(backbones[kind], sounds(1.0, 0.9))
    scores = backbones[kind].scores(heard.pooled)
    assert scores.dtype == np.float32
    assert np.allclose(scores, heard.label_scores, atol=1e-6)


@pytest.mark.parametrize("kind", UNLABELLED)
def test_a_model_without_labels_says_where_to_name_one_that_has_some(kind, backbones):
    backbone = backbones[kind]
    with pytest.raises(UserError, match="knows no labels: .*audio_features.label_model"):
        backbone.scores(np.zeros((1, backbone.width), np.float32))


# Against the stock models


def test_claps_columns_are_in_the_order_of_time(backbones):
    """Silence after 5 of 10 s: columns of the first half differ from those of the second."""
    wave = np.zeros(10 * RATE_HZ, np.float32)
    (noise,) = sounds(5.0)
    wave[: len(noise)] = noise
    frames = hear(backbones["clap"], [wave]).frames[0]
    half = len(frames) // 2
    silent = frames[half + 4 :]
    spread = np.linalg.norm(silent - silent.mean(0), axis=1).max()
    apart = np.linalg.norm(frames[: half - 4] - silent.mean(0), axis=1).min()
    assert apart > 2 * spread


def test_whispers_frames_that_hold_sound_are_of_20_ms(backbones):
    assert hear(backbones["whisper"], sounds(1.5)).valid == [75]


def test_a_wave_model_counts_the_frames_that_it_has(folders, backbones):
    for kind in ("wav2vec2", "hubert", "wavlm"):
        short, long = sounds(0.7, 1.5)
        model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
        with torch.no_grad():
            stock = model(torch.from_numpy(short)[None]).last_hidden_state[0]
        assert hear(backbones[kind], [short, long]).valid[0] == len(stock)


def test_a_head_for_several_layers_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["wavlm with a head"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_weighted_layer_sum": True}))
    with pytest.raises(UserError, match="head for the outputs of several layers"):
        load_audio(str(folder), "cpu")


# YAMNet's front end


@pytest.mark.parametrize("seconds", [0.975, 1.0, 1.5, 3.0])
def test_yamnets_patches_are_those_of_its_description(seconds):
    (wave,) = sounds(seconds)
    ours = YamnetFrontEnd()(wave)
    theirs = yamnet_patches(wave.astype(np.float64))
    assert ours.shape == theirs.shape == (1 + max(0, round(seconds * 100) - 98) // 48, 96, 64)
    assert np.allclose(ours, theirs, atol=1e-4)


def test_a_sound_shorter_than_a_patch_of_yamnet_is_padded_with_silence():
    (wave,) = sounds(0.3)
    patches = YamnetFrontEnd()(wave)
    assert patches.shape == (1, 96, 64)
    assert np.allclose(patches[0, 32:], np.log(0.001))


# Labels


def test_labels_are_found_by_name_or_id_and_missing_ones_score_0():
    labels = load_labels()
    names = [labels[2].mid, labels[0].display_name.upper(), "no label"]
    places = positions(names)
    assert places[:4].tolist() == [1, -1, 0, -1]
    scores = reorder(np.array([[0.2, 0.3, 0.4]]), places)
    assert scores[0, :4].tolist() == [0.3, 0, 0.2, 0]


# What is not supported


def test_another_kind_is_a_sentence_that_names_the_known_ones(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "encodec"}))
    with pytest.raises(UserError, match="type encodec.*AST.*CLAP.*Whisper.*wav2vec 2.*YAMNet"):
        load_audio(str(tmp_path))


def test_a_mobilenet_for_pictures_is_a_sentence(tmp_path):
    write_yamnet(tmp_path, channels=3)
    with pytest.raises(UserError, match="MobileNetV1 for pictures, not YAMNet"):
        load_audio(str(tmp_path), "cpu")


def test_every_kind_is_tested_here(folders):
    tested = {hub.model_type_of(folder) for folder in folders.values()}
    assert tested == set(audio.KINDS)
