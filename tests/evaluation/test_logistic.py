"""Logistic regression whose strength held-out sources choose."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from audio_from_video.clipset import folds
from audio_from_video.evaluation import logistic
from audio_from_video.evaluation.logistic import fit_logistic

CANDIDATES = [0.001, 0.01, 0.1, 1.0]


def clips(rng: np.random.Generator, sources: int = 60, of_source: int = 2):
    """Clips whose outcome follows their first feature, with noise."""
    source_ids = np.repeat([f"video{number}" for number in range(sources)], of_source)
    features = rng.normal(size=(len(source_ids), 30)) * 3 + 1
    outcomes = features[:, 0] + rng.normal(size=len(source_ids)) * 3 > 1
    return features, outcomes, source_ids


def held_out_loss(features, outcomes, source_ids, strength: float) -> float:
    """Mean negative log likelihood of held-out clips, fold by fold."""
    fold = folds.of_sources(source_ids, logistic.FOLDS)
    losses = []
    for number in range(logistic.FOLDS):
        inside = fold == number
        scale = StandardScaler().fit(features[~inside])
        model = LogisticRegression(C=strength, max_iter=2000)
        model.fit(scale.transform(features[~inside]), outcomes[~inside])
        second = model.predict_proba(scale.transform(features[inside]))[:, 1]
        losses.append(-np.log(np.where(outcomes[inside], second, 1 - second)).mean())
    return float(np.mean(losses))


@pytest.mark.parametrize("seed", range(4))
def test_the_strength_is_the_best_on_held_out_sources(seed):
    data = clips(np.random.default_rng(seed))
    losses = {strength: held_out_loss(*data, strength) for strength in CANDIDATES}
    fitted = fit_logistic(*data, CANDIDATES)
    assert fitted.inverse_regularisation == min(losses, key=losses.get)
    features, outcomes, _ = data
    scaled = StandardScaler().fit_transform(features)
    plain = LogisticRegression(C=fitted.inverse_regularisation, max_iter=2000).fit(scaled, outcomes)
    np.testing.assert_allclose(
        fitted.model.predict_proba(features), plain.predict_proba(scaled), atol=1e-6
    )


def test_clips_of_a_source_are_held_out_together():
    """Each source has an outcome and a look of its own: what is learned holds for no other."""
    rng = np.random.default_rng(0)
    source_of = np.repeat(np.arange(40), 5)
    source_ids = source_of.astype(str)
    features = rng.normal(size=(40, 60))[source_of]
    outcomes = (rng.random(40) < 0.5)[source_of]
    assert fit_logistic(features, outcomes, source_ids, CANDIDATES).inverse_regularisation < 0.1
    apart = np.arange(len(source_ids)).astype(str)  # as if each clip were of a source of its own
    assert fit_logistic(features, outcomes, apart, CANDIDATES).inverse_regularisation == 1.0


def test_where_nothing_can_be_held_out_the_strongest_regularisation_is_taken():
    """One source has all clips of an outcome, or there is only one source."""
    features = np.arange(12.0)[:, None]
    outcomes = np.arange(12) >= 6
    two = np.where(outcomes, "b", "a")
    one = np.repeat("a", 12)
    for source_ids in (two, one):
        fitted = fit_logistic(features, outcomes, source_ids, [1.0, 0.01])
        assert fitted.inverse_regularisation == 0.01
        assert fitted.model.predict([[11.0]]).tolist() == [True]
