"""Intervals and paired differences by resampling sources and trainings.

Clips cut from one video are no independent observations, and another seed gives another training.
A resample draws sources, and where values are given by training also trainings (two levels).  The
statistic is the ratio sum(values) / number of clips over the drawn sources (Efron & Tibshirani
1993, percentile interval).  An estimate is a dict `{mean, ci95_low, ci95_high, n, sources}`.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

RESAMPLES = 4000
CHUNK = 200  # resamples at a time, so that memory stays at CHUNK x sources
FEW_SOURCES = 300  # up to which all resamples are kept: 10 MB

QUANTILES = [2.5, 97.5]  # of the 95 % interval, per cent
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


def training_weights(trainings: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the weights [resamples, trainings] of trainings in resamples; each row sums to 1.

    Plain draws of n trainings vary by (n - 1) / n too little, which is a third for three.  The
    weights are stretched around 1 / n to make up for it (Rao & Wu 1988).
    """
    if trainings == 1:
        return np.ones((resamples, 1))
    even = 1 / trainings
    drawn = rng.multinomial(trainings, np.full(trainings, even), resamples) / trainings
    return even + np.sqrt(trainings / (trainings - 1)) * (drawn - even)


# ---- estimates ----


def interval(
    values: np.ndarray, sources: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> dict:
    """Return the estimate `{mean, ci95_low, ci95_high, n, sources}` of per-clip values.

    values: [N], or [N, trainings], whose trainings are resampled, too.
    sources: of the clips [N].  The mean and its bounds are None without clips.
    """
    return _estimate([_by_training(values)], sources, seed, resamples)


def paired_difference(
    first: np.ndarray,
    second: np.ndarray,
    sources: np.ndarray,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> dict:
    """Return the estimate of first - second on the same clips, with the `p` of `p_value`.

    first, second: as in `interval`.  Their trainings are drawn independently: the same seed gives
    other networks other random numbers.
    """
    first = _by_training(first)
    second = _by_training(second)
    estimate = _estimate([first, -second], sources, seed, resamples)
    if not len(first):
        return estimate | {"p": None}
    difference = first.mean(1) - second.mean(1)
    variance = training_variance(first) + training_variance(second)
    return estimate | {"p": p_value(difference, sources, variance)}


def mean_over_samples(values: np.ndarray) -> dict:
    """Return the estimate `{mean, ci95_low, ci95_high}` of a figure of S >= 2 samples, values [S].

    Samples are drawn independently: the interval is Student's, of S - 1 degrees of freedom.
    """
    # SciPy's statistics take a second to import, which the stages need not wait for.
    from scipy import stats

    mean = values.mean()
    half_width = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return {"mean": mean, "ci95_low": mean - half_width, "ci95_high": mean + half_width}


def gap_share(
    first: np.ndarray, baseline: np.ndarray, upper: np.ndarray, sources: np.ndarray
) -> dict | None:
    """Return the estimate of (first - baseline) / (upper - baseline) on the same clips [N].

    None where the interval of the denominator contains 0: its shares may then be anything.
    """
    gains_by_clip = np.stack([first - baseline, upper - baseline], axis=1)
    gains = by_source(gains_by_clip, sources)  # [sources, 2]
    draws = [counts @ gains for counts in resample_counts(len(gains), 0)]
    resampled = np.concatenate(draws)  # [resamples, 2]
    gap_low, gap_high = np.percentile(resampled[:, 1], [2.5, 97.5])
    if gap_low <= 0 <= gap_high:
        return None
    # A resample without a gap has no share of it.
    resampled = resampled[resampled[:, 1] != 0]
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    return {
        "mean": float(gains[:, 0].sum() / gains[:, 1].sum()),
        "ci95_low": float(low),
        "ci95_high": float(high),
    }


def _by_training(values: np.ndarray) -> np.ndarray:
    """Values as [N, trainings]."""
    values = np.asarray(values, float)
    return values[:, None] if values.ndim == 1 else values


def _estimate(parts: list[np.ndarray], sources: np.ndarray, seed: int, resamples: int) -> dict:
    """The estimate of the sum of the means of parts [N, trainings], each with its trainings."""
    count = len(parts[0])
    if not count:
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
    sums = [by_source(part, sources) for part in parts]
    sizes = by_source(np.ones(count), sources)
    rng = np.random.default_rng((seed, 1))  # apart from the draws of sources
    means = []
    for counts in resample_counts(len(sizes), seed, resamples):
        total = np.zeros(len(counts))
        for part_sums in sums:
            weights = training_weights(part_sums.shape[1], len(counts), rng)
            total += ((counts @ part_sums) * weights).sum(1)
        means.append(total / (counts @ sizes))
    low, high = np.percentile(np.concatenate(means), QUANTILES)
    return {
        "mean": float(sum(part.mean() for part in parts)),
        "ci95_low": float(low),
        "ci95_high": float(high),
        "n": count,
        "sources": len(sizes),
    }


def training_variance(values: np.ndarray) -> float:
    """Return the variance that trainings leave in the mean of values [N, trainings].

    It is 0 with one training: nothing is known of others.
    """
    trainings = values.shape[1]
    if trainings == 1:
        return 0.0
    return float(values.mean(0).var(ddof=1) / trainings)


def p_value(difference: np.ndarray, sources: np.ndarray, variance: float = 0.0) -> float:
    """Return the two-sided p-value of a jackknife t-test that the mean difference is zero.

    difference: per clip [N].  The standard error is the jackknife's over sources (Efron &
    Tibshirani 1993, ch. 11) with sources - 1 degrees of freedom.  With few sources a p-value by
    inverting the percentile interval finds differences that are not there too often (measured:
    benchmarks/interval_coverage.py).
    variance: of the mean over trainings (`training_variance`).  What seeds change from source to
    source counts twice, which outweighs how badly a few seeds tell their deviation.
    """
    from scipy.special import stdtr

    sums = by_source(difference, sources)
    sizes = by_source(np.ones(len(difference)), sources)
    count = len(sums)
    if count < 2:
        return 1.0
    # Means without one source each.
    means = (sums.sum() - sums) / (sizes.sum() - sizes)
    jackknife = (count - 1) / count * np.square(means - means.mean()).sum()
    error = np.sqrt(jackknife + variance)
    if not error:
        return 1.0
    return float(2 * stdtr(count - 1, -abs(difference.mean()) / error))


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
    without clips, and where the values do not differ at all, which says nothing of the error.
    """
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not difference.any():
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
