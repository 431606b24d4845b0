"""Intervals and paired differences by resampling sources: clips cut from one video are no independent observations.

Values are first averaged over training seeds per clip; the deviation over seeds is reported beside the interval.  The
statistic is the ratio sum(values) / number of clips over the drawn sources (Efron & Tibshirani 1993, percentile interval).
"""
import numpy as np

RESAMPLES = 4000
CHUNK = 200  # resamples at a time, so that memory stays at CHUNK x sources


def resample_counts(sources: int, seed: int, resamples: int = RESAMPLES):
    """Yield arrays [<=CHUNK, sources]: how often each source is drawn in each resample."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, CHUNK):
        size = min(CHUNK, resamples - start)
        drawn = rng.integers(sources, size=(size, sources)) + sources * np.arange(size)[:, None]  # numbered through all resamples
        yield np.bincount(drawn.ravel(), minlength=size * sources).reshape(size, sources)


def by_source(values: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Sums [S, ...] of per-clip values [N, ...] over the clips of each source."""
    _, inverse = np.unique(sources, return_inverse=True)
    sums = np.zeros((inverse.max() + 1, *values.shape[1:]))
    np.add.at(sums, inverse, values)
    return sums


def interval(values: np.ndarray, sources: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> dict:
    """`{mean, ci95_low, ci95_high, n, sources}` of per-clip values [N]; None without clips."""
    values = np.asarray(values, float)
    if not len(values):
        return {"mean": None, "ci95_low": None, "ci95_high": None, "n": 0, "sources": 0}
    sums, sizes = by_source(values, sources), by_source(np.ones(len(values)), sources)
    means = np.concatenate([(c @ sums) / (c @ sizes) for c in resample_counts(len(sums), seed, resamples)])
    low, high = np.percentile(means, [2.5, 97.5])
    return {"mean": float(values.mean()), "ci95_low": float(low), "ci95_high": float(high), "n": len(values), "sources": len(sums)}


def paired_difference(first: np.ndarray, second: np.ndarray, sources: np.ndarray, seed: int = 0) -> dict:
    """Interval of first - second on the same clips, with a two-sided bootstrap p-value by inverting the interval."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    result = interval(difference, sources, seed)
    if result["mean"] is None:
        return result | {"p": None}
    sums, sizes = by_source(difference, sources), by_source(np.ones(len(difference)), sources)
    means = np.concatenate([(c @ sums) / (c @ sizes) for c in resample_counts(len(sums), seed)])
    tail = min((means <= 0).mean(), (means >= 0).mean())
    return result | {"p": float(min(1.0, 2 * max(tail, 1 / (len(means) + 1))))}


def macro_f1(true: np.ndarray, predicted: np.ndarray, classes: int, sources: np.ndarray, seed: int = 0) -> dict:
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
        scores = np.divide(2 * (weights @ hits), denominator, out=np.zeros_like(denominator), where=present)
        return scores.sum(1) / present.sum(1)

    means = np.concatenate([f1(counts) for counts in resample_counts(len(expected), seed)])
    low, high = np.percentile(means, [2.5, 97.5])
    point = f1(np.ones((1, len(expected))))[0]
    return {"mean": float(point), "ci95_low": float(low), "ci95_high": float(high), "n": len(true)}


def smallest_detectable_difference(first: np.ndarray, second: np.ndarray, sources: np.ndarray) -> float | None:
    """The true difference that a paired two-sided test at 5 % finds with 80 % power: (1.960 + 0.842) standard errors."""
    difference = np.asarray(first, float) - np.asarray(second, float)
    if not len(difference):
        return None
    sums, sizes = by_source(difference, sources), by_source(np.ones(len(difference)), sources)
    residual = sums - difference.mean() * sizes
    return float(2.802 * np.sqrt((residual**2).sum()) / len(difference))


def holm(p: dict[str, float | None]) -> dict[str, float | None]:
    """p-values adjusted for all comparisons of a table (Holm 1979, step-down); None stays None and counts for nothing."""
    ordered = sorted((value, name) for name, value in p.items() if value is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p)
    largest = 0.0
    for rank, (value, name) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * value))
        adjusted[name] = largest
    return adjusted


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017) of probabilities [seeds, N, C] against labels [N]: the mean over seeds of
    |accuracy - confidence| in equal bins of the highest probability, weighted by their clips; 0 without clips."""
    confidence, hit = probabilities.max(2), probabilities.argmax(2) == labels  # [seeds, N]
    number = np.clip(np.ceil(bins * confidence).astype(int) - 1, 0, bins - 1)
    gaps = [np.bincount(b, right - sure, bins) for b, right, sure in zip(number, hit, confidence, strict=True)]
    return float(np.abs(gaps).sum(1).mean() / len(labels)) if len(labels) else 0.0
