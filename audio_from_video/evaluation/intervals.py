"""Intervals and paired differences by resampling sources: clips cut from one video are no independent observations.

Values are first averaged over training seeds per clip; the deviation over seeds is reported beside the interval.  The
statistic is the ratio sum(values) / number of clips over the drawn sources (Efron & Tibshirani 1993, percentile interval).
"""

import math
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from scipy.special import stdtr

RESAMPLES = 4000
CHUNK = 200  # resamples at a time, so that memory stays at CHUNK x sources
FEW = 300  # sources up to which all resamples are kept: 10 MB each


def resample_counts(sources: int, seed: int, resamples: int = RESAMPLES) -> Iterable[np.ndarray]:
    """Arrays [<=CHUNK, sources]: how often each source is drawn in each resample; of few sources they are kept, as hundreds of
    figures resample the same ones."""
    return (
        _kept_counts(sources, seed, resamples)
        if sources <= FEW
        else _draw_counts(sources, seed, resamples)
    )


@lru_cache(maxsize=8)
def _kept_counts(sources: int, seed: int, resamples: int) -> list[np.ndarray]:
    return list(_draw_counts(sources, seed, resamples))


def _draw_counts(sources: int, seed: int, resamples: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = (
            rng.integers(sources, size=(size, sources)) + sources * np.arange(size)[:, None]
        )  # numbered through all resamples
        yield (
            np.bincount(drawn.ravel(), minlength=size * sources)
            .reshape(size, sources)
            .astype(float)
        )


def by_source(values: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Sums [S, ...] of per-clip values [N, ...] over the clips of each source."""
    _, inverse = np.unique(sources, return_inverse=True)
    sums = np.zeros((inverse.max() + 1, *values.shape[1:]))
    np.add.at(sums, inverse, values)
    return sums


def interval(
    values: np.ndarray, sources: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict:
    """`{mean, ci95_low, ci95_high, n, sources}` of per-clip values [N]; None without clips."""
    values = np.asarray(values, float)
    if not len(values):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
    sums, sizes = by_source(values, sources), by_source(np.ones(len(values)), sources)
    means = np.concatenate(
        [(c @ sums) / (c @ sizes) for c in resample_counts(len(sums), seed, resamples)]
    )
    low, high = np.percentile(means, [2.5, 97.5])
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
    """Interval of first - second on the same clips, with the two-sided p-value of `p_value`."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    result = interval(difference, sources, seed, resamples)
    return result | {"p": p_value(difference, sources) if len(difference) else None}


def p_value(difference: np.ndarray, sources: np.ndarray) -> float:
    """Of "the mean of these per-clip differences is 0": t with the jackknife's standard error over sources (Efron & Tibshirani
    1993, ch. 11), sources - 1 degrees of freedom.  With few sources a p-value by inverting the percentile interval finds
    differences that are not there too often (measured: benchmarks/interval_coverage.py)."""
    sums, sizes = by_source(difference, sources), by_source(np.ones(len(difference)), sources)
    count = len(sums)
    if count < 2 or not np.ptp(left_out := (sums.sum() - sums) / (sizes.sum() - sizes)):
        return 1.0
    error = np.sqrt((count - 1) / count * np.square(left_out - left_out.mean()).sum())
    return float(2 * stdtr(count - 1, -abs(difference.mean()) / error))


def over_trainings(figure: dict, variance: float) -> dict:
    """An interval or paired difference, widened to hold for trainings with other seeds too.  Resampling sources takes the averaged
    trainings as given; `variance` is what they leave: sd over seeds squared / seeds, summed over the conditions compared.  What
    seeds change from source to source counts twice, which outweighs how badly a few seeds tell their deviation (measured:
    benchmarks/interval_coverage.py).  A p-value is replaced by that of a normal variable whose 95 % interval this is."""
    mean = figure["mean"]
    if mean is None:
        return figure
    below, above = (
        float(np.hypot(mean - figure[end], 1.960 * np.sqrt(variance)))
        for end in ("ci95_low", "ci95_high")
    )
    wider = figure | {"ci95_low": mean - below, "ci95_high": mean + above}
    to_zero = below if mean > 0 else above
    return (
        wider | {"p": math.erfc(1.960 / math.sqrt(2) * abs(mean) / to_zero)}
        if "p" in figure and to_zero
        else wider
    )


def macro_f1(
    true: np.ndarray, predicted: np.ndarray, classes: int, sources: np.ndarray, seed: int = 0
) -> dict:
    """Macro-averaged F1 over `classes` with interval; true [N] and predicted [seeds, N] are class indices."""
    if not len(true):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0}
    eye = np.eye(classes)
    expected = by_source(eye[true], sources)  # [S, C]
    answered = by_source(eye[predicted].mean(0), sources)
    hits = by_source((eye[predicted] * eye[true]).mean(0), sources)

    def f1(weights: np.ndarray) -> np.ndarray:
        denominator = weights @ (expected + answered)
        present = denominator > 0
        scores = np.divide(
            2 * (weights @ hits), denominator, out=np.zeros_like(denominator), where=present
        )
        return scores.sum(1) / present.sum(1)

    means = np.concatenate([f1(counts) for counts in resample_counts(len(expected), seed)])
    low, high = np.percentile(means, [2.5, 97.5])
    point = f1(np.ones((1, len(expected))))[0]
    return {"mean": float(point), "ci95_low": float(low), "ci95_high": float(high), "n": len(true)}


def smallest_detectable_difference(
    first: np.ndarray, second: np.ndarray, sources: np.ndarray
) -> float | None:
    """The true difference that a paired two-sided test at 5 % finds with 80 % power: (1.960 + 0.842) standard errors."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not len(difference):
        return None
    sums, sizes = by_source(difference, sources), by_source(np.ones(len(difference)), sources)
    residual = sums - difference.mean() * sizes
    return float(2.802 * np.sqrt((residual**2).sum()) / len(difference))


def holm(p_values: dict[str, float | None]) -> dict[str, float | None]:
    """p-values of a table's rows, adjusted so that the chance of any false finding among them stays below the level (Holm 1979,
    step-down).  Rows without a test (None) stay without one and do not count."""
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
    """Expected calibration error, a share: how far the probability of the answer is from how often answers of such a probability
    are right (Guo et al. 2017, arXiv 1706.04599; bins of equal width, closed above).  probabilities [seeds, N, C], labels [N] are
    class indices; each seed is scored by itself, then averaged: averaged probabilities would be another classifier's."""
    if not len(labels):
        return None
    confidence = probabilities.max(2).astype(float)  # [seeds, N]
    excess = (probabilities.argmax(2) == labels) - confidence
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = [
        np.abs(np.bincount(bin_of, weights)).sum()
        for bin_of, weights in zip(which, excess, strict=True)
    ]
    return float(np.mean(gaps) / len(labels))
