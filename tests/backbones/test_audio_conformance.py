"""What every audio backbone must do, on tiny models of random weights of each kind."""

import json
import shutil

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
from tests.support.tiny_audio import WRITERS, write_yamnet

RATE_HZ = 16_000
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


def sounds(*seconds: float) -> list[np.ndarray]:
    """Return noise whose loudness changes twice a second, another one for each length."""
    random = np.random.default_rng(0)
    waves = []
    for length in seconds:
        t = np.arange(round(length * RATE_HZ)) / RATE_HZ
        loudness = 0.02 + 0.2 * (np.sin(4 * np.pi * t) > 0)
        waves.append((loudness * random.normal(size=len(t))).astype(np.float32))
    return waves


def hear(backbone: AudioBackbone, waves: list[np.ndarray]):
    return backbone.hear(backbone.prepare(waves))


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
def test_a_batch_of_four_is_four_batches_of_one(kind, backbones):
    backbone = backbones[kind]
    waves = sounds(1.0, 1.0, 1.9, 0.4)
    together = hear(backbone, waves)
    for number, wave in enumerate(waves):
        alone = hear(backbone, [wave])
        count = alone.valid[0]
        assert together.valid[number] == count
        assert np.allclose(together.frames[number, :count], alone.frames[0, :count], atol=2e-4)
        assert np.allclose(together.pooled[number], alone.pooled[0], atol=2e-4)
        if alone.label_scores is not None:
            assert np.allclose(together.label_scores[number], alone.label_scores[0], atol=2e-4)


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


@EVERY_KIND
def test_bfloat16_is_close_to_float32(kind, backbones, monkeypatch):
    backbone = backbones[kind]
    waves = sounds(1.0, 1.4)
    exact = hear(backbone, waves)
    monkeypatch.setattr(hub, "autocast", lambda device: torch.autocast("cpu", torch.bfloat16))
    rounded = hear(backbone, waves)
    assert rounded.frames.dtype == np.float32
    for number, count in enumerate(exact.valid):
        ours = rounded.frames[number, :count].ravel()
        theirs = exact.frames[number, :count].ravel()
        cosine = ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)
        assert 0.97 < cosine < 1 - 1e-9  # near, and really computed in another precision


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


def test_clap_gives_the_stock_models_cosines(folders, backbones):
    """At 48 kHz, where a resampled sound is what the extractor expects."""
    (wave,) = sounds(1.5)
    backbone = backbones["clap"]
    extractor = transformers.ClapFeatureExtractor.from_pretrained(folders["clap"])
    model = transformers.ClapModel.from_pretrained(folders["clap"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["clap"])
    from scipy.signal import resample_poly

    features = extractor(resample_poly(wave, 3, 1), sampling_rate=48_000, return_tensors="pt")
    chosen = [0, 17, 526]
    texts = [f"This is a sound of {load_labels()[i].display_name.lower()}." for i in chosen]
    with torch.no_grad():
        output = model(
            **tokenizer(texts, padding=True, return_tensors="pt"),
            input_features=features["input_features"].float(),
        )
        last = model.audio_model(features["input_features"].float()).last_hidden_state
    heard = hear(backbone, [wave])
    cosines = (output.audio_embeds @ output.text_embeds.T)[0].clamp(min=0).numpy()
    assert np.allclose(heard.pooled[0], output.audio_embeds[0].numpy(), atol=1e-5)
    assert np.allclose(heard.label_scores[0, chosen], cosines, atol=1e-5)
    assert np.allclose(heard.frames[0], last[0].mean(1).T.numpy(), atol=1e-4)


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


def test_whisper_gives_the_stock_encoders_outputs(folders, backbones):
    (wave,) = sounds(1.5)
    extractor = transformers.WhisperFeatureExtractor.from_pretrained(folders["whisper"])
    model = transformers.WhisperModel.from_pretrained(folders["whisper"]).eval()
    features = extractor(wave, sampling_rate=RATE_HZ, return_tensors="pt")["input_features"]
    with torch.no_grad():
        stock = model.encoder(features).last_hidden_state[0].numpy()
    heard = hear(backbones["whisper"], [wave])
    assert np.allclose(heard.frames[0], stock, atol=1e-5)
    assert heard.valid == [75]  # of 20 ms
    assert np.allclose(heard.pooled[0], stock[:75].mean(0), atol=1e-5)


@pytest.mark.parametrize("kind", ["wav2vec2", "hubert", "wavlm"])
def test_wave_models_give_the_stock_models_outputs(kind, folders, backbones):
    short, long = sounds(0.7, 1.5)
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folders[kind])
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    values = extractor(short, sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
    with torch.no_grad():
        stock = model(values).last_hidden_state[0].numpy()
    heard = hear(backbones[kind], [short, long])
    assert heard.valid[0] == len(stock)
    assert np.allclose(heard.frames[0, : len(stock)], stock, atol=1e-4)


def test_a_wave_models_head_gives_the_stock_models_sigmoids(folders, backbones):
    short, long = sounds(0.7, 1.5)
    folder = folders["wavlm with a head"]
    extractor = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = transformers.WavLMForSequenceClassification.from_pretrained(folder).eval()
    values = extractor(short, sampling_rate=RATE_HZ, return_tensors="pt")["input_values"]
    with torch.no_grad():
        stock = model(values).logits.sigmoid()[0].numpy()
    scores = hear(backbones["wavlm with a head"], [short, long]).label_scores[0]
    assert (scores[:6] == 0).all()  # the labels that this model lacks
    assert np.allclose(scores[6:], stock[::-1], atol=1e-5)


def test_a_head_for_several_layers_is_a_sentence(folders, tmp_path):
    folder = shutil.copytree(folders["wavlm with a head"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_weighted_layer_sum": True}))
    with pytest.raises(UserError, match="head for the outputs of several layers"):
        load_audio(str(folder), "cpu")


def test_pe_gives_the_stock_models_probabilities(folders, backbones):
    (wave,) = sounds(1.2)
    extractor = transformers.PeAudioFeatureExtractor.from_pretrained(folders["pe_audio"])
    model = transformers.PeAudioModel.from_pretrained(folders["pe_audio"]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["pe_audio"])
    from scipy.signal import resample_poly

    louder = resample_poly(wave, 3, 1).astype(np.float32)
    features = extractor(louder, sampling_rate=48_000, return_tensors="pt")
    texts = [load_labels()[i].display_name.lower() for i in (0, 400)]
    with torch.no_grad():
        output = model(
            **tokenizer(texts, padding=True, return_tensors="pt"),
            input_values=features["input_values"],
        )
    scores = output.logits_audio_text[0].sigmoid().numpy()
    heard = hear(backbones["pe_audio"], [wave])
    assert np.allclose(heard.label_scores[0, [0, 400]], scores, atol=1e-4)


# YAMNet's front end, written down once more from its description


def reference_patches(wave: np.ndarray) -> np.ndarray:
    """Log-mel patches by explicit triangles in HTK's mel scale, frame by frame."""

    def mel(hz):
        return 2595 * np.log10(1 + np.asarray(hz) / 700)

    corners = np.linspace(mel(125), mel(7500), 66)
    bins = mel(np.arange(257) * RATE_HZ / 512)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = []
    for start in range(0, len(wave) - 399, 160):
        spectrum = np.abs(np.fft.rfft(wave[start : start + 400] * hann, 512))
        bands = []
        for low, centre, high in zip(corners[:-2], corners[1:-1], corners[2:], strict=True):
            rising = (bins - low) / (centre - low)
            falling = (high - bins) / (high - centre)
            bands.append(spectrum @ np.maximum(0, np.minimum(rising, falling)))
        frames.append(np.log(np.array(bands) + 0.001))
    starts = range(0, len(frames) - 95, 48)
    return np.stack([frames[start : start + 96] for start in starts])


@pytest.mark.parametrize("seconds", [0.975, 1.0, 1.5, 3.0])
def test_yamnets_patches_are_those_of_its_description(seconds):
    (wave,) = sounds(seconds)
    ours = YamnetFrontEnd()(wave)
    theirs = reference_patches(wave.astype(np.float64))
    assert ours.shape == theirs.shape == (1 + max(0, round(seconds * 100) - 98) // 48, 96, 64)
    assert np.allclose(ours, theirs, atol=1e-4)


def test_a_sound_shorter_than_a_patch_of_yamnet_is_padded_with_silence():
    (wave,) = sounds(0.3)
    patches = YamnetFrontEnd()(wave)
    assert patches.shape == (1, 96, 64)
    assert np.allclose(patches[0, 32:], np.log(0.001))


def test_yamnets_scores_are_the_mean_over_patches_in_audiosets_order(folders, backbones):
    (wave,) = sounds(1.5)
    model = transformers.MobileNetV1ForImageClassification.from_pretrained(folders["yamnet"])
    with torch.no_grad():
        patches = torch.from_numpy(reference_patches(wave)).float()[:, None]
        scores = model.eval()(patches).logits.sigmoid().mean(0).numpy()
    heard = hear(backbones["yamnet"], [wave])
    assert (heard.label_scores[0, :6] == 0).all()  # the labels that this model lacks
    assert np.allclose(heard.label_scores[0, 6:], scores, atol=1e-3)


# Labels


def test_an_ast_of_another_order_is_put_into_audiosets(folders, backbones):
    (wave,) = sounds(1.0)
    backbone = backbones["ast"]
    log_mel, _ = backbone.log_mel([wave])
    model = transformers.ASTForAudioClassification.from_pretrained(folders["ast"]).eval()
    with torch.no_grad():
        stock = model(torch.from_numpy(log_mel)).logits.sigmoid()[0].numpy()
    assert np.allclose(hear(backbone, [wave]).label_scores[0], stock[::-1], atol=1e-5)


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
