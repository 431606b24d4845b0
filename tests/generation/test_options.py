"""Generators that predict their errors, and that add to the mean sound of predicted actions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.clipset import folds
from audio_from_video.evaluation import generation as generation_evaluation
from audio_from_video.generation.generator import Inputs, predicted_actions
from audio_from_video.generation.networks import (
    AudioGenerator,
    GeneratorSizes,
    Prediction,
    beta_nll,
)
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.generation.training import GeneratorTask, GeneratorTraining, Job
from audio_from_video.learning.features import Features
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SPLITS
from audio_from_video.storage import predictions, shards
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.synthetic import ACTIONS, COMPONENTS, NETWORK, STEPS

GENERATED = Path("data/generated/semantic_validation")
BOTH = {"variance": "predicted", "residual": "action_mean"}


@pytest.fixture
def data(workspace, in_process):
    workspace.rows = synthetic.make_clips()
    synthetic.write_data(workspace.rows)
    write_answers(workspace.rows)
    workspace.set(generator={"seeds": 1, "folds": 3, "repeats": 0, "lstm": NETWORK | BOTH})
    return workspace


@pytest.fixture
def features(data):
    with scratch() as folder:
        yield Features(folder, SPLITS)


def write_answers(rows: list[dict], of: tuple[str, ...] = SPLITS) -> predictions.Predictions:
    """Write and return random answers of two trainings of video_only for clips of these splits."""
    rows = synthetic.in_order([row for row in rows if row["split"] in of])
    probabilities = np.random.default_rng(3).dirichlet(np.ones(len(ACTIONS)), (2, len(rows)))
    clips = pd.DataFrame(rows)[predictions.CLIP_COLUMNS]
    answers = predictions.Predictions(clips, list(ACTIONS), probabilities.astype(np.float32))
    predictions.write("video_only", answers)
    return answers


def stored_bytes() -> dict[str, tuple[bytes, bytes]]:
    """The bytes of each clip's features and deviations."""
    columns = shards.read_columns(GENERATED, ["features", "deviation"])
    stored = zip(columns["clip_id"], columns["features"], columns["deviation"], strict=True)
    return {clip_id: (values.tobytes(), spread.tobytes()) for clip_id, values, spread in stored}


def random_prediction(rng: np.random.Generator) -> tuple[Prediction, torch.Tensor]:
    """A prediction [7, 3, 4] and its target."""
    mean, log_variance, target = torch.from_numpy(rng.normal(size=(3, 7, 3, 4)))
    return Prediction(mean.requires_grad_(), log_variance.requires_grad_()), target


# The likelihood


def test_without_weights_the_loss_is_twice_the_gaussian_likelihood():
    prediction, target = random_prediction(np.random.default_rng(0))
    variance = prediction.log_variance.exp()
    reference = torch.nn.GaussianNLLLoss()(prediction.mean, target, variance)
    torch.testing.assert_close(beta_nll(prediction, target, 0.0), 2 * reference)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_weighs_the_gradients_of_the_likelihood(beta):
    prediction, target = random_prediction(np.random.default_rng(1))
    found = torch.autograd.grad(
        beta_nll(prediction, target, beta), (prediction.mean, prediction.log_variance)
    )
    variance = prediction.log_variance.exp().detach()
    error = (prediction.mean - target).detach()
    weight = variance**beta / target.numel()
    torch.testing.assert_close(found[0], weight * 2 * error / variance)
    torch.testing.assert_close(found[1], weight * (1 - error**2 / variance))


def test_at_beta_1_the_mean_learns_as_by_the_squared_error():
    prediction, target = random_prediction(np.random.default_rng(2))
    found = torch.autograd.grad(beta_nll(prediction, target, 1.0), prediction.mean)
    squared = torch.nn.functional.mse_loss(prediction.mean, target)
    torch.testing.assert_close(found, torch.autograd.grad(squared, prediction.mean))


def test_the_second_head_changes_no_mean_and_begins_at_the_variance_of_training():
    video = torch.randn(2, STEPS, 6)
    made = []
    for variance in ("none", "predicted"):
        torch.manual_seed(4)
        sizes = GeneratorSizes(6, 3, 5, 5, 0.0, True, variance=variance)
        made.append(AudioGenerator(sizes).eval())
    plain, with_variance = made
    assert torch.equal(plain(video), with_variance(video))
    assert plain.predict(video).log_variance is None

    spread = torch.tensor([0.02, 1.0, 3.0])
    with_variance.set_scale("audio", torch.ones(3), torch.full((3,), 1.5))
    with_variance.start_variances(spread)
    torch.nn.init.zeros_(with_variance.variance_head[1].weight)
    deviation = with_variance.deviation(with_variance.predict(video).log_variance)
    torch.testing.assert_close(deviation, spread.expand_as(deviation))


def test_calibration_is_that_of_pandas():
    rng = np.random.default_rng(5)
    real, deviation = rng.normal(size=(20, 3, 4)), rng.uniform(0.5, 2, size=(20, 3, 4))
    generated = real + deviation * rng.normal(size=(20, 3, 4))
    found = generation_evaluation.calibration(generated, deviation, real)
    error = pd.Series(((generated - real) ** 2).sum((1, 2)))
    expected = error.corr(pd.Series((deviation**2).sum((1, 2))), method="spearman")
    assert found["error_rank_correlation"] == pytest.approx(expected) and abs(expected) > 0.05
    share = (((generated - real) / deviation) ** 2).mean()
    assert found["standardised_squared_error"] == pytest.approx(share)


# What is written


def test_deviations_stand_beside_the_features(data):
    metrics = synthetic.generate()
    stored = shards.read_columns(GENERATED, ["features", "deviation"])
    assert stored["deviation"].shape == stored["features"].shape
    assert stored["deviation"].dtype == np.float16 and (stored["deviation"] > 0).all()
    for split in ("validation", "test", "out_of_fold"):
        assert metrics[split]["generated"]["standardised_squared_error"] > 0
        assert -1 <= metrics[split]["generated"]["error_rank_correlation"] <= 1
    data.set(generator={"lstm": {"variance": "none"}})
    metrics = synthetic.generate()
    assert not shards.has_column(GENERATED, "deviation")
    assert "error_rank_correlation" not in metrics["test"]["generated"]


@pytest.mark.slow
def test_errors_are_expected_where_they_are(workspace, in_process):
    """The sound of one action is noise: deviations tell its clips from the others."""
    rows = synthetic.make_clips(sizes={"training": 40, "validation": 12, "test": 12}, unlabelled=0)
    rng = np.random.default_rng(6)
    for row in rows:
        if row["action"] == ACTIONS[0]:
            row["rgb"] = row["rgb"] + 4  # so that they can be told
            row["audio"] = row["audio"] + 8 * rng.normal(size=row["audio"].shape)
    synthetic.write_data(rows)
    write_answers(rows)
    network = NETWORK | {"variance": "predicted", "epochs": 10, "patience": 10}
    workspace.set(generator={"seeds": 1, "folds": 2, "repeats": 0, "lstm": network})
    metrics = synthetic.generate()
    for split in ("test", "out_of_fold"):
        assert metrics[split]["generated"]["error_rank_correlation"] > 0.5


def test_the_residual_is_the_mean_sound_of_the_predicted_actions(data, features):
    answers = predictions.read("video_only")
    p = params.load("generator", GeneratorParams)
    fold = folds.of_clips(features.clips, 3)
    predicted = predicted_actions(features, answers)
    inputs = Inputs(features, fold, predicted=predicted)
    training = GeneratorTraining(GeneratorTask(inputs, Job(0, 1), p, Path("unused"), ""))
    model = training.generator.model.eval()
    for parameter in model.head.parameters():
        torch.nn.init.zeros_(parameter)

    asked = features.clip_indices(*SPLITS)
    with torch.inference_mode():
        found = model.unscale(training.generator(asked)).numpy()
    named = {row["clip_id"]: row for row in data.rows}
    rows = [named[name] for name in features.clips.clip_id]
    learned = [row for row, number in zip(rows, fold, strict=True) if number != 1]
    means = []
    for action in ACTIONS:
        own = [row for row in learned if row["split"] == "training" and row["action"] == action]
        means.append(np.concatenate([row["audio"] for row in own if row["audible"]]).mean(0))
    probabilities = dict(zip(answers.clips.clip_id, answers.probabilities.mean(0), strict=True))
    expected = np.stack([probabilities[row["clip_id"]] @ np.stack(means) for row in rows])
    assert found.shape == (len(rows), STEPS, COMPONENTS)
    np.testing.assert_allclose(found, np.repeat(expected[:, None], STEPS, 1), atol=5e-3)


def test_the_saved_weights_hold_the_sound_of_the_actions(data):
    synthetic.generate()
    weights = load_file("models/generator/semantic_validation/seed-0.safetensors")
    assert weights["action_sound.mean"].shape == (len(ACTIONS), COMPONENTS)
    assert "variance_head.1.weight" in weights


def test_clips_without_answer_are_a_sentence(data):
    write_answers(data.rows, of=("training", "validation", "test"))
    with pytest.raises(UserError, match="clips have no predicted action.*answers_pool"):
        synthetic.generate()


# Who knows what


def test_labels_of_test_clips_change_nothing(data):
    synthetic.generate()
    before = stored_bytes()
    for row in data.rows:
        if row["split"] == "test":
            row["action"] = ACTIONS[(ACTIONS.index(row["action"]) + 1) % len(ACTIONS)]
    synthetic.write_data(data.rows)
    synthetic.generate()
    assert stored_bytes() == before


def test_a_clips_own_sound_changes_nothing_for_its_fold(data):
    synthetic.generate()
    before = stored_bytes()
    fold = folds.of_clips(pd.DataFrame(data.rows), 3)
    changed = next(
        number
        for number, row in enumerate(data.rows)
        if row["split"] == "training" and row["audible"]
    )
    data.rows[changed]["audio"] = data.rows[changed]["audio"][::-1] + 3
    synthetic.write_data(data.rows)
    synthetic.generate()
    after = stored_bytes()
    same = {
        row["clip_id"]
        for row, number in zip(data.rows, fold, strict=True)
        if row["split"] in ("training", "unlabelled") and number == fold[changed]
    }
    assert {name for name in before if before[name] == after[name]} == same
