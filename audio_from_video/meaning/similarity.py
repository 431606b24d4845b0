"""Cosines between embeddings."""

import numpy as np


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Similarities [N, M] float32 of normalised [N, D] and [M, D]; summed in double precision, so that rounding decides no rank."""
    return (first.astype(np.float64) @ second.astype(np.float64).T).astype(np.float32)


def closest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Columns [N, k] of each row's highest similarities, highest first; equal ones in the columns' order."""
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]
