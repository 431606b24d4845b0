"""The classifier: widths, the token for missing audio, baselines and figures.

The features are synthetic, so that the truth is known.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from audio_from_video.classification import training as classifier_training
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    matched_hidden,
    parameter_count,
)
from audio_from_video.classification.settings import (
    ClassifierParams,
    Condition,
    FusionParams,
    NetworkParams,
)
from audio_from_video.classification.targets import training_targets
from audio_from_video.classification.training import TrainingTask
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.runtime import parallel, params
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions, shards
from audio_from_video.storage.row_file import scratch
from stages import classifier
from tests.support.closure import ROOT
from tests.support.conditions import condition_keys
from tests.support.map_items import without_processes
from tests.support.separable_features import (
    ACTIONS,
    CONDITIONS,
    STEPS,
    train,
    write_features,
)

CONCATENATED = FusionParams(how="concatenate", audio_scale="dimension", components=0)

# The network


@pytest.mark.parametrize("projection", [0, 16])
def test_published_widths_are_1536_and_1664(projection):
    video = torch.randn(3, 18, 2 * 768)
    audio = torch.randn(3, 18, 128)
    alone, both = (
        ActionClassifier(ClassifierSizes(1536, width, 20, 8, projection, 0.0)) for width in (0, 128)
    )
    assert [
        model.lstm.input_size if not projection else model.project[0].in_features
        for model in (alone, both)
    ] == [1536, 1664]
    assert (
        alone(video).shape == both(video, audio, torch.tensor([True, False, True])).shape == (3, 20)
    )


def test_logits_come_from_the_last_hidden_state():
    model = ActionClassifier(ClassifierSizes(6, 0, 4, 5, 0, 0.5)).eval()
    video = torch.randn(2, 7, 6)
    outputs, _ = model.lstm(video)
    assert torch.allclose(model(video), model.head[2](outputs[:, -1].relu()), atol=1e-6)


def test_missing_audio_is_the_learned_token_whatever_stands_there():
    model = ActionClassifier(ClassifierSizes(6, 3, 4, 5, 8, 0.0))
    video = torch.randn(2, 7, 6)
    audio = torch.randn(2, 7, 3)
    heard = torch.tensor([True, False])
    before = model(video, audio, heard)
    changed = audio + torch.tensor([0.0, 9.0])[:, None, None]
    assert torch.equal(model(video, changed, heard), before)
    with torch.no_grad():
        model.token += 1
    after = model(video, audio, heard)
    assert torch.equal(after[0], before[0]) and not torch.allclose(after[1], before[1])
    model(video, audio, heard)[0].sum().backward()
    assert model.token.grad.abs().sum() == 0
    model(video, audio, heard)[1].sum().backward()
    assert model.token.grad.abs().sum() > 0


def test_features_are_standardised_and_the_scale_is_saved():
    model = ActionClassifier(ClassifierSizes(6, 3, 4, 5, 0, 0.0)).eval()
    video = torch.randn(2, 7, 6)
    audio = torch.randn(2, 7, 3)
    heard = torch.tensor([True, True])
    before = model(video, audio, heard)
    model.set_scale("video", torch.full((6,), 2.0), torch.full((6,), 3.0))
    model.set_scale("audio", torch.full((3,), -1.0), torch.full((3,), 0.5))
    assert torch.allclose(model(video * 3 + 2, audio * 0.5 - 1, heard), before, atol=1e-5)
    assert {"video_mean", "audio_std"} <= set(model.state_dict())


@pytest.mark.parametrize("projection", [0, 64])
def test_matched_size_has_the_closest_parameter_count(projection):
    def count(audio, hidden):
        return parameter_count(
            ActionClassifier(ClassifierSizes(256, audio, 12, hidden, projection, 0.0))
        )

    hidden = matched_hidden(ClassifierSizes(256, 128, 12, 64, projection, 0.0))
    gaps = {size: abs(count(0, size) - count(128, 64)) for size in range(32, 160)}
    assert hidden == min(gaps, key=gaps.get) > 64
    assert gaps[hidden] / count(128, 64) < 0.02


# The stage, on features whose truth is known


@pytest.fixture
def features(workspace):
    network = {
        "hidden": 12,
        "projection": 12,
        "dropout": 0.1,
        "learning_rate": 0.02,
        "epochs": 12,
        "min_steps": 0,
        "patience": 12,
        "patience_steps": 0,
        "batch_size": 16,
    }
    network |= {"averaging": 0.0, "label_smoothing": 0.0}
    workspace.set(classifier={"seeds": 2, "lstm": network, "conditions": CONDITIONS})
    workspace.rows = write_features()
    return workspace


@pytest.fixture
def quick(features, in_process):
    return features


@pytest.mark.slow
def test_a_separable_problem_is_learned_and_audio_helps(quick):
    chance = 1 / len(ACTIONS)
    video, real, zeros, token, matched = (
        train(name)
        for name in ("video_only", "real_audio", "zero_fill", "missing_token", "matched")
    )
    assert real["accuracy"]["mean"] > 0.85 > video["accuracy"]["mean"] > chance + 0.1
    assert (
        real["accuracy"]["mean"] > zeros["accuracy"]["mean"] and token["accuracy"]["mean"] > chance
    )
    assert (
        video["accuracy"]["n"] == 36
        and video["accuracy"]["sources"] == 20
        and video["accuracy"]["seeds"] == 2
    )
    assert video["clips"] == {"training": 64, "validation": 24, "test": 36}
    assert (
        abs(matched["parameters"] - real["parameters"]) < 0.1 * real["parameters"]
        and video["parameters"] <= matched["parameters"]
    )
    weights = load_file("models/classifier/real_audio/seed-1.safetensors")
    config = json.loads(Path("models/classifier/real_audio/config.json").read_text())
    assert config["actions"] == ACTIONS and (config["video_width"], config["audio_width"]) == (
        16,
        5,
    )
    assert weights["video_mean"].shape == (16,) and weights["audio_mean"].shape == (5,)


def test_predictions_hold_every_clip_and_seed_and_the_figures_follow_from_them(quick):
    metrics = train("real_audio")
    table = pq.read_table("data/predictions/real_audio.parquet")
    frame = table.drop(["probabilities"]).to_pandas()
    probabilities = shards.as_array(table["probabilities"])
    names = {row["clip_id"] for row in quick.rows if row["split"] != "training"}
    assert len(frame) == 2 * len(names) and {
        tuple(pair) for pair in frame[["seed", "clip_id"]].to_numpy()
    } == {(s, n) for s in (0, 1) for n in names}
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    actions = json.loads(table.schema.metadata[b"actions"])
    assert [actions[i] for i in probabilities.argmax(1)] == frame.predicted.tolist()
    test = frame[frame.split == "test"]
    per_seed = [accuracy_score(part.action, part.predicted) for _, part in test.groupby("seed")]
    assert metrics["accuracy"]["mean"] == pytest.approx(np.mean(per_seed), abs=1e-6)
    assert metrics["accuracy"]["seed_sd"] == pytest.approx(np.std(per_seed, ddof=1), abs=1e-6)
    both = f1_score(test.action, test.predicted, average="macro")
    assert metrics["macro_f1"]["mean"] == pytest.approx(
        both, abs=0.02
    )  # sums over seeds, as one F1 over both
    assert metrics["top5"]["mean"] == 1  # of four actions
    confusion = Path("metrics/plots/confusion/real_audio.csv").read_text().splitlines()
    loss = Path("metrics/plots/loss/real_audio.csv").read_text().splitlines()
    assert (
        len(confusion) == 1 + 2 * 36
        and loss[0] == "seed,epoch,training_loss,validation_loss"
        and len(loss) == 1 + 2 * 12
    )


@pytest.mark.slow
def test_same_seed_same_bytes_with_and_without_processes(features, monkeypatch):
    def outputs() -> dict:
        return {
            p: p.read_bytes()
            for folder in ("models/classifier/real_audio", "data/predictions", "metrics")
            for p in Path(folder).rglob("*.*")
        }

    features.set(classifier={"lstm": {"epochs": 3}})
    train("real_audio", 2)
    one = outputs()
    monkeypatch.setattr(parallel, "map_items", without_processes)
    train("real_audio", 1)
    assert outputs() == one and len(one) == 7
    assert (
        load_file("models/classifier/real_audio/seed-0.safetensors")["head.2.bias"].tolist()
        != load_file("models/classifier/real_audio/seed-1.safetensors")["head.2.bias"].tolist()
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_as_many_processes_train_as_were_asked_for(features, monkeypatch, workers):
    asked_for = []

    def map_items(function, items, count):
        asked_for.append(count)
        return map(function, items)

    monkeypatch.setattr(parallel, "map_items", map_items)
    features.set(classifier={"lstm": {"epochs": 1}})
    train("video_only", workers)
    assert asked_for == [workers]


@pytest.mark.slow
def test_zero_fill_and_token_ignore_the_sound_at_test(quick):
    """Other sound at validation and test changes no answer; with real audio it does."""
    for name, ignores in (
        ("zero_fill", True),
        ("missing_token", True),
        ("video_only", True),
        ("real_audio", False),
    ):
        answers = []
        for noise in (0, 1):
            rows = [
                row | {"features": row["audio"] + (noise * 5 if row["split"] != "training" else 0)}
                for i, row in enumerate(quick.rows)
                if i % 4
            ]
            shards.write(
                Path("data/audio_features"),
                pa.schema([("features", shards.tensor(pa.float16(), STEPS, 5))]),
                rows,
                rows,
                "v",
            )
            quick.set(classifier={"seeds": 1, "lstm": {"epochs": 2}})
            train(name)
            answers.append(predictions.read(name).probabilities)
        assert np.array_equal(*answers) == ignores, name


@pytest.fixture
def made(features):
    with scratch() as folder:
        yield ActionData(folder, Condition(**CONDITIONS["real_audio"]))


def test_data_joins_features_with_labels(features, made):
    assert (
        made.actions == ACTIONS
        and made.video.shape == (STEPS, 16)
        and made.sounds["real"].file.shape == (STEPS, 5)
    )
    by_name = {row["clip_id"]: row for row in features.rows}
    heard = {row["clip_id"] for i, row in enumerate(features.rows) if i % 4}
    rows = made.participants("test")
    video, (sound, has) = made.video.read(rows.tolist()).numpy(), made.sounds["real"].read(rows)
    for n, i in enumerate(rows.tolist()):
        clip = made.clips.iloc[i]
        row = by_name[clip.clip_id]
        assert ACTIONS[made.labels[i]] == row["action"] and clip.source_id == row["source_id"]
        assert np.allclose(video[n], np.concatenate([row["rgb"], row["flow"]], 1), atol=5e-3)
        assert bool(has[n]) == (clip.clip_id in heard)
        assert np.allclose(sound[n], row["audio"] if has[n] else 0, atol=1e-2)
    assert len(rows) == 36


SOUNDS = {
    "real": "data/audio_features",
    "generated": "data/generated/semantic_validation",
    "mapped": "data/generated/caption_mapping",
}


def write_marked(kind: str, rows: list[dict], offset: int) -> None:
    """Audio features of a kind whose value is the clip's number plus an offset."""
    shape = (STEPS, 5) if kind == "real" else (2, STEPS, 5)
    marked = [
        row | {"features": np.full(shape, offset + number)} for number, row in enumerate(rows)
    ]
    shards.write(
        Path(SOUNDS[kind]),
        pa.schema([("features", shards.tensor(pa.float16(), *shape))]),
        marked,
        marked,
        "v",
    )


@pytest.mark.parametrize("kind", SOUNDS)
@pytest.mark.parametrize("gate", ["none", "keep", "keep_real"])
def test_a_kind_of_audio_has_its_own_features_and_its_own_gate(features, kind, gate):
    offsets = {"real": 0, "generated": 500, "mapped": 1000}
    for name, offset in offsets.items():
        write_marked(name, features.rows, offset)
    number = np.arange(len(features.rows))
    filters = {}
    for path, share in (
        ("data/filter/semantic_validation.parquet", 2),
        ("data/filter/caption_mapping.parquet", 3),
    ):  # which keep different clips
        filters[path] = {
            "none": number >= 0,
            "keep": number % share == 0,
            "keep_real": number % share == 1,
        }
        names = [row["clip_id"] for row in features.rows]
        shards.write_table(
            pa.table(
                {
                    "clip_id": names,
                    "keep": filters[path]["keep"],
                    "keep_real": filters[path]["keep_real"],
                }
            ),
            Path(path),
        )
    kept = filters[
        "data/filter/caption_mapping.parquet"
        if kind == "mapped"
        else "data/filter/semantic_validation.parquet"
    ][gate]
    with scratch() as folder:
        made = ActionData(
            folder,
            Condition(**condition_keys(train_audio=kind, test_audio=kind, gate=gate)),
        )
        sound, heard = made.sounds[kind].read(torch.arange(len(number)), 0)
    assert made.clips.clip_id.tolist() == names and np.array_equal(heard, kept)
    assert np.array_equal(
        sound, np.where(kept, offsets[kind] + number, 0)[:, None, None] + np.zeros((STEPS, 5))
    )


def test_mapped_rows_never_fall_back_to_the_other_architectures_filter(features):
    write_marked("mapped", features.rows, 0)
    names = [row["clip_id"] for row in features.rows]
    shards.write_table(
        pa.table({"clip_id": names, "keep": [True] * len(names)}),
        Path("data/filter/semantic_validation.parquet"),
    )
    with (
        scratch() as folder,
        pytest.raises(FileNotFoundError, match="data/filter/caption_mapping.parquet"),
    ):
        ActionData(
            folder,
            Condition(**condition_keys(train_audio="mapped", test_audio="mapped", gate="keep")),
        )


def test_scale_is_that_of_the_training_clips(features, made):
    model = classifier_training.build(made, network(), CONCATENATED, made.participants("training"))
    rows = [row for row in features.rows if row["split"] == "training"]
    video = np.concatenate([np.concatenate([row["rgb"], row["flow"]], 1) for row in rows])
    assert np.allclose(model.video_mean, video.mean(0), atol=2e-3) and np.allclose(
        model.video_std, video.std(0), atol=2e-3
    )
    sound = np.concatenate(
        [
            row["audio"]
            for i, row in enumerate(features.rows)
            if i % 4 and row["split"] == "training"
        ]
    )
    assert np.allclose(model.audio_mean, sound.mean(0), atol=2e-3) and np.allclose(
        model.audio_std, sound.std(0), atol=2e-3
    )


def network() -> NetworkParams:
    return params.load("classifier", ClassifierParams).lstm


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_modality_dropout_hides_so_much_audio_in_training_and_none_later(
    made, monkeypatch, dropout
):
    shares: dict[bool, list] = {True: [], False: []}
    forward = ActionClassifier.forward

    def watched(self, video, audio, has_audio):
        shares[self.training].append(has_audio.float().mean().item())
        return forward(self, video, audio, has_audio)

    monkeypatch.setattr(ActionClassifier, "forward", watched)
    made.condition = Condition(**CONDITIONS["real_audio"] | {"missing_rate": dropout})
    classifier_training.train_one(task(made))
    heard = (made.sounds["real"].row[made.clip_indices("training")] >= 0).float().mean().item()
    assert np.mean(shares[True]) == pytest.approx(
        heard * (1 - dropout), abs=0.03 if dropout else 1e-6
    )
    assert min(shares[False]) > 0.7


def task(data: ActionData) -> TrainingTask:
    """A training of the data's condition on all training clips."""
    p = params.load("classifier", ClassifierParams)
    training = data.participants("training")
    training_indices, targets = training_targets(data, training, 0.0, p.teaching, 0)
    predicted = data.participants("validation", "test")
    return TrainingTask(data, p, 0, "x", training_indices, targets, predicted, [])


def test_logistic_is_a_plain_scikit_learn_pipeline(quick):
    metrics = train("logistic")
    summary = {}
    for row in quick.rows:
        video = np.concatenate([row["rgb"], row["flow"]], 1).astype(np.float16).astype(np.float32)
        summary[row["clip_id"]] = np.concatenate([video.mean(0), video.std(0, ddof=1)])
    x, y = (
        {
            split: [f(row) for row in quick.rows if row["split"] == split]
            for split in ("training", "validation", "test")
        }
        for f in (lambda row: summary[row["clip_id"]], lambda row: row["action"])
    )
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000)).fit(
            x["training"], y["training"]
        )
        for c in (0.001, 0.01, 0.1, 1.0)
    ]
    best = max(models, key=lambda model: model.score(x["validation"], y["validation"]))
    assert metrics["accuracy"]["mean"] == pytest.approx(best.score(x["test"], y["test"]), abs=0.03)
    assert metrics["validation_accuracy"]["mean"] == pytest.approx(
        best.score(x["validation"], y["validation"]), abs=0.05
    )
    assert metrics["accuracy"]["seeds"] == 1


def test_out_of_fold_predictions_come_from_models_that_never_saw_the_source(quick, monkeypatch):
    tasks = []
    monkeypatch.setattr(
        parallel,
        "map_items",
        lambda function, items, workers: map(
            function, (tasks.append(task) or task for task in items)
        ),
    )
    quick.set(
        classifier={
            "seeds": 1,
            "lstm": {"epochs": 2},
            "conditions": {"folded": condition_keys(out_of_fold=3)},
        }
    )
    train("folded")
    answered = predictions.read("folded")
    assert set(answered.clips.clip_id) == {row["clip_id"] for row in quick.rows}
    assert np.allclose(answered.probabilities.sum(2), 1, atol=1e-5)
    assert len(tasks) == 4
    for one in tasks:
        sources = [
            set(one.data.clips.source_id.iloc[rows.numpy()])
            for rows in (one.training_indices, one.predicted_indices)
        ]
        assert not sources[0] & sources[1]
    training = [set(one.predicted_indices.tolist()) for one in tasks[1:]]
    assert sum(map(len, training)) == len(set.union(*training)) == 64


def test_what_cannot_be_trained_is_a_sentence(quick):
    write_features(actions=["a"])
    with pytest.raises(
        UserError, match="needs training clips of at least two actions; there are: \\['a'\\]"
    ):
        train("video_only")
    for split in ("validation", "test"):
        rows = [row | {"features": row["rgb"]} for row in quick.rows if row["split"] != split]
        for path in ("data/video_features/rgb", "data/video_features/flow"):
            shards.write(
                Path(path),
                pa.schema([("features", shards.tensor(pa.float16(), STEPS, 8))]),
                rows,
                rows,
                "v",
            )
        with pytest.raises(UserError, match=f"no {split} clip is left for the classifier"):
            train("video_only")
    rows = [
        row | {"features": row["rgb"]}
        for row in quick.rows
        if row["split"] != "training" or row["action"] != "c"
    ]
    for path in ("data/video_features/rgb", "data/video_features/flow"):
        shards.write(
            Path(path),
            pa.schema([("features", shards.tensor(pa.float16(), STEPS, 8))]),
            rows,
            rows,
            "v",
        )
    with pytest.raises(UserError, match="^c: validation or test clips, but no training clip"):
        train("video_only")


def test_figures_of_hand_made_predictions_are_scikit_learns():
    import pandas as pd

    rng = np.random.default_rng(0)
    true = rng.integers(0, 7, 80)
    clips = pd.DataFrame(
        {
            "clip_id": [f"c{i}" for i in range(80)],
            "split": ["test"] * 60 + ["validation"] * 20,
            "action": [f"a{t}" for t in true],
            "source_id": [f"s{i // 3}" for i in range(80)],
        }
    )
    probabilities = rng.dirichlet(np.ones(7), (1, 80)).astype(np.float32)
    probabilities[0, np.arange(80), true] += 0.2
    made = predictions.Predictions(clips, [f"a{i}" for i in range(7)], probabilities)
    figures = condition_evaluation.classifier_figures(made)
    guessed = probabilities[0].argmax(1)
    top = np.argsort(-probabilities[0], 1)[:, :5]
    assert figures["accuracy"]["mean"] == pytest.approx(accuracy_score(true[:60], guessed[:60]))
    assert figures["macro_f1"]["mean"] == pytest.approx(
        f1_score(true[:60], guessed[:60], average="macro")
    )
    assert figures["top5"]["mean"] == pytest.approx(
        np.mean([t in best for t, best in zip(true[:60], top[:60], strict=True)])
    )
    assert figures["validation_accuracy"]["mean"] == pytest.approx(
        accuracy_score(true[60:], guessed[60:])
    )
    assert figures["accuracy"]["n"] == 60 and figures["accuracy"]["sources"] == 20


def test_names_in_the_plots_are_no_formulas(workspace):
    import pandas as pd

    clips = pd.DataFrame(
        {"clip_id": ["a"], "split": ["test"], "action": ["=1+1"], "source_id": ["s"]}
    )
    classifier.write_plots(
        "row",
        [],
        predictions.Predictions(clips, ["=1+1", "b"], np.array([[[0.2, 0.8]]], np.float32)),
    )
    assert Path("metrics/plots/confusion/row.csv").read_text() == "actual,predicted\n'=1+1,b\n"


@pytest.mark.parametrize(
    ("first", "module", "started"),
    [
        ("-m", "stages.classifier", ["stages.classifier"]),
        ("-m", "stages.clips", []),
        ("/repository/stages/classifier.py", "stages.classifier", []),
    ],
)
def test_the_workers_server_starts_with_the_script_alone(monkeypatch, first, module, started):
    """While Python imports the package of a script, its first argument is -m."""
    found = []
    monkeypatch.setattr(parallel, "start_server", found.append)
    monkeypatch.setattr(sys, "argv", [first, "video_only"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", module, "video_only"])
    exec((ROOT / "stages" / "__init__.py").read_text(), {})
    assert found == started
