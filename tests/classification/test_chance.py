"""Which trainings count as failed, and what becomes of them."""

from dataclasses import replace

import numpy as np
import pytest

from audio_from_video.classification import training
from audio_from_video.classification.chance import exceeds_noise, is_at_chance
from audio_from_video.classification.training import TrainingResult, TrainingTask
from audio_from_video.runtime import params
from tests.support.separable_features import CONDITIONS, train, write_features

PRIOR = np.full(4, 0.25)


def answers(shift: float, clips: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities whose true action has `shift` added to its logit, labels and sources."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, clips)
    logits = rng.normal(0, 0.3, (clips, 4))
    logits[np.arange(clips), labels] += shift
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, labels, np.arange(clips) // 3


@pytest.mark.parametrize(("shift", "failed"), [(0.0, True), (-1.0, True), (1.0, False)])
def test_who_knows_no_more_than_the_shares_of_actions_is_at_chance(shift, failed):
    probabilities, labels, sources = answers(shift)
    assert is_at_chance(probabilities, labels, PRIOR, sources) == failed


def test_right_answers_count_where_probabilities_are_bad():
    probabilities, labels, sources = answers(1.0)
    overconfident = np.full_like(probabilities, 1e-9)
    overconfident[np.arange(len(labels)), probabilities.argmax(1)] = 1.0
    assert not is_at_chance(overconfident, labels, PRIOR, sources)


def test_always_the_most_frequent_action_is_chance():
    labels = np.repeat([0, 0, 0, 1], 30)
    always = np.tile([0.75, 0.25, 0.0, 0.0], (120, 1))
    prior = np.array([0.75, 0.25, 0.0, 0.0])
    assert is_at_chance(always, labels, prior, np.arange(120) // 2)


def test_few_sources_are_much_noise():
    """The same gains are a finding over 240 sources and none where two sources disagree."""
    gains = np.tile([1.0, 1.0, 1.0, 1.0, -1.0, -1.0], 40)
    assert exceeds_noise(gains, np.arange(240))
    assert not exceeds_noise(gains, (gains > 0).astype(int))


def scripted(monkeypatch, failures: list[bool], losses: list[float]) -> list[int]:
    """Trainings that fail as told; return the seeds of their random numbers, as they are drawn."""
    seeds = []

    def train_draw(task: TrainingTask) -> TrainingResult:
        seeds.append(task.random_seed)
        curve = [{"validation_loss": losses[task.draw]}]
        return TrainingResult({}, curve, np.zeros(0), [], failures[task.draw])

    monkeypatch.setattr(training, "train_draw", train_draw)
    return seeds


def task(repeats: int) -> TrainingTask:
    p = params.load("classifier", training.ClassifierParams)
    p = p.model_copy(update={"repeats": repeats})
    return TrainingTask(None, p, 5, "x", None, None, None, [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failures", "repeats", "trained", "at_chance", "loss"),
    [
        ([False], 2, 1, False, 3.0),
        ([True, False], 2, 2, False, 2.0),
        ([True, True, True], 2, 3, True, 1.0),
        ([True], 0, 1, True, 3.0),
    ],
)
def test_a_failed_training_is_repeated_with_other_random_numbers(
    workspace, monkeypatch, failures, repeats, trained, at_chance, loss
):
    seeds = scripted(monkeypatch, failures, [3.0, 2.0, 1.0])
    result = training.train_one(task(repeats))
    assert len(seeds) == len(set(seeds)) == trained
    assert seeds[0] == 5
    assert (result.repeats, result.at_chance) == (trained - 1, at_chance)
    assert result.validation_loss == loss


def test_repetitions_depend_on_seed_and_number_alone(workspace):
    drawn = {(seed, draw): replace(task(2), seed=seed, draw=draw).random_seed
             for seed in (0, 1) for draw in (0, 1, 2)}  # fmt: skip
    assert len(set(drawn.values())) == 6
    assert drawn[0, 0] == 0 and drawn[1, 0] == 1
    assert replace(task(2), seed=1, draw=2).random_seed == drawn[1, 2]


def test_the_stage_counts_and_tells_failed_trainings(workspace, in_process, capsys):
    network = {"hidden": 8, "projection": 8, "epochs": 1, "min_steps": 0, "learning_rate": 1e-9}
    workspace.set(classifier={"seeds": 2, "repeats": 1, "lstm": network, "conditions": CONDITIONS})
    write_features()
    metrics = train("video_only")
    assert metrics["trainings"] == {"all": 2, "repeated": 2, "at_chance": 2}
    assert "2 of 2 trainings ended at chance" in capsys.readouterr().err
    workspace.set(classifier={"lstm": {"epochs": 12, "learning_rate": 0.02}})
    assert train("real_audio")["trainings"] == {"all": 2, "repeated": 0, "at_chance": 0}
