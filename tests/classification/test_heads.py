"""Linear and kernel heads, their cross-validation, and how classifiers use audio."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from audio_from_video.classification import heads
from audio_from_video.classification.audio_input import component_weights, out_of_fold_r2
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    LateFusionClassifier,
    TrainingBatch,
)
from audio_from_video.classification.settings import ClassifierParams, Condition, FusionParams
from audio_from_video.clipset import folds
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.separable_features import train

GENERATED = {"train_audio": "generated", "test_audio": "generated"}


@pytest.fixture
def rows(workspace, in_process):
    """Labelled and unlabelled clips of three actions."""
    workspace.set(classifier={"seeds": 2})
    made = synthetic.make_clips(unlabelled=20)
    synthetic.write_data(made)
    return made


def write_generated(rows: list[dict], noise: list[float]) -> None:
    """Generated audio of two seeds: the clip's own, plus noise of such deviations by component."""
    rng = np.random.default_rng(0)
    for row in rows:
        shape = (2, *row["audio"].shape)
        row["features"] = row["audio"] + np.array(noise) * rng.normal(size=shape)
    path = Path("data/generated/semantic_validation")
    synthetic.write_shards(path, {"features": (2, *rows[0]["audio"].shape)}, rows)


@pytest.fixture
def data(rows):
    with scratch() as folder:
        yield lambda **keys: ActionData(folder, Condition(**condition_keys(**keys)))


def fusion(**keys) -> FusionParams:
    return FusionParams(
        **{"how": "concatenate", "audio_scale": "dimension", "components": 0} | keys
    )


# Weights of components


def test_out_of_fold_r2_is_that_of_numpy(rows, data):
    write_generated(rows, [0.0, 0.3, 1.0, 3.0, 30.0])
    made = data(**GENERATED)
    training = made.participants("training")
    own, heard = made.sounds["real"].read(training)
    estimates, known = made.sounds["generated"].read(training, 1)
    own, estimates = (x[heard & known].double().flatten(0, 1) for x in (own, estimates))
    expected = 1 - ((own - estimates) ** 2).mean(0) / own.var(0, correction=0)
    found = out_of_fold_r2(made, training, 1)
    assert torch.allclose(found, expected.clamp(0, 1).float(), atol=1e-4)
    assert found[0] > 0.99 > found[1] > found[2] and found[4] == 0


def test_r2_knows_no_validation_or_test_clip(rows, data):
    write_generated(rows, [0.5] * 5)
    made = data(**GENERATED)
    before = out_of_fold_r2(made, made.participants("training"), 0)
    for row in rows:
        if row["split"] in ("validation", "test"):
            row["audio"] = row["audio"] + 9
    synthetic.write_data(rows)
    with scratch() as folder:
        again = ActionData(folder, Condition(**condition_keys(**GENERATED)))
        assert torch.equal(out_of_fold_r2(again, again.participants("training"), 0), before)


def test_real_audio_explains_itself(rows, data):
    made = data(train_audio="real", test_audio="real")
    assert torch.equal(out_of_fold_r2(made, made.participants("training"), 0), torch.ones(5))


@pytest.mark.parametrize("scale", ["dimension", "global", "reliability"])
@pytest.mark.parametrize("components", [0, 2])
def test_weights_by_scale(rows, data, scale, components):
    write_generated(rows, [0.0, 0.3, 1.0, 3.0, 30.0])
    made = data(**GENERATED)
    training = made.participants("training")
    places = made.sounds["generated"].row[training]
    _, std = made.sounds["generated"].file.moments(places.tolist())
    raw = {
        "dimension": torch.ones(5),
        "global": std,
        "reliability": out_of_fold_r2(made, training, 0),
    }[scale]
    expected = raw / raw.square().mean().sqrt()
    if components:
        expected[components:] = 0
    settings = fusion(audio_scale=scale, components=components)
    assert torch.allclose(component_weights(made, settings, training, 0), expected)


def test_global_divides_all_components_by_one_deviation():
    model = ActionClassifier(ClassifierSizes(3, 2, 2, 4, 0, 0.0))
    audio = torch.randn(50, 6, 2) * torch.tensor([1.0, 7.0])
    std = audio.std((0, 1), correction=0)
    model.set_scale("audio", audio.mean((0, 1)), std)
    model.audio_weight.copy_(std / std.square().mean().sqrt())
    one_scale = (audio - audio.mean((0, 1))) / std.square().mean().sqrt()
    assert torch.allclose(model.scale("audio", audio), one_scale, atol=1e-5)


def test_a_condition_may_have_its_own_fusion(workspace):
    p = params.load("classifier", ClassifierParams)
    own = Condition(**condition_keys(fusion={"components": 16}))
    assert p.fusion_of(own) == p.fusion.model_copy(update={"components": 16})
    assert p.fusion_of(Condition(**condition_keys())) == p.fusion
    workspace.set(
        classifier={"conditions": {"x": condition_keys(model="svm", fusion={"how": "late"})}}
    )
    with pytest.raises(UserError, match="model: svm concatenates"):
        params.load("classifier", ClassifierParams)


# Late fusion


def test_a_product_of_experts():
    torch.manual_seed(0)
    model = LateFusionClassifier(ClassifierSizes(6, 3, 4, 5, 8, 0.0)).eval()
    video, audio = torch.randn(2, 7, 6), torch.randn(2, 7, 3)
    heard = torch.tensor([True, False])
    of_video, of_audio = model.experts(video, audio, heard)
    model.audio_share.fill_(0.7)
    product = of_video.softmax(1) * of_audio.softmax(1) ** 0.7
    expected = product / product.sum(1, keepdims=True)
    assert torch.allclose(model(video, audio, heard).softmax(1), expected, atol=1e-6)
    # Without audio the video expert answers alone.
    assert torch.allclose(model(video, audio, heard)[1].softmax(0), of_video[1].softmax(0))
    everyone = torch.tensor([True, True])
    batch = TrainingBatch(video, audio, heard, everyone, everyone)
    logits, second = model.training_pass(batch)
    assert logits.shape == (2, 2, 4) and second is None
    assert "audio_share" in model.state_dict()


def test_the_share_of_a_late_fusion_is_chosen_on_validation(rows, workspace):
    network = {"hidden": 8, "projection": 8, "epochs": 3, "min_steps": 0}
    late = condition_keys(train_audio="real", test_audio="real", fusion={"how": "late"})
    workspace.set(classifier={"lstm": network, "seeds": 1, "conditions": {"late": late}})
    assert train("late")["accuracy"]["mean"] > 0
    share = load_file("models/classifier/late/seed-0.safetensors")["audio_share"].item()
    before = predictions.read("late").probabilities
    for row in rows:
        if row["split"] == "test":
            place = synthetic.ACTIONS.index(row["action"])
            row["action"] = synthetic.ACTIONS[(place + 1) % 3]
    synthetic.write_data(rows)
    train("late")
    again = load_file("models/classifier/late/seed-0.safetensors")["audio_share"].item()
    assert share == again and share in LateFusionClassifier.SHARES
    assert np.array_equal(np.sort(before, 1), np.sort(predictions.read("late").probabilities, 1))


# Heads


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_the_setting_is_the_best_on_held_out_training_sources(rows, data, model):
    made = data(model=model)
    p = params.load("classifier", ClassifierParams)
    labelled = made.participants("training")
    chosen = heads.choose_setting(heads.summaries_of(made, p, labelled, 0), labelled, p)

    everything = [row for row in rows if row["split"] in ("training", "unlabelled")]
    fold = dict(
        zip(
            [row["clip_id"] for row in everything],
            folds.of_clips(pd.DataFrame(everything), p.heads.folds),
            strict=True,
        )
    )
    clips = made.clips.iloc[labelled.numpy()]
    fold_of = clips.clip_id.map(fold).to_numpy()
    video = made.video.read(labelled.tolist()).numpy()
    x = np.concatenate([video.mean(1), video.std(1, ddof=1)], 1)
    x = (x - x.mean(0)) / x.std(0)
    y = made.labels[labelled].numpy()
    accuracies = []
    for strength in getattr(p, model).inverse_regularisation:
        right = []
        for number in range(p.heads.folds):
            inside = fold_of == number
            one = {
                "logistic": LogisticRegression(C=strength, max_iter=2000),
                "svm": SVC(C=strength),
            }[model]
            right += list(one.fit(x[~inside], y[~inside]).predict(x[inside]) == y[inside])
        accuracies.append(np.mean(right))
    best = int(np.argmax(accuracies))
    assert chosen.accuracy == pytest.approx(accuracies[best], abs=0.03)
    assert accuracies[
        getattr(p, model).inverse_regularisation.index(chosen.inverse_regularisation)
    ] == pytest.approx(max(accuracies), abs=0.03)


def test_the_span_of_the_learned_clips_is_enough_for_logistic_regression():
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 3
    learned = rng.normal(size=(40, 200)) + 0.5 * rng.normal(size=(3, 200))[labels]
    others = rng.normal(size=(25, 200))
    basis = heads.basis_of("logistic", learned)
    assert basis.shape == (200, 40)
    answers = []
    for clips, questions in ((learned, others), (learned @ basis, others @ basis)):
        model = LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(clips, labels)
        answers.append(model.decision_function(questions))
    np.testing.assert_allclose(*answers, atol=1e-5)
    # A kernel needs all coordinates, and so does a regression with fewer of them than clips.
    for model, clips in (("svm", learned), ("logistic", learned[:, :7])):
        np.testing.assert_array_equal(heads.basis_of(model, clips), np.eye(clips.shape[1]))


def test_probabilities_of_two_and_of_unseen_actions():
    x = np.array([[0.0], [0.2], [2.0], [2.2]])
    y = np.array([1, 1, 3, 3])
    model = LogisticRegression().fit(x, y)
    found = heads.softmax(heads.decision_values(model, x, 5))
    assert np.allclose(found[:, [1, 3]], model.predict_proba(x))
    assert (found[:, [0, 2, 4]] == 0).all()


def test_a_head_learns_its_teachers_answers_by_their_weight(rows, workspace):
    """Of clips without label it learns each action as often as the teacher believes in it."""
    teacher = condition_keys(model="logistic", out_of_fold=2, answers_pool=True)
    student = condition_keys(
        model="logistic", teacher_predictions="data/predictions/teacher.parquet"
    )
    alone = condition_keys(model="logistic")
    conditions = {"teacher": teacher, "student": student, "alone": alone}
    workspace.set(classifier={"conditions": conditions})
    train("teacher")
    answered = predictions.read("teacher")
    assert set(answered.clips.split) == {"training", "unlabelled", "validation", "test"}
    train("student")
    train("alone")
    student_answers = predictions.read("student").probabilities
    assert student_answers.shape == (2, *predictions.read("alone").probabilities.shape[1:])
    assert not np.allclose(student_answers[0], predictions.read("alone").probabilities[0])


@pytest.mark.parametrize("model", ["logistic", "svm"])
def test_labels_of_test_clips_choose_nothing(rows, workspace, model):
    write_generated(rows, [0.5] * 5)
    keys = condition_keys(model=model, **GENERATED, fusion={"audio_scale": "reliability"})
    workspace.set(classifier={"conditions": {"head": keys}})
    before = train("head")
    answers = predictions.read("head")
    table = {
        name: answers.probabilities[:, i].tolist() for i, name in enumerate(answers.clips.clip_id)
    }
    for row in rows:
        if row["split"] == "test":
            place = synthetic.ACTIONS.index(row["action"])
            row["action"] = synthetic.ACTIONS[(place + 1) % 3]
    synthetic.write_data(rows)
    path = Path("data/generated/semantic_validation")
    synthetic.write_shards(path, {"features": rows[0]["features"].shape}, rows)
    after = train("head")
    answers = predictions.read("head")
    assert after["setting"] == before["setting"]
    assert after["accuracy"]["mean"] != before["accuracy"]["mean"]
    for i, name in enumerate(answers.clips.clip_id):
        assert np.allclose(answers.probabilities[:, i], table[name], atol=1e-6)


def test_heads_may_learn_from_validation_clips_which_they_answer_without(rows, data, workspace):
    made = data(model="logistic")
    results = {}
    for learn_from in ("training", "labelled"):
        workspace.set(classifier={"heads": {"learn_from": learn_from}})
        p = params.load("classifier", ClassifierParams)
        results[learn_from] = heads.fit_heads(made, p)
    answers = {name: result.predictions for name, result in results.items()}
    validation = {name: found.of("validation").probabilities for name, found in answers.items()}
    assert np.array_equal(validation["training"], validation["labelled"])

    learned = made.participants("training", "validation")
    test = made.participants("test")
    video = made.video.read([*learned.tolist(), *test.tolist()]).numpy()
    x = np.concatenate([video.mean(1), video.std(1, ddof=1)], 1)
    mean = x[: len(learned)].mean(0)
    std = x[: len(learned)].std(0)
    x = (x - mean) / std
    strength = results["labelled"].setting.inverse_regularisation
    reference = LogisticRegression(C=strength, max_iter=2000, tol=1e-8)
    reference.fit(x[: len(learned)], made.labels[learned].numpy())
    expected = reference.predict_proba(x[len(learned) :])
    found = answers["labelled"].of("test")
    names = made.clips.clip_id.to_numpy()[test]
    assert found.clips.clip_id.tolist() == names.tolist()
    assert np.allclose(found.probabilities[0], expected, atol=0.01)
    assert not np.allclose(answers["training"].of("test").probabilities[0], expected, atol=0.01)
