"""A head for AudioSet's labels, fitted on annotated training clips."""

import csv
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import transformers
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.audio import has_labels, load_audio
from audio_from_video.backbones.audio_interface import RATE_HZ, AudioBackbone
from audio_from_video.backbones.audio_wave import WaveBackbone
from audio_from_video.media import codecs
from audio_from_video.runtime.errors import UserError
from tests.support import synthetic
from tests.support.tiny_audio import write_wavlm, write_whisper
from tools import fit_label_head

LABELS = load_labels()
NAMES = [label.display_name for label in LABELS]
HISS, TONE = NAMES.index("Hiss"), NAMES.index("Beep, bleep")
FITTED = Path("models/labelled")


def hiss(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, RATE_HZ).astype(np.float32)


def tone(frequency_hz: float) -> np.ndarray:
    wave = 0.2 * np.sin(2 * np.pi * frequency_hz * np.arange(RATE_HZ) / RATE_HZ)
    return wave.astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_wavlm(tmp_path_factory.mktemp("models") / "wavlm"))


@pytest.fixture
def clips(workspace) -> list[dict]:
    """Clips whose sources in turn hiss and give tones; `names` are their labels."""
    rows = synthetic.make_clips(unlabelled=0)
    for number, row in enumerate(rows):
        hisses = number // 2 % 2 == 0
        wave = hiss(number) if hisses else tone(400 + number)
        row["flac"] = codecs.encode_flac((wave * 32767).astype(np.int16))
        row["names"] = [LABELS[HISS].mid] if hisses else ["beep, bleep"]
    synthetic.write_data(rows)
    return rows


def write_list(rows: list[dict], path: str = "labels.csv") -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip_id", "labels"])
        writer.writerows([row["clip_id"], ";".join(row["names"])] for row in rows)


def run(monkeypatch, model: str, folder: Path = FITTED) -> None:
    monkeypatch.setattr(sys, "argv", ["fit_label_head", model, "labels.csv", str(folder)])
    fit_label_head.main()


def scores(backbone: AudioBackbone, wave: np.ndarray) -> np.ndarray:
    label_scores = backbone.hear(backbone.prepare([wave])).label_scores
    assert label_scores is not None
    return label_scores[0]


def test_it_hears_what_was_annotated(clips, model, monkeypatch, capsys):
    write_list(clips)
    run(monkeypatch, model)
    printed = capsys.readouterr().out
    assert f"{FITTED}: 2 labels, mean average precision for held-out sources" in printed
    precision, chance = (float(value) for value in re.findall(r"0\.\d{3}", printed))
    assert chance == pytest.approx(0.5, abs=0.1)
    assert precision > 0.8
    assert has_labels(str(FITTED))
    assert not has_labels(model)
    backbone = load_audio(str(FITTED))
    for wave, present, absent in ((hiss(1000), HISS, TONE), (tone(420.5), TONE, HISS)):
        found = scores(backbone, wave)
        assert found[present] > 0.5 > found[absent]
        others = np.delete(found, [HISS, TONE])
        assert (others.astype(np.float16) == 0).all()


def test_the_head_is_a_logistic_regression_on_the_models_own_outputs(clips, model, monkeypatch):
    write_list(clips)
    run(monkeypatch, model)
    plain = load_audio(model)
    learned = [row for row in clips if row["split"] == "training" and row["audible"]]
    inputs = [codecs.decode_flac(row["flac"]) for row in learned]
    pooled = np.stack([plain.hear(plain.prepare([wave])).pooled[0] for wave in inputs])
    targets = [row["names"] == [LABELS[HISS].mid] for row in learned]
    labelled = load_audio(str(FITTED))
    found = np.stack([scores(labelled, wave)[HISS] for wave in inputs])
    distances = []
    for c in fit_label_head.INVERSE_REGULARISATION:
        reference = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        expected = reference.fit(pooled, targets).predict_proba(pooled)[:, 1]
        distances.append(np.abs(found - expected).max())
    assert min(distances) < 1e-3
    heard = labelled.hear(labelled.prepare(inputs[:1]))
    assert np.array_equal(heard.frames, plain.hear(plain.prepare(inputs[:1])).frames)


def test_annotations_of_other_splits_change_nothing(clips, model, monkeypatch):
    write_list(clips)
    run(monkeypatch, model)
    for row in clips:
        if row["split"] != "training":
            row["names"] = ["Dog"]
    write_list(clips)
    again = Path("models/again")
    run(monkeypatch, model, again)
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (FITTED, again))
    assert first == second


def test_rows_of_a_clip_add_up_and_a_spreadsheets_mark_is_passed_over(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("clip_id,labels\na/b,Hiss\na/b,Dog; Hiss\na/c,\n", encoding="utf-8-sig")
    expected = {"a/b": {HISS, NAMES.index("Dog")}, "a/c": set()}
    assert fit_label_head.read_labels(path) == expected


def test_a_head_for_other_labels_gives_way(clips, model, monkeypatch, tmp_path):
    """The head is fitted to the same outputs, so it is the one that the bare model gets."""
    write_list(clips)
    run(monkeypatch, model)
    names = {"num_labels": 4, "classifier_proj_size": 20}
    headed = transformers.WavLMForSequenceClassification.from_pretrained(model, **names)
    headed.half().save_pretrained(tmp_path / "headed")
    shutil.copy(f"{model}/preprocessor_config.json", tmp_path / "headed")
    again = Path("models/again")
    run(monkeypatch, str(tmp_path / "headed"), again)
    first, second = (load_file(folder / "model.safetensors") for folder in (FITTED, again))
    assert first.keys() == second.keys()
    for name, weights in second.items():
        assert weights.dtype == np.float32
        assert weights.shape == first[name].shape
    backbone = load_audio(str(again))
    assert scores(backbone, hiss(1000))[HISS] > 0.5 > scores(backbone, tone(420.5))[HISS]


def test_labels_of_too_few_sources_are_left_out():
    sources = np.array(["a", "a", "b", "b", "c", "d", "e", "f"])
    present = np.zeros((8, 3), bool)
    present[:4, 0] = True  # four clips of two sources
    present[[0, 2, 4], 1] = True  # of three
    present[:7, 2] = True  # only one source is without it
    heard = fit_label_head.Heard(np.zeros((8, 2)), present, sources)
    assert fit_label_head.learnable(heard).tolist() == [1]


def test_probabilities_come_from_other_sources():
    """A source whose clips contradict all others gets the others' answer."""
    inputs = np.repeat([[-1.0], [1.0], [-1.0], [1.0], [-1.0], [1.0]], 2, axis=0)
    targets = inputs > 0
    targets[:2] = True
    sources = np.repeat(list("abcdef"), 2)
    found = fit_label_head.held_out(inputs, targets, sources, 10.0)
    assert (found[:2] < 0.5).all()
    assert (found[2:4] > 0.5).all()


# ---- what a user can mend ----


def test_mistakes_are_one_sentence(clips, model, monkeypatch):
    def error() -> str:
        with pytest.raises(SystemExit) as stopped:
            run(monkeypatch, model)
        assert not FITTED.exists()
        return str(stopped.value)

    assert "No such file" in error()
    Path("labels.csv").write_text("clip_id,label\n")
    assert "labels.csv has no column labels; needed are clip_id, labels" in error()
    Path("labels.csv").write_bytes(b"\xff\xfe\x00PK\n\x80")
    assert "labels.csv has no column clip_id" in error()
    Path("labels.csv").write_text(f"clip_id,labels\na/b,{'x' * 200_000}\n")
    assert "labels.csv is no CSV file: field larger than field limit" in error()
    clips[2]["names"] = ["Dog", "Hisss"]
    write_list(clips)
    assert "labels.csv, line 4: 'Hisss' is none of AudioSet's labels" in error()
    clips[2]["names"] = ["Dog"]
    write_list([row for row in clips if row["split"] == "test"])
    assert "none of the 18 annotated clips is an audible training clip" in error()
    write_list(clips[:2])
    assert "no label can be learned: one needs annotated training clips of 3 sources" in error()


def test_other_models_are_one_sentence(clips, model, monkeypatch, tmp_path):
    write_list(clips)
    whisper = str(write_whisper(tmp_path / "whisper"))
    with pytest.raises(SystemExit, match="is no wav2vec 2, HuBERT or WavLM, which take a head"):
        run(monkeypatch, whisper)
    FITTED.mkdir(parents=True)
    with pytest.raises(SystemExit, match="exists: name a new directory"):
        run(monkeypatch, model)


def test_without_sound_it_says_what_to_run(workspace, model):
    with pytest.raises(UserError, match="run `dvc repro audio`"):
        fit_label_head.hear(WaveBackbone(model), {})
