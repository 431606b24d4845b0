"""Do vectors of clips tell actions apart at all, against shuffled actions?"""

from typing import Any

import numpy as np

PERMUTATIONS = 1000
MOST_SOURCES = 2000  # measured at most; they are spread evenly over all


def told_apart(vectors: np.ndarray, actions: np.ndarray, sources: np.ndarray) -> dict[str, Any]:
    """Return how much more alike clips of one action are than those of different ones.

    vectors [clips, D], such as label scores.  `difference` is the mean cosine of two clips of one
    action minus that of two clips of different ones, after the mean over clips is subtracted;
    clips of one source are never compared.  `shuffled_low` and `shuffled_high` are the 2.5 and 97.5
    percentiles of the same with actions dealt to other sources (a permutation test).
    `difference_low` and `difference_high` take these off the difference: where that interval holds
    0, the vectors are no better than shuffled ones.  Fewer than two sources give None everywhere.
    """
    directions = vectors - vectors.mean(0)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions / np.maximum(lengths, 1e-12)

    # The sum of all cosines between two groups of clips is the product of their sums.
    names, first, source_of = np.unique(sources, return_index=True, return_inverse=True)
    kept = np.unique(np.linspace(0, len(names) - 1, MOST_SOURCES).astype(int))
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, source_of, directions)
    counts = np.bincount(source_of, minlength=len(names)).astype(float)
    sums, counts = sums[kept], counts[kept]
    _, action_of = np.unique(actions[first[kept]], return_inverse=True)

    figures: dict[str, Any] = {"clips": int(counts.sum()), "sources": len(kept)}
    real = _difference(sums, counts, action_of)
    random = np.random.default_rng(0)
    shuffled = [
        _difference(sums, counts, random.permutation(action_of)) for _ in range(PERMUTATIONS)
    ]
    known = [value for value in shuffled if value is not None]
    if real is None or not known:
        keys = ("difference", "shuffled_low", "shuffled_high", "difference_low", "difference_high")
        return figures | dict.fromkeys(keys)
    low, high = np.quantile(known, [0.025, 0.975])
    return figures | {
        "difference": real,
        "shuffled_low": float(low),
        "shuffled_high": float(high),
        "difference_low": real - float(high),
        "difference_high": real - float(low),
    }


def _difference(sums: np.ndarray, counts: np.ndarray, action_of: np.ndarray) -> float | None:
    """Return the mean cosine within minus between actions; None where one of them has no pair.

    sums [sources, D]: of each source's directions.  counts [sources]: its clips.
    """
    actions = action_of.max() + 1
    action_sums = np.zeros((actions, sums.shape[1]))
    np.add.at(action_sums, action_of, sums)
    action_counts = np.bincount(action_of, weights=counts, minlength=actions)

    same_source = (sums**2).sum()
    same_source_pairs = (counts**2).sum()
    within = (action_sums**2).sum() - same_source
    within_pairs = (action_counts**2).sum() - same_source_pairs
    everywhere = (sums.sum(0) ** 2).sum() - same_source
    pairs = counts.sum() ** 2 - same_source_pairs
    if within_pairs <= 0 or pairs - within_pairs <= 0:
        return None
    return float(within / within_pairs - (everywhere - within) / (pairs - within_pairs))
