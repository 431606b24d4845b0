"""Label scores from audio features: both ways against AST itself, the map and the figures against scikit-learn."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from sklearn.metrics.pairwise import cosine_similarity

from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.evaluation import labels as label_evaluation
from audio_from_video.learning.features import AUDIO, Features
from audio_from_video.meaning import mel_head, pooled_head
from audio_from_video.meaning.mel_head import MelDecoder
from audio_from_video.meaning.pooled_head import fit_map, summarise
from audio_from_video.media import codecs
from audio_from_video.runtime import stage_run, vocabulary
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from audio_from_video.storage.row_file import RowFile, scratch
from stages import label_predictor
from tests.support import synthetic
from tests.support.synthetic import COMPONENTS, LABELS, POOLED, STEPS
from tests.support.tiny_backbones import write_ast

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def ast(tmp_path_factory) -> Path:
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def backbone(ast, monkeypatch) -> AudioBackbone:
    monkeypatch.setenv("DEVICE", "cpu")
    return AudioBackbone(str(ast))


@pytest.fixture
def data(workspace, ast, in_process):
    workspace.set(
        audio_features={"model": str(ast)},
        label_predictor={"decoder": {"hidden": 16, "epochs": 2}},
        generator={"architectures": {"caption_mapping": None}},
    )
    return workspace


@pytest.fixture
def features(data):
    synthetic.write(synthetic.make())
    with scratch() as folder:
        yield Features(folder, vocabulary.SPLITS, AUDIO)


# The figures


def test_figures_are_scikit_learns():
    real = RNG.random((40, 9)) ** 3
    predicted = np.clip(real + 0.3 * RNG.normal(size=real.shape), 0, 1)
    real[:, 7], real[:, 8] = 0, 1  # a label that never and one that always occurs
    truth, answer = real >= 0.3, predicted >= 0.3
    found = label_evaluation.compare(predicted, real, 0.3)
    for name, reference in (
        ("precision", precision_score),
        ("recall", recall_score),
        ("f1", f1_score),
    ):
        assert found[name] == pytest.approx(reference(truth.ravel(), answer.ravel())), name
    assert found["map"] == pytest.approx(
        np.mean([average_precision_score(truth[:, k], predicted[:, k]) for k in range(7)])
    )
    assert found["cosine"] == pytest.approx(cosine_similarity(predicted, real).diagonal().mean())


def test_figures_at_the_limits():
    real = (RNG.random((20, 5)) < 0.4).astype(float)
    perfect, nothing = (
        label_evaluation.compare(real, real, 0.5),
        label_evaluation.compare(np.zeros_like(real), real, 0.5),
    )
    assert set(perfect.values()) == {1.0} or np.allclose(
        [perfect[k] for k in ("precision", "recall", "f1", "map")], 1
    )
    assert (nothing["precision"], nothing["recall"], nothing["f1"], nothing["cosine"]) == (
        0,
        0,
        0,
        0,
    )
    assert nothing["map"] == pytest.approx(
        real[:, real.any(0)].mean(0).mean()
    )  # chance: how often a label occurs
    assert label_evaluation.compare(np.ones((3, 2)), np.zeros((3, 2)), 0.5)["map"] == 0


def test_baselines_are_training_frequencies_and_other_clips_labels(features):
    split = features.clips.split.to_numpy()
    rows = features.rows(*vocabulary.LABELLED)
    real = {
        i: RNG.random(LABELS).astype(np.float32)
        for i in range(len(split))
        if features.audio_row[i] >= 0
    }
    scores = {"generated_mel": RNG.random((len(rows), LABELS))}
    found = label_evaluation.measure(features, rows, scores, real, 0.3)
    test = [i for i in real if split[i] == "test"]
    table = np.stack([real[i] for i in test])
    frequencies = np.mean([real[i] for i in real if split[i] == "training"], axis=0)
    assert found["test"]["clips"] == len(test) and found["test"][
        "labels_per_clip"
    ] == pytest.approx((table >= 0.3).sum() / len(test))
    assert found["test"]["constant_frequencies"] == pytest.approx(
        label_evaluation.compare(np.tile(frequencies, (len(test), 1)), table, 0.3)
    )
    assert found["test"]["constant_frequencies"]["map"] == pytest.approx(
        (table >= 0.3).mean(0).mean(), abs=0.02
    )  # ranks nothing
    made = scores["generated_mel"][[rows.tolist().index(i) for i in test]].astype(np.float32)
    assert found["test"]["generated_mel"] == pytest.approx(
        label_evaluation.compare(made, table, 0.3)
    )
    shuffled = found["test"]["shuffled_clips"]
    assert (
        shuffled["precision"] == pytest.approx(shuffled["recall"]) and shuffled["f1"] < 1
    )  # the same labels, other clips


# The map to AST's pooled output


def test_the_summary_is_mean_and_deviation_over_time_and_one():
    audio = torch.randn(3, 6, 4)
    found = summarise(audio).numpy()
    assert np.allclose(
        found,
        np.concatenate([audio.numpy().mean(1), audio.numpy().std(1, ddof=1), np.ones((3, 1))], 1),
        atol=1e-6,
    )


def test_the_map_is_ridge_with_the_penalty_that_validation_prefers(features):
    pooled = {i: RNG.normal(size=POOLED).astype(np.float32) for i in range(len(features.clips))}
    learned, held_out = (
        features.rows(*splits) for splits in (("training", "unlabelled"), ("validation",))
    )
    learned, held_out = (rows[features.audio_row[rows] >= 0] for rows in (learned, held_out))
    penalties = [0.1, 10.0, 1000.0]
    weights = fit_map(features, pooled, learned, held_out, penalties).numpy()
    x, y = (
        {name: side(rows) for name, rows in (("fit", learned), ("choose", held_out))}
        for side in (
            lambda rows: summarise(features.sound(rows)[0]).double().numpy(),
            lambda rows: np.stack([pooled[i] for i in rows.tolist()]),
        )
    )
    models = [Ridge(penalty, fit_intercept=False).fit(x["fit"], y["fit"]) for penalty in penalties]
    best = min(models, key=lambda model: np.square(model.predict(x["choose"]) - y["choose"]).sum())
    assert weights.shape == (2 * COMPONENTS + 1, POOLED) and np.allclose(
        weights, best.coef_.T, atol=1e-5
    )
    assert best is not models[0]  # noise asks for a strong penalty


def test_asts_own_pooled_output_gives_asts_own_scores(data, backbone):
    """Features whose mean over time is what AST's head expects, through a map that passes it on."""
    rows = [row for row in synthetic.make() if row["split"] != "unlabelled"]
    synthetic.write(rows)
    expected = {}
    for row in rows:
        _, pooled, scores = backbone.encode(backbone.log_mel([codecs.decode_flac(row["flac"])])[0])
        wiggle = RNG.normal(size=(STEPS, POOLED))
        row["audio"], expected[row["clip_id"]] = pooled[0] + wiggle - wiggle.mean(0), scores[0]
    heard = in_order([row | {"features": row["audio"]} for row in rows if row["audible"]])
    synthetic.write_shards(Path("data/audio_features"), {"features": (STEPS, POOLED)}, heard)
    with scratch() as folder:
        features = Features(folder, vocabulary.SPLITS, AUDIO)
        chosen = features.rows("test")
        two = [
            np.stack([features.sound(chosen[i : i + 1])[0][0].numpy()] * 2)
            for i in range(len(chosen))
        ]
        generated = RowFile(folder / "made", (2, STEPS, POOLED)).write(
            two
        )  # as real, but for inaudible clips
        weights = torch.cat([torch.eye(POOLED), torch.zeros(POOLED + 1, POOLED)])
        decoder = MelDecoder(STEPS, POOLED, 4, 12, backbone.config.num_mel_bins)
        model = str(backbone.model.config._name_or_path)
        made = {"semantic_validation": generated}
        found = pooled_head.predict_by_map(features, chosen, made, weights, model)
        stage = stage_run.StageRun("label_predictor", None, 1)
        found |= mel_head.predict_by_mel(stage, features, chosen, chosen, made, decoder, model)
        few = mel_head.predict_by_mel(stage, features, chosen, chosen[[3, 8]], made, decoder, model)
    asked = np.isin(np.arange(len(chosen)), [3, 8])
    for name, scores in few.items():  # in the places of the clips that were asked, zeros elsewhere
        assert (
            np.allclose(scores[asked], found[name][asked], atol=1e-6) and not scores[~asked].any()
        ), name
    assert few["generated_mel"][asked].all() and few.keys() == {"generated_mel", "real_path_mel"}
    has = features.audio_row[chosen] >= 0
    names = features.clips.clip_id.to_numpy()[chosen]
    own = np.stack([expected[name] for name in names])
    assert np.ptp(own[has]) > 0.1
    assert np.allclose(found["real_path_features"][has], own[has], atol=2e-3)
    assert np.allclose(found["generated_features"][has], own[has], atol=2e-3)
    assert (
        not found["real_path_features"][~has].any()
        and not found["real_path_mel"][~has].any()
        and (~has).any()
    )
    assert found["generated_mel"][~has].any() and found["generated_features"][~has].any()


def in_order(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


# The decoder


def test_real_log_mel_gives_asts_own_scores(backbone, ast):
    """What a perfect decoder would write: the frames with sound; the rest is padded as AST's extractor does it."""
    mel_head.load_ast(str(ast))
    for row in synthetic.make()[:3]:
        log_mel, (frames,) = backbone.log_mel([codecs.decode_flac(row["flac"])])
        assert frames < log_mel.shape[1]
        found = mel_head.score_log_mel(log_mel[:, :frames])
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


def write_made(architecture: str, rows: list[dict], versions) -> list[dict]:
    """data/generated/<architecture>: for each labelled clip what `versions` makes of its row, a seed each."""
    made = [
        row | {"features": np.stack(versions(row))}
        for row in in_order([row for row in rows if row["action"]])
    ]
    synthetic.write_shards(
        Path("data/generated") / architecture, {"features": made[0]["features"].shape}, made
    )
    return made


def predict() -> dict:
    """Run the stage; its metrics."""
    label_predictor.main(stage_run.StageRun("label_predictor", None, 1))
    return json.loads(Path("metrics/label_predictor.json").read_text())


def predicted(architecture: str = "semantic_validation") -> dict:
    return shards.read_columns(
        Path("data/predicted_labels") / architecture, ["generated", "real_path"]
    )


def files(*folders: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in Path(folder).rglob("*.*")}


def test_the_stage(data, backbone, monkeypatch):
    rows = synthetic.make(noise=0.0)
    silent = {row["clip_id"] for row in rows if not row["audible"]}
    synthetic.write(rows)
    labelled = write_made("semantic_validation", rows, lambda row: [row["audio"], -row["audio"]])
    real = {
        row["clip_id"]: row["label_scores"].astype(np.float16).astype(np.float32) for row in rows
    }
    outputs, metrics, through_ast, measured = {}, {}, [], []
    score, measure = mel_head.score_log_mel, label_evaluation.measure
    monkeypatch.setattr(
        mel_head, "score_log_mel", lambda mels: through_ast.append(len(mels)) or score(mels)
    )
    monkeypatch.setattr(
        label_evaluation, "measure", lambda *given: measured.append(given[2]) or measure(*given)
    )
    for head in ("mel", "features"):
        through_ast.clear()
        data.set(label_predictor={"head": head, "ridge_penalties": [0.001]})
        figures = metrics[head] = predict()
        found = outputs[head] = predicted()
        assert found["clip_id"] == [row["clip_id"] for row in labelled]
        for path in shards.shard_paths(Path("data/predicted_labels/semantic_validation")):
            assert pq.read_schema(path).names == ["clip_id", "generated", "real_path"]
        assert not Path("data/predicted_labels/caption_mapping").exists()
        assert (figures["head"], figures["threshold"]) == (head, 0.3)
        ways = {
            f"{what}_{way}" for what in ("generated", "real_path") for way in ("mel", "features")
        }
        for split in ("validation", "test"):
            assert set(figures[split]) == {
                *ways,
                "constant_frequencies",
                "shuffled_clips",
                "clips",
                "sources",
                "labels_per_clip",
            }
            chosen = [
                i for i, row in enumerate(labelled) if row["split"] == split and row["audible"]
            ]
            assert figures[split]["clips"] == len(chosen)
            truth = np.stack([real[labelled[i]["clip_id"]] for i in chosen])
            for way in ways:
                own = label_evaluation.compare(measured[-1][way][chosen], truth, 0.3)
                assert figures[split][way] == pytest.approx(own, abs=1e-6), way
        for what in ("generated", "real_path"):
            assert np.array_equal(found[what], measured[-1][f"{what}_{head}"].astype(np.float16))
        # AST's pass over every mel takes long: with the other head it is for the measured clips alone
        asked = [row for row in labelled if head == "mel" or row["split"] != "training"]
        assert through_ast == [3] * len(asked)  # two seeds and the real features
    for split in ("validation", "test"):
        assert (
            metrics["mel"][split] == metrics["features"][split]
        )  # both are measured, whatever the head
    assert not np.array_equal(outputs["mel"]["generated"], outputs["features"]["generated"])
    is_silent = np.array([name in silent for name in found["clip_id"]])
    for found in outputs.values():  # every labelled clip has scores, training clips, too
        assert (
            found["generated"].shape == (len(labelled), LABELS)
            and found["generated"].min() >= 0
            and found["generated"].max() <= 1
        )
        assert (
            is_silent.any()
            and not found["real_path"][is_silent].any()
            and found["real_path"][~is_silent].all()
        )
        assert found["generated"].all()
    # the pooled output is linear in the mean over time: the map finds it, and the head gives the scores that follow
    found = outputs["features"]
    weights = load_file("models/label_predictor/map.safetensors")["weights"]
    head = backbone.model.classifier
    pooled = torch.tensor(np.stack([row["pooled"] for row in labelled]), dtype=torch.float32)
    with torch.inference_mode():
        assert np.allclose(
            found["real_path"][~is_silent], head(pooled).sigmoid().numpy()[~is_silent], atol=0.02
        )
        audio = torch.tensor(np.stack([row["audio"] for row in labelled])).float()
        both = [head(summarise(sign * audio) @ weights).sigmoid() for sign in (1, -1)]
    assert np.allclose(
        found["generated"], (sum(both) / 2).numpy(), atol=5e-3
    )  # the mean over seeds of the scores
    figure = cv2.imread("metrics/figures/mel.png")
    assert (
        min(figure.shape[:2]) > 300
        and figure.std() > 20
        and len(np.unique(figure.reshape(-1, 3), axis=0)) > 100
    )


# Two architectures


@pytest.fixture
def both(data):
    """What two architectures generated for the same clips: other features, and another number of seeds."""
    data.set(
        generator={"architectures": {"caption_mapping": "data/mapping"}},
        label_predictor={"ridge_penalties": [0.001]},
    )
    data.rows = synthetic.make()
    synthetic.write(data.rows)
    write_made("semantic_validation", data.rows, lambda row: [row["audio"], -row["audio"]])
    write_made(
        "mapping", data.rows, lambda row: [0.5 * row["audio"], row["audio"] + 1, 2 * row["audio"]]
    )
    return data


@pytest.mark.parametrize("head", ["mel", "features"])
def test_each_architectures_labels_are_those_it_would_have_alone(both, head):
    both.set(label_predictor={"head": head})
    metrics = predict()
    together, first, second = (
        files("data/predicted_labels"),
        predicted(),
        predicted("caption_mapping"),
    )
    assert {path.parts[2] for path in together} == {"validation", "mapping"} and first[
        "clip_id"
    ] == second["clip_id"]
    assert not np.array_equal(first["generated"], second["generated"]) and np.array_equal(
        first["real_path"], second["real_path"]
    )
    ways = [
        f"{what}_{way}"
        for what in ("generated", "mapped", "real_path")
        for way in ("mel", "features")
    ]
    for split in ("validation", "test"):
        assert set(metrics[split]) == {
            *ways,
            "constant_frequencies",
            "shuffled_clips",
            "clips",
            "sources",
            "labels_per_clip",
        }
        assert metrics[split][f"generated_{head}"] != metrics[split][f"mapped_{head}"]
    figure = Path("metrics/figures/mel.png").read_bytes()
    # alone
    both.set(generator={"architectures": {"caption_mapping": None}})
    alone = predict()
    assert files("data/predicted_labels/semantic_validation") == files_of(together, "validation")
    assert Path("metrics/figures/mel.png").read_bytes() == figure  # it shows architecture 1
    for split in ("validation", "test"):
        assert alone[split] == {
            key: value for key, value in metrics[split].items() if not key.startswith("mapped")
        }
    # what architecture 2 generated, in the place of architecture 1
    write_made(
        "validation",
        both.rows,
        lambda row: [0.5 * row["audio"], row["audio"] + 1, 2 * row["audio"]],
    )
    swapped = predict()
    assert np.array_equal(predicted()["generated"], second["generated"])
    for split in ("validation", "test"):
        for way in ("mel", "features"):
            assert swapped[split][f"generated_{way}"] == metrics[split][f"mapped_{way}"]


def files_of(found: dict[Path, bytes], architecture: str) -> dict[Path, bytes]:
    return {path: content for path, content in found.items() if path.parts[2] == architecture}


def test_what_one_architecture_generated_reaches_no_output_of_the_other(both):
    for changed, kept in (("mapping", "validation"), ("validation", "mapping")):
        predict()
        labels, models = files("data/predicted_labels"), files("models/label_predictor")
        write_made(changed, both.rows, lambda row: [row["audio"][::-1] + 3])
        predict()
        after = files("data/predicted_labels")
        assert (
            files_of(after, kept) == files_of(labels, kept)
            and files("models/label_predictor") == models
        )
        assert all(
            after[path] != content
            for path, content in files_of(labels, changed).items()
            if path.name.startswith("part-")
        )


def test_what_was_generated_for_other_clips_is_a_sentence(both):
    fewer = [row for row in both.rows if row["clip_id"] != "set/test-060"]
    assert len(fewer) == len(both.rows) - 1
    write_made("caption_mapping", fewer, lambda row: [row["audio"]])
    with pytest.raises(
        UserError,
        match="generated/mapping holds other clips than data/video_features: run `dvc repro generator@caption_mapping`",
    ):
        predict()


def test_models_are_fitted_on_training_clips_alone(data):
    """Other sound of test clips changes neither map nor decoder; other sound of a training clip does."""
    rows = synthetic.make()
    weights = []
    for change in (None, "test", "training"):
        for row in rows:
            if row["split"] == change:
                row["audio"], row["pooled"] = row["audio"] + 1, row["pooled"] - 1
        synthetic.write(rows)
        write_made("semantic_validation", rows, lambda row: [row["audio"]])
        predict()
        weights.append(
            [path.read_bytes() for path in sorted(Path("models/label_predictor").iterdir())]
        )
    assert len(weights[0]) == 2 and weights[0] == weights[1]
    assert all(one != other for one, other in zip(weights[1], weights[2], strict=True))
