"""The value of sound, with clips reweighted by how likely such a clip is audible.

Clips that have sound are no random sample: silence depends on what is seen and on the action.  A
gain measured on audible clips is that of such clips.  Weighted by 1 / P(audible | video) they stand
for all clips (inverse-probability weighting; ICYM2I, Choi et al. 2025, arXiv 2505.16953), where
audibility depends on nothing but what the video features show.
"""

from dataclasses import dataclass

import numpy as np

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.logistic import fit_logistic


@dataclass(frozen=True)
class Propensity:
    """The probability that a clip is audible, predicted from its video.

    probabilities [n]: of the test clips.  inverse_regularisation: as chosen; None where all clips
    to learn from are audible, or none is: the share is predicted then.
    log_loss, log_loss_of_share: on validation, which chooses nothing, of the predictions and of the
    share of audible clips among those that were learned from.
    """

    probabilities: np.ndarray
    inverse_regularisation: float | None
    log_loss: float
    log_loss_of_share: float


@dataclass(frozen=True)
class AudibleClips:
    """Clips as the propensity model sees them.

    features [n, D]: of their video.  audible [n] bool: the model's target.  sources [n]: what they
    were cut from.
    """

    features: np.ndarray
    audible: np.ndarray
    sources: np.ndarray


def fit_propensity(
    learned: AudibleClips,
    validation: AudibleClips,
    test_features: np.ndarray,
    candidates: list[float],
) -> Propensity:
    """Return P(audible | video) of test clips [n], by logistic regression on standardised features.

    learned: training and unlabelled clips, whose sources choose among `candidates` of
    scikit-learn's C (logistic.py).  validation: measures the log loss.
    """
    share = float(learned.audible.mean())
    share_loss = log_loss(np.full(len(validation.audible), share), validation.audible)
    if share in (0.0, 1.0):
        same = np.full(len(test_features), share)
        return Propensity(same, None, share_loss, share_loss)

    fitted = fit_logistic(learned.features, learned.audible, learned.sources, candidates)
    predicted = fitted.model.predict_proba(validation.features)[:, 1]
    probabilities = fitted.model.predict_proba(test_features)[:, 1]
    loss = log_loss(predicted, validation.audible)
    return Propensity(probabilities, fitted.inverse_regularisation, loss, share_loss)


def log_loss(probabilities: np.ndarray, outcomes: np.ndarray) -> float:
    """Return the mean negative log likelihood of outcomes [n] bool, nats."""
    of_outcome = np.where(outcomes, probabilities, 1 - probabilities)
    return float(-np.log(np.maximum(of_outcome, 1e-9)).mean())


def inverse_weights(probabilities: np.ndarray, smallest: float) -> np.ndarray:
    """Return 1 / probabilities [n], of which those below `smallest` count as `smallest`."""
    return 1 / np.maximum(probabilities, smallest)


def effective_size(weights: np.ndarray) -> float:
    """Return how many equally weighted clips would tell as much: (sum w)^2 / sum w^2 (Kish 1965).

    weights [n]; 0 without clips.
    """
    if not len(weights):
        return 0.0
    return float(weights.sum() ** 2 / np.square(weights).sum())


def weighted_difference(
    first: np.ndarray, second: np.ndarray, weights: np.ndarray, sources: np.ndarray, seed: int = 0
) -> dict:
    """Return the estimate of the weighted mean of first - second, with its `effective_n`.

    first, second [N, trainings]: hits on the same clips; trainings are drawn independently.
    weights [N]: of the clips, as they are: that they were estimated is not in the interval.
    The mean is sum w d / sum w (Hajek), and a resample of sources takes numerator and denominator
    anew.  With equal weights it is `intervals.paired_difference`.
    """
    count = len(first)
    if not count:
        estimate: dict = {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
        return estimate | {"effective_n": 0.0}
    parts = [first * weights[:, None], second * -weights[:, None]]
    sums = [intervals.by_source(part, sources) for part in parts]
    sizes = intervals.by_source(weights, sources)
    rng = np.random.default_rng((seed, 1))  # as in intervals.py
    means = []
    for counts in intervals.resample_counts(len(sizes), seed):
        total = np.zeros(len(counts))
        for part_sums in sums:
            of_training = intervals.training_weights(part_sums.shape[1], len(counts), rng)
            total += ((counts @ part_sums) * of_training).sum(1)
        means.append(total / (counts @ sizes))
    low, high = np.percentile(np.concatenate(means), intervals.QUANTILES)
    difference = first.mean(1) - second.mean(1)
    return {
        "mean": float((weights * difference).sum() / weights.sum()),
        "ci95_low": float(low),
        "ci95_high": float(high),
        "n": count,
        "sources": len(sizes),
        "effective_n": effective_size(weights),
    }
