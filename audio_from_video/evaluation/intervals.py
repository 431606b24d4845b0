"""Intervals and paired differences by resampling sources.

Clips cut from one video are no independent observations.  Values are first averaged over training
seeds per clip; the deviation over seeds is reported beside the interval.  The statistic is the
ratio sum(values) / number of clips over the drawn sources (Efron & Tibshirani 1993, percentile
interval).  An estimate is a dict `{mean, ci95_low, ci95_high, n, sources}`.
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from scipy.special import stdtr

RESAMPLES = 4000
CHUNK = 200  # resamples at a time, so that memory stays at CHUNK x sources
FEW_SOURCES = 300  # up to which all resamples are kept: 10 MB

QUANTILES = [2.5, 97.5]  # of the 95 % interval, per cent
Z_95 = 1.960  # half the width of a normal variable's 95 % interval, in standard deviations
Z_POWER_80 = 2.802  # 1.960 + 0.842: a test at 5 % finds so many standard errors with 80 % power


# ---- resampling ----


def resample_counts(sources: int, seed: int, resamples: int = RESAMPLES) -> Iterable[np.ndarray]:
    """Return arrays [<= CHUNK, sources]: how often each resample draws each source.

    Those of few sources are kept, as hundreds of figures resample the same ones.
    """
    if sources <= FEW_SOURCES:
        return _kept_counts(sources, seed, resamples)
    return _draw_counts(sources, seed, resamples)


@lru_cache(maxsize=8)
def _kept_counts(sources: int, seed: int, resamples: int) -> list[np.ndarray]:
    return list(_draw_counts(sources, seed, resamples))


def _draw_counts(sources: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = rng.integers(sources, size=(size, sources))
        # Numbered through all resamples, so that one bincount counts them all.
        numbered = drawn + sources * np.arange(size)[:, None]
        counts = np.bincount(numbered.ravel(), minlength=size * sources)
        yield counts.reshape(size, sources).astype(float)


def by_source(values: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return sums [S, ...] of per-clip values [N, ...] over the clips of each source."""
    _, inverse = np.unique(sources, return_inverse=True)
    sums = np.zeros((inverse.max() + 1, *values.shape[1:]))
    np.add.at(sums, inverse, values)
    return sums


# ---- estimates ----


def interval(
    values: np.ndarray, sources: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict:
    """Return the estimate `{mean, ci95_low, ci95_high, n, sources}` of per-clip values [N].

    sources: of the clips [N].  The mean and its bounds are None without clips.
    """
    values = np.asarray(values, float)
    if not len(values):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
    sums = by_source(values, sources)
    sizes = by_source(np.ones(len(values)), sources)
    means = []
    for counts in resample_counts(len(sums), seed, resamples):
        means.append((counts @ sums) / (counts @ sizes))
    low, high = np.percentile(np.concatenate(means), QUANTILES)
    return {
        "mean": float(values.mean()),
        "ci95_low": float(low),
        "ci95_high": float(high),
        "n": len(values),
        "sources": len(sums),
    }


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    sources: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Return the estimate of first - second on the same clips [N], with the `p` of `p_value`."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    estimate = interval(difference, sources, seed, resamples)
    return estimate | {"p": p_value(difference, sources) if len(difference) else None}


def p_value(difference: np.ndarray, sources: np.ndarray) -> float:
    """Return the two-sided p-value of a jackknife t-test that the mean difference is zero.

    difference: per clip [N].  The standard error is the jackknife's over sources (Efron &
    Tibshirani 1993, ch. 11) with sources - 1 degrees of freedom.  With few sources a p-value by
    inverting the percentile interval finds differences that are not there too often (measured:
    benchmarks/interval_coverage.py).
    """
    sums = by_source(difference, sources)
    sizes = by_source(np.ones(len(difference)), sources)
    count = len(sums)
    if count < 2:
        return 1.0
    # Means without one source each.
    means = (sums.sum() - sums) / (sizes.sum() - sizes)
    if not np.ptp(means):
        return 1.0
    error = np.sqrt((count - 1) / count * np.square(means - means.mean()).sum())
    return float(2 * stdtr(count - 1, -abs(difference.mean()) / error))


def over_trainings(figure: dict, variance: float) -> dict:
    """Return an estimate, widened to hold for trainings with other seeds too.

    Resampling sources takes the averaged trainings as given.  variance: what they leave, which is
    the squared deviation over seeds / seeds, summed over the conditions compared.  What seeds
    change from source to source counts twice, which outweighs how badly a few seeds tell their
    deviation (measured: benchmarks/interval_coverage.py).  A p-value is replaced by that of a
    normal variable whose 95 % interval this is.
    """
    mean = figure["mean"]
    if mean is None:
        return figure
    luck = Z_95 * np.sqrt(variance)
    below = float(np.hypot(mean - figure["ci95_low"], luck))
    above = float(np.hypot(mean - figure["ci95_high"], luck))
    wider = figure | {"ci95_low": mean - below, "ci95_high": mean + above}
    to_zero = below if mean > 0 else above
    if "p" in figure and to_zero:
        wider["p"] = math.erfc(Z_95 / math.sqrt(2) * abs(mean) / to_zero)
    return wider


def macro_f1(
    true: np.ndarray, predicted: np.ndarray, classes: int, sources: np.ndarray, seed: int = 0
) -> dict:
    """Return the macro-averaged F1 with its interval, as `{mean, ci95_low, ci95_high, n}`.

    true [N] and predicted [seeds, N] are class indices below `classes`.  Classes that nobody shows
    or names are left out.
    """
    if not len(true):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0}
    one_hot = np.eye(classes)
    expected = by_source(one_hot[true], sources)  # [S, C]
    answered = by_source(one_hot[predicted].mean(0), sources)  # [S, C]
    hits = by_source((one_hot[predicted] * one_hot[true]).mean(0), sources)  # [S, C]

    def f1(counts: np.ndarray) -> np.ndarray:
        """F1 [resamples] of resamples that draw sources so often [resamples, S]."""
        denominator = counts @ (expected + answered)
        present = denominator > 0
        scores = np.divide(
            2 * (counts @ hits), denominator, out=np.zeros_like(denominator), where=present
        )
        return scores.sum(1) / present.sum(1)

    resampled = [f1(counts) for counts in resample_counts(len(expected), seed)]
    low, high = np.percentile(np.concatenate(resampled), QUANTILES)
    mean = f1(np.ones((1, len(expected))))[0]
    return {"mean": float(mean), "ci95_low": float(low), "ci95_high": float(high), "n": len(true)}


# ---- what differences are worth ----


def smallest_detectable_difference(
    first: np.ndarray, second: np.ndarray, sources: np.ndarray
) -> float | None:
    """Return the true difference that a paired two-sided test at 5 % finds with 80 % power.

    It is (1.960 + 0.842) standard errors of the difference between per-clip values [N]; None
    without clips.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not len(difference):
        return None
    sums = by_source(difference, sources)
    sizes = by_source(np.ones(len(difference)), sources)
    residual = sums - difference.mean() * sizes
    return float(Z_POWER_80 * np.sqrt((residual**2).sum()) / len(difference))


def holm(p_values: dict[str, float | None]) -> dict[str, float | None]:
    """Return p-values by name, adjusted for the number of tests (Holm 1979, step-down).

    The chance of any false finding among them stays below the level.  Names without a test (None)
    stay without one and do not count.
    """
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    tested = sorted((p, name) for name, p in p_values.items() if p is not None)
    largest = 0.0
    for rank, (p, name) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[name] = largest
    return adjusted


def calibration_error(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = 15
) -> float | None:
    """Return the expected calibration error, a fraction; None without clips.

    It is how far the probability of the answer is from how often answers of such a probability are
    right (Guo et al. 2017, arXiv 1706.04599; bins of equal width, closed above).
    probabilities [seeds, N, C]; labels [N] are class indices.  Each seed is scored by itself, then
    averaged: averaged probabilities would be another classifier's.
    """
    if not len(labels):
        return None
    confidence = probabilities.max(2).astype(float)  # [seeds, N]
    excess = (probabilities.argmax(2) == labels) - confidence
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = []
    for seed_bins, seed_excess in zip(bin_of, excess, strict=True):
        gaps.append(np.abs(np.bincount(seed_bins, seed_excess)).sum())
    return float(np.mean(gaps) / len(labels))
