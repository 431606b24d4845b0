"""Label scores from audio features: both ways against AST itself, the map and the figures against scikit-learn."""
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from sklearn.metrics.pairwise import cosine_similarity

from stages import label_predictor
from stages.common import label_measures, media, run, shards
from stages.common.backbones import AudioBackbone
from stages.common.features import AUDIO, Features
from stages.common.networks.mel_decoder import MelDecoder
from stages.common.training import RowFile, scratch
from stages.label_predictor import fit_map, summarise
from tests import synthetic
from tests.conftest import in_process
from tests.synthetic import COMPONENTS, LABELS, POOLED, STEPS
from tests.tiny_backbones import write_ast

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def ast(tmp_path_factory) -> Path:
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def backbone(ast, monkeypatch) -> AudioBackbone:
    monkeypatch.setenv("DEVICE", "cpu")
    return AudioBackbone(str(ast))


@pytest.fixture
def data(workspace, ast, monkeypatch):
    monkeypatch.setattr(label_predictor, "map_items", in_process)
    workspace.set(audio_features={"model": str(ast)}, label_predictor={"decoder": {"hidden": 16, "epochs": 2}})
    return workspace


@pytest.fixture
def features(data):
    synthetic.write(synthetic.make())
    with scratch() as folder:
        yield Features(folder, label_predictor.SPLITS, AUDIO)


# The figures


def test_figures_are_scikit_learns():
    real = RNG.random((40, 9)) ** 3
    predicted = np.clip(real + 0.3 * RNG.normal(size=real.shape), 0, 1)
    real[:, 7], real[:, 8] = 0, 1  # a label that never and one that always occurs
    truth, answer = real >= 0.3, predicted >= 0.3
    found = label_measures.compare(predicted, real, 0.3)
    for name, reference in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert found[name] == pytest.approx(reference(truth.ravel(), answer.ravel())), name
    assert found["map"] == pytest.approx(np.mean([average_precision_score(truth[:, k], predicted[:, k]) for k in range(7)]))
    assert found["cosine"] == pytest.approx(cosine_similarity(predicted, real).diagonal().mean())


def test_figures_at_the_limits():
    real = (RNG.random((20, 5)) < 0.4).astype(float)
    perfect, nothing = label_measures.compare(real, real, 0.5), label_measures.compare(np.zeros_like(real), real, 0.5)
    assert set(perfect.values()) == {1.0} or np.allclose([perfect[k] for k in ("precision", "recall", "f1", "map")], 1)
    assert (nothing["precision"], nothing["recall"], nothing["f1"], nothing["cosine"]) == (0, 0, 0, 0)
    assert nothing["map"] == pytest.approx(real[:, real.any(0)].mean(0).mean())  # chance: how often a label occurs
    assert label_measures.compare(np.ones((3, 2)), np.zeros((3, 2)), 0.5)["map"] == 0


def test_baselines_are_training_frequencies_and_other_clips_labels(features):
    split = features.clips.split.to_numpy()
    rows = features.rows(*label_predictor.LABELLED)
    real = {i: RNG.random(LABELS).astype(np.float32) for i in range(len(split)) if features.audio_row[i] >= 0}
    scores = {"generated_mel": RNG.random((len(rows), LABELS))}
    found = label_measures.measure(features, rows, scores, real, 0.3)
    test = [i for i in real if split[i] == "test"]
    table = np.stack([real[i] for i in test])
    frequencies = np.mean([real[i] for i in real if split[i] == "training"], axis=0)
    assert found["test"]["clips"] == len(test) and found["test"]["labels_per_clip"] == pytest.approx((table >= 0.3).sum() / len(test))
    assert found["test"]["constant_frequencies"] == pytest.approx(label_measures.compare(np.tile(frequencies, (len(test), 1)), table, 0.3))
    assert found["test"]["constant_frequencies"]["map"] == pytest.approx((table >= 0.3).mean(0).mean(), abs=0.02)  # ranks nothing
    made = scores["generated_mel"][[rows.tolist().index(i) for i in test]].astype(np.float32)
    assert found["test"]["generated_mel"] == pytest.approx(label_measures.compare(made, table, 0.3))
    shuffled = found["test"]["shuffled_clips"]
    assert shuffled["precision"] == pytest.approx(shuffled["recall"]) and shuffled["f1"] < 1  # the same labels, other clips


# The map to AST's pooled output


def test_the_summary_is_mean_and_deviation_over_time_and_one():
    audio = torch.randn(3, 6, 4)
    found = summarise(audio).numpy()
    assert np.allclose(found, np.concatenate([audio.numpy().mean(1), audio.numpy().std(1, ddof=1), np.ones((3, 1))], 1), atol=1e-6)


def test_the_map_is_ridge_with_the_penalty_that_validation_prefers(features):
    pooled = {i: RNG.normal(size=POOLED).astype(np.float32) for i in range(len(features.clips))}
    learned, held_out = (features.rows(*splits) for splits in (("training", "unlabelled"), ("validation",)))
    learned, held_out = (rows[features.audio_row[rows] >= 0] for rows in (learned, held_out))
    penalties = [0.1, 10.0, 1000.0]
    weights = fit_map(features, pooled, learned, held_out, penalties).numpy()
    x, y = ({name: side(rows) for name, rows in (("fit", learned), ("choose", held_out))} for side in (
        lambda rows: summarise(features.sound(rows)[0]).double().numpy(), lambda rows: np.stack([pooled[i] for i in rows.tolist()]),
    ))  # fmt: skip
    models = [Ridge(penalty, fit_intercept=False).fit(x["fit"], y["fit"]) for penalty in penalties]
    best = min(models, key=lambda model: np.square(model.predict(x["choose"]) - y["choose"]).sum())
    assert weights.shape == (2 * COMPONENTS + 1, POOLED) and np.allclose(weights, best.coef_.T, atol=1e-5)
    assert best is not models[0]  # noise asks for a strong penalty


def test_asts_own_pooled_output_gives_asts_own_scores(data, backbone):
    """Features whose mean over time is what AST's head expects, through a map that passes it on."""
    rows = [row for row in synthetic.make() if row["split"] != "unlabelled"]
    synthetic.write(rows)
    expected = {}
    for row in rows:
        _, pooled, scores = backbone.encode(backbone.log_mel([media.decode_flac(row["flac"])])[0])
        wiggle = RNG.normal(size=(STEPS, POOLED))
        row["audio"], expected[row["clip_id"]] = pooled[0] + wiggle - wiggle.mean(0), scores[0]
    heard = in_order([row | {"features": row["audio"]} for row in rows if row["audible"]])
    synthetic.write_shards(Path("data/audio_features"), {"features": (STEPS, POOLED)}, heard)
    with scratch() as folder:
        features = Features(folder, label_predictor.SPLITS, AUDIO)
        chosen = features.rows("test")
        two = [np.stack([features.sound(chosen[i : i + 1])[0][0].numpy()] * 2) for i in range(len(chosen))]
        generated = RowFile(folder / "made", (2, STEPS, POOLED)).write(two)  # as real, but for inaudible clips
        weights = torch.cat([torch.eye(POOLED), torch.zeros(POOLED + 1, POOLED)])
        decoder = MelDecoder(STEPS, POOLED, 4, 12, backbone.config.num_mel_bins)
        model = str(backbone.model.config._name_or_path)
        found = label_predictor.predict(run.StageRun("label_predictor", None, 1), features, chosen, generated, decoder, weights, model)
    has = features.audio_row[chosen] >= 0
    names = features.clips.clip_id.to_numpy()[chosen]
    own = np.stack([expected[name] for name in names])
    assert np.ptp(own[has]) > 0.1
    assert np.allclose(found["real_path_features"][has], own[has], atol=2e-3)
    assert np.allclose(found["generated_features"][has], own[has], atol=2e-3)
    assert not found["real_path_features"][~has].any() and not found["real_path_mel"][~has].any() and (~has).any()
    assert found["generated_mel"][~has].any() and found["generated_features"][~has].any()


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


# The decoder


def test_real_log_mel_gives_asts_own_scores(backbone, ast):
    """What a perfect decoder would write: the frames with sound; the rest is padded as AST's extractor does it."""
    label_predictor.load_ast(str(ast))
    for row in synthetic.make()[:3]:
        log_mel, (frames,) = backbone.log_mel([media.decode_flac(row["flac"])])
        assert frames < log_mel.shape[1]
        found = label_predictor.score_log_mel(log_mel[:, :frames])
        assert np.allclose(found, backbone.encode(log_mel)[2], atol=1e-6)


def test_the_decoders_frames_come_from_their_step_and_its_neighbours():
    torch.manual_seed(0)
    model = MelDecoder(6, 5, 16, 24, 8).eval()  # 4 frames a step
    features = torch.randn(2, 6, 5)
    assert model(features).shape == (2, 24, 8)
    changed = features.clone()
    changed[:, 3] += 1
    same = (model(features) == model(changed)).all(-1).all(0)
    assert same.tolist() == [True] * 8 + [False] * 12 + [True] * 4
    assert MelDecoder(6, 5, 16, 97, 8)(features).shape == (2, 97, 8)


def test_the_decoder_can_learn_by_heart():
    torch.manual_seed(0)
    model = MelDecoder(6, 5, 64, 24, 8)
    features, mel = torch.randn(3, 6, 5), torch.randn(3, 24, 8)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(200):
        loss = (model(features) - mel).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01 * mel.var().item()


# The stage


def test_the_stage(data, backbone):
    rows = synthetic.make(noise=0.0)
    silent = {row["clip_id"] for row in rows if not row["audible"]}
    synthetic.write(rows)
    labelled = in_order([row for row in rows if row["action"]])
    made = [row | {"features": np.stack([row["audio"], -row["audio"]])} for row in labelled]
    synthetic.write_shards(Path("data/generated/validation"), {"features": (2, STEPS, COMPONENTS)}, made)
    outputs = {}
    for head in ("mel", "features"):
        data.set(label_predictor={"head": head, "ridge_penalties": [0.001]})
        label_predictor.main(run.StageRun("label_predictor", None, 1))
        columns = ["generated", "real_path", *(f"{what}_{way}" for what in ("generated", "real_path") for way in ("mel", "features"))]
        found = outputs[head] = shards.read_columns(Path("data/predicted_labels"), columns)
        assert found["clip_id"] == [row["clip_id"] for row in labelled]
        assert np.array_equal(found["generated"], found[f"generated_{head}"])
        assert np.array_equal(found["real_path"], found[f"real_path_{head}"])
        metrics = json.loads(Path("metrics/label_predictor.json").read_text())
        assert (metrics["head"], metrics["threshold"]) == (head, 0.3) and metrics["test"]["clips"] == sum(
            row["split"] == "test" and row["audible"] for row in rows
        )
        assert set(metrics["validation"]) == {*columns[2:], "constant_frequencies", "shuffled_clips", "clips", "labels_per_clip"}
    assert not np.array_equal(found["generated_mel"], found["generated_features"])
    for name in columns[2:]:
        assert np.array_equal(outputs["mel"][name], outputs["features"][name]), name  # both are computed, whatever the head
    assert found["generated"].shape == (len(labelled), LABELS) and found["generated"].min() >= 0 and found["generated"].max() <= 1
    is_silent = np.array([name in silent for name in found["clip_id"]])
    assert is_silent.any() and not found["real_path"][is_silent].any() and found["real_path"][~is_silent].all()
    assert found["generated"][is_silent].all()
    # the pooled output is linear in the mean over time: the map finds it, and the head gives the scores that follow
    weights = load_file("models/label_predictor/map.safetensors")["weights"]
    head = backbone.model.classifier
    pooled = torch.tensor(np.stack([row["pooled"] for row in labelled]), dtype=torch.float32)
    with torch.inference_mode():
        assert np.allclose(found["real_path_features"][~is_silent], head(pooled).sigmoid().numpy()[~is_silent], atol=0.02)
        audio = torch.tensor(np.stack([row["audio"] for row in labelled])).float()
        both = [head(summarise(sign * audio) @ weights).sigmoid() for sign in (1, -1)]
    assert np.allclose(found["generated_features"], (sum(both) / 2).numpy(), atol=5e-3)  # the mean over seeds of the scores
    figure = cv2.imread("metrics/figures/mel.png")
    assert min(figure.shape[:2]) > 300 and figure.std() > 20 and len(np.unique(figure.reshape(-1, 3), axis=0)) > 100


def test_models_are_fitted_on_training_clips_alone(data):
    """Other sound of test clips changes neither map nor decoder; other sound of a training clip does."""
    rows = synthetic.make()
    labelled = in_order([row for row in rows if row["action"]])
    weights = []
    for change in (None, "test", "training"):
        for row in rows:
            if row["split"] == change:
                row["audio"], row["pooled"] = row["audio"] + 1, row["pooled"] - 1
        synthetic.write(rows)
        made = [row | {"features": row["audio"][None]} for row in labelled]
        synthetic.write_shards(Path("data/generated/validation"), {"features": (1, STEPS, COMPONENTS)}, made)
        label_predictor.main(run.StageRun("label_predictor", None, 1))
        weights.append([path.read_bytes() for path in sorted(Path("models/label_predictor").iterdir())])
    assert len(weights[0]) == 2 and weights[0] == weights[1]
    assert all(one != other for one, other in zip(weights[1], weights[2], strict=True))
