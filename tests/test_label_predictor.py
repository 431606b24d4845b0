"""The stage label_predictor: scores by either head, and what reaches which output."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.evaluation import labels as label_evaluation
from audio_from_video.meaning import mel_head
from audio_from_video.meaning.pooled_head import summarise
from audio_from_video.media import codecs
from audio_from_video.reporting import mel_picture
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards
from stages import label_predictor
from tests.support import synthetic
from tests.support.synthetic import LABELS
from tests.support.tiny_backbones import write_ast

FIRST = "semantic_validation"
SECOND = "caption_mapping"
BASELINES = {"constant_frequencies", "shuffled_clips", "clips", "sources", "labels_per_clip"}


@pytest.fixture(scope="module")
def ast(tmp_path_factory) -> Path:
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def data(workspace, ast, in_process):
    """A workspace in which one architecture has been trained."""
    workspace.set(
        audio_features={"model": str(ast)},
        label_predictor={"decoder": {"hidden": 16, "epochs": 2}, "ridge_penalties": [0.001]},
        generator={"architectures": {SECOND: None}},
    )
    return workspace


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def write_generated(
    architecture: str, rows: list[dict], generate: Callable[[np.ndarray], list[np.ndarray]]
) -> list[dict]:
    """Write what an architecture generated and return the labelled rows, in order.

    generate: a clip's real audio features -> generated ones, one per seed.
    """
    labelled = in_order([row for row in rows if row["action"]])
    generated = [row | {"features": np.stack(generate(row["audio"]))} for row in labelled]
    columns = {"features": generated[0]["features"].shape}
    synthetic.write_shards(layout.generated(architecture), columns, generated)
    return labelled


def twice(audio: np.ndarray) -> list[np.ndarray]:
    return [audio, -audio]


def thrice(audio: np.ndarray) -> list[np.ndarray]:
    return [0.5 * audio, audio + 1, 2 * audio]


def predict() -> dict:
    """Run the stage and return its metrics."""
    label_predictor.main(stage_run.StageRun("label_predictor", "", 1))
    return json.loads(Path("metrics/label_predictor.json").read_text())


def predicted(architecture: str = FIRST) -> dict:
    return shards.read_columns(layout.predicted_labels(architecture), ["generated", "real_path"])


def contents(folder: Path) -> dict[Path, bytes]:
    """Return the files below a folder by their paths in it."""
    paths = folder.rglob("*.*")
    return {path.relative_to(folder): path.read_bytes() for path in paths}


def labels_of(architecture: str) -> dict[Path, bytes]:
    return contents(layout.predicted_labels(architecture))


@pytest.fixture
def observed(monkeypatch) -> dict[str, list]:
    """How many log-mels passed through AST each time, and the scores that were measured."""
    calls: dict[str, list] = {"mels": [], "scores": []}
    score = mel_head.score_log_mels
    measure = label_evaluation.label_figures

    def observe_mels(log_mels):
        calls["mels"].append(len(log_mels))
        return score(log_mels)

    def observe_scores(*arguments):
        calls["scores"].append(arguments[2])
        return measure(*arguments)

    monkeypatch.setattr(mel_head, "score_log_mels", observe_mels)
    monkeypatch.setattr(label_evaluation, "label_figures", observe_scores)
    return calls


@pytest.mark.parametrize("head", ["mel", "features"])
def test_the_stage(data, ast, observed, head):
    rows = synthetic.make_clips(noise=0.0)
    synthetic.write_data(rows)
    labelled = write_generated(FIRST, rows, twice)
    data.set(label_predictor={"head": head})
    metrics = predict()
    (measured,) = observed["scores"]
    labels = predicted()

    # What is written.
    assert labels["clip_id"] == [row["clip_id"] for row in labelled]
    for path in shards.shard_paths(layout.predicted_labels(FIRST)):
        assert pq.read_schema(path).names == ["clip_id", "generated", "real_path"]
    assert not layout.predicted_labels(SECOND).exists()
    for what in ("generated", "real_path"):
        assert np.array_equal(labels[what], measured[f"{what}_{head}"].astype(np.float16))
    silent = np.array([not row["audible"] for row in labelled])
    assert silent.any()
    assert labels["generated"].shape == (len(labelled), LABELS)
    assert labels["generated"].all()
    assert labels["generated"].min() >= 0
    assert labels["generated"].max() <= 1
    assert not labels["real_path"][silent].any()
    assert labels["real_path"][~silent].all()

    # What is measured: both heads, whichever writes.
    assert (metrics["head"], metrics["threshold"]) == (head, 0.3)
    learned = [row for row in rows if row["split"] in ("training", "unlabelled") and row["audible"]]
    chosen = metrics["map"]
    assert (chosen["penalty"], chosen["clips"], chosen["folds"]) == (0.001, len(learned), 3)
    assert list(chosen["held_out_errors"]) == ["0.001"]
    ways = {f"{what}_{way}" for what in ("generated", "real_path") for way in ("mel", "features")}
    for split in ("validation", "test"):
        assert set(metrics[split]) == ways | BASELINES
        positions = [
            i for i, row in enumerate(labelled) if row["split"] == split and row["audible"]
        ]
        assert metrics[split]["clips"] == len(positions)
        real = [labelled[i]["label_scores"].astype(np.float16) for i in positions]
        truth = np.stack(real).astype(np.float32)
        for way in ways:
            expected = label_evaluation.score_figures(measured[way][positions], truth, 0.3)
            assert metrics[split][way] == pytest.approx(expected, abs=1e-6), way

    # AST's pass over every mel takes long: by the other head it is for the measured clips alone.
    scored = [row for row in labelled if head == "mel" or row["split"] != "training"]
    assert observed["mels"] == [3] * len(scored)  # two seeds and the real features

    check_log_mels(labelled, AstBackbone(str(ast)))
    if head == "features":
        check_scores_by_the_map(labels, labelled, AstBackbone(str(ast)))
    figure = cv2.imread(str(layout.MEL_FIGURE))
    assert min(figure.shape[:2]) > 300
    assert figure.std() > 20
    assert len(np.unique(figure.reshape(-1, 3), axis=0)) > 100


def check_log_mels(labelled: list[dict], backbone: AstBackbone) -> None:
    """The log-mels kept for the report are those of the test clips, of real and generated sound."""
    rows = shards.read_columns(layout.LOG_MELS, ["real", FIRST])
    test = [row for row in labelled if row["split"] == "test"]
    assert rows["clip_id"] == [row["clip_id"] for row in test]
    for row, real, made in zip(test, rows["real"], rows[FIRST], strict=True):
        assert codecs.decode_jpeg(made).std() > 1
        assert (real is not None) == row["audible"]
        if real is None:
            continue
        log_mels, (frames,) = backbone.log_mel([codecs.decode_flac(row["flac"])])
        expected = codecs.decode_jpeg(mel_picture.encode(log_mels[0, :frames]))
        # JPEG of longer and shorter pictures differs a little.
        width = min(expected.shape[1], codecs.decode_jpeg(real).shape[1]) - 8
        difference = codecs.decode_jpeg(real)[:, :width].astype(int) - expected[:, :width]
        assert np.abs(difference).mean() < 3


def check_scores_by_the_map(labels: dict, labelled: list[dict], backbone: AstBackbone) -> None:
    """The pooled output is linear in the mean over time here: the map finds it.

    AST's head then gives the scores that follow.
    """
    weights = load_file(layout.LABEL_PREDICTOR / "map.safetensors")["weights"]
    head = backbone.model.classifier
    audible = [row["audible"] for row in labelled]
    pooled = torch.tensor(np.stack([row["pooled"] for row in labelled]), dtype=torch.float32)
    audio = torch.tensor(np.stack([row["audio"] for row in labelled])).float()
    with torch.inference_mode():
        real = head(pooled).sigmoid().numpy()
        seeds = [head(summarise(sign * audio) @ weights).sigmoid() for sign in (1, -1)]
    assert np.allclose(labels["real_path"][audible], real[audible], atol=0.02)
    mean = (seeds[0] + seeds[1]) / 2
    assert np.allclose(labels["generated"], mean.numpy(), atol=5e-3)


def test_the_heads_write_different_scores_and_measure_the_same(data):
    rows = synthetic.make_clips(noise=0.0)
    synthetic.write_data(rows)
    write_generated(FIRST, rows, twice)
    metrics = {}
    labels = {}
    for head in ("mel", "features"):
        data.set(label_predictor={"head": head})
        metrics[head] = predict()
        labels[head] = predicted()
    assert not np.array_equal(labels["mel"]["generated"], labels["features"]["generated"])
    for split in ("validation", "test"):
        assert metrics["mel"][split] == metrics["features"][split]


# Two architectures


@pytest.fixture
def both(data):
    """Two architectures with other features of the same clips, and other numbers of seeds."""
    data.set(generator={"architectures": {SECOND: "data/mapping"}})
    data.rows = synthetic.make_clips()
    synthetic.write_data(data.rows)
    write_generated(FIRST, data.rows, twice)
    write_generated(SECOND, data.rows, thrice)
    return data


@pytest.mark.parametrize("head", ["mel", "features"])
@pytest.mark.slow
def test_each_architectures_labels_are_those_it_would_have_alone(both, head):
    both.set(label_predictor={"head": head})
    metrics = predict()
    first = predicted(FIRST)
    second = predicted(SECOND)
    first_files = labels_of(FIRST)
    figure = layout.MEL_FIGURE.read_bytes()
    assert first["clip_id"] == second["clip_id"]
    assert not np.array_equal(first["generated"], second["generated"])
    assert np.array_equal(first["real_path"], second["real_path"])
    kinds = ("generated", "mapped", "real_path")
    ways = {f"{what}_{way}" for what in kinds for way in ("mel", "features")}
    for split in ("validation", "test"):
        assert set(metrics[split]) == ways | BASELINES
        assert metrics[split][f"generated_{head}"] != metrics[split][f"mapped_{head}"]

    # The first architecture alone.
    both.set(generator={"architectures": {SECOND: None}})
    alone = predict()
    assert labels_of(FIRST) == first_files
    assert layout.MEL_FIGURE.read_bytes() == figure  # it shows the first architecture
    for split in ("validation", "test"):
        others = {
            key: value for key, value in metrics[split].items() if not key.startswith("mapped")
        }
        assert alone[split] == others

    # What the second architecture generated, in the place of the first one.
    write_generated(FIRST, both.rows, thrice)
    swapped = predict()
    assert np.array_equal(predicted(FIRST)["generated"], second["generated"])
    for split in ("validation", "test"):
        for way in ("mel", "features"):
            assert swapped[split][f"generated_{way}"] == metrics[split][f"mapped_{way}"]


@pytest.mark.slow
def test_what_one_architecture_generated_reaches_no_output_of_the_other(both):
    predict()
    models = contents(layout.LABEL_PREDICTOR)
    for changed, other in ((SECOND, FIRST), (FIRST, SECOND)):
        before = labels_of(changed)
        other_before = labels_of(other)
        write_generated(changed, both.rows, lambda audio: [audio[::-1] + 3])
        predict()
        assert labels_of(other) == other_before
        assert contents(layout.LABEL_PREDICTOR) == models
        after = labels_of(changed)
        for path, content in before.items():
            if path.name.startswith("part-"):
                assert after[path] != content


def test_what_was_generated_for_other_clips_is_a_sentence(both):
    fewer = [row for row in both.rows if row["clip_id"] != "set/test-060"]
    assert len(fewer) == len(both.rows) - 1
    write_generated(SECOND, fewer, lambda audio: [audio])
    sentence = (
        "generated/caption_mapping holds other clips than data/video_features: "
        "run `dvc repro generator@caption_mapping`"
    )
    with pytest.raises(UserError, match=sentence):
        predict()


def test_without_a_trained_architecture_there_is_a_sentence(data):
    data.set(generator={"architectures": {FIRST: None}})
    with pytest.raises(UserError, match="generator.architectures names none of semantic_valid"):
        predict()


@pytest.mark.slow
def test_models_are_fitted_on_training_clips_alone(data):
    """Other sound of test clips changes neither map nor decoder; that of a training clip does.

    That of validation clips decides when the decoder's training ends, and nothing of the map.
    """
    data.set(label_predictor={"ridge_penalties": [0.1, 1.0, 10.0]}, generator={"folds": 3})
    rows = synthetic.make_clips()
    models = []
    maps = []
    for change in (None, "test", "validation", "training"):
        for row in rows:
            if row["split"] == change:
                row["audio"] = row["audio"] + 1
                row["pooled"] = row["pooled"] - 1
        synthetic.write_data(rows)
        write_generated(FIRST, rows, lambda audio: [audio])
        predict()
        models.append(contents(layout.LABEL_PREDICTOR))
        maps.append(json.loads(Path("metrics/label_predictor.json").read_text())["map"])
    original, other_test, other_validation, other_training = models
    assert other_test == original
    weights = [path for path in original if path.suffix == ".safetensors"]
    assert len(weights) == 2
    for path in weights:
        assert other_training[path] != original[path]
    assert other_validation[Path("map.safetensors")] == original[Path("map.safetensors")]
    assert maps[0] == maps[1] == maps[2] != maps[3]
