"""The value of sound: weights against closed forms on small tables."""

import numpy as np
import pytest

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.sound_value import (
    AudibleClips,
    effective_size,
    fit_propensity,
    inverse_weights,
    log_loss,
    weighted_difference,
)


def hits(rng: np.random.Generator, clips: int, trainings: int) -> np.ndarray:
    return rng.random((clips, trainings)) < 0.6


def test_equal_weights_give_the_paired_difference():
    rng = np.random.default_rng(0)
    first, second = hits(rng, 90, 3), hits(rng, 90, 2)
    sources = rng.integers(30, size=90)
    expected = intervals.paired_difference(first, second, sources)
    found = weighted_difference(first, second, np.full(90, 2.5), sources)
    for key in ("mean", "ci95_low", "ci95_high", "n", "sources"):
        assert found[key] == pytest.approx(expected[key]), key
    assert found["effective_n"] == pytest.approx(90)


def test_audible_clips_of_two_kinds_stand_for_all_clips():
    """Half of all clips are of each kind; 80 % and 20 % of them are audible.

    Sound gains 0.5 and 0.25 there: 0.375 over all clips, 0.45 over the audible ones.
    """
    of_kind = np.repeat([0, 1], [80, 20])
    gain = np.concatenate([np.tile([1, 0], 40), np.tile([1, 0, 0, 0], 5)])
    first = gain[:, None].astype(float)
    weights = inverse_weights(np.array([0.8, 0.2])[of_kind], 0.1)
    found = weighted_difference(first, np.zeros((100, 1)), weights, np.arange(100))
    assert first.mean() == pytest.approx(0.45)
    assert found["mean"] == pytest.approx(0.375)
    assert found["effective_n"] == pytest.approx(200**2 / (80 * 1.25**2 + 20 * 5**2))
    # Hajek's estimator by the delta method: residuals, weighted, over the sum of the weights.
    error = np.sqrt(np.square(weights * (first[:, 0] - 0.375)).sum()) / weights.sum()
    assert found["ci95_high"] - found["ci95_low"] == pytest.approx(2 * 1.96 * error, rel=0.08)


def test_sources_are_resampled_and_not_their_clips():
    rng = np.random.default_rng(1)
    gain = np.repeat(rng.random(40) < 0.5, 5).astype(float)[:, None]
    weights = np.ones(200)
    nothing = np.zeros((200, 1))
    by_source = weighted_difference(gain, nothing, weights, np.repeat(np.arange(40), 5))
    by_clip = weighted_difference(gain, nothing, weights, np.arange(200))
    width, narrow = (each["ci95_high"] - each["ci95_low"] for each in (by_source, by_clip))
    assert width / narrow == pytest.approx(np.sqrt(5), rel=0.1)


def test_without_clips_there_is_no_gain():
    empty = weighted_difference(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    assert empty["mean"] is None
    assert empty["effective_n"] == 0
    assert effective_size(np.zeros(0)) == 0


def test_small_probabilities_are_raised():
    weights = inverse_weights(np.array([0.5, 0.1, 0.01]), 0.1)
    np.testing.assert_allclose(weights, [2.0, 10.0, 10.0])


def test_probabilities_are_the_shares_of_clips_that_look_alike():
    """With one feature of two values, logistic regression without penalty finds both shares."""
    kind = np.repeat([0.0, 1.0], 200)[:, None]
    audible = np.concatenate([np.arange(200) < 180, np.arange(200) < 60])
    learned = AudibleClips(kind, audible, np.arange(400).astype(str))
    found = fit_propensity(learned, learned, np.array([[0.0], [1.0]]), [1e-4, 1e4])
    np.testing.assert_allclose(found.probabilities, [0.9, 0.3], atol=1e-3)
    assert found.inverse_regularisation == 1e4
    entropies = [-s * np.log(s) - (1 - s) * np.log(1 - s) for s in (0.9, 0.3, 0.6)]
    assert found.log_loss == pytest.approx(np.mean(entropies[:2]), abs=1e-5)
    assert found.log_loss_of_share == pytest.approx(entropies[2])


def test_validation_measures_and_chooses_nothing():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(300, 5))
    audible = rng.random(300) < 1 / (1 + np.exp(-3 * features[:, 0]))
    sources = np.repeat(np.arange(100), 3).astype(str)
    learned = AudibleClips(features, audible, sources)
    unlike = AudibleClips(features, ~audible, sources)
    candidates = [1e-5, 10.0]
    alike, other = (
        fit_propensity(learned, validation, features, candidates)
        for validation in (learned, unlike)
    )
    assert alike.inverse_regularisation == other.inverse_regularisation == 10.0
    np.testing.assert_array_equal(alike.probabilities, other.probabilities)
    assert alike.log_loss < alike.log_loss_of_share < other.log_loss


def test_clips_that_are_all_audible_are_predicted_so():
    learned = AudibleClips(np.zeros((4, 2)), np.ones(4, bool), np.array(["a", "b", "c", "d"]))
    validation = AudibleClips(np.zeros((2, 2)), np.array([True, True]), np.array(["e", "f"]))
    found = fit_propensity(learned, validation, np.zeros((3, 2)), [1.0])
    assert found.probabilities.tolist() == [1.0, 1.0, 1.0]
    assert found.inverse_regularisation is None


def test_log_loss_by_hand():
    found = log_loss(np.array([0.8, 0.4]), np.array([True, False]))
    assert found == pytest.approx(-(np.log(0.8) + np.log(0.6)) / 2)
