"""Unit vectors, cosines and the softmax over them, for embeddings, features and label scores.

Two families are kept apart, because their last bits differ.  `cosines` multiplies every vector
with every other one, in double precision.  `paired_cosine` multiplies vectors place by place, in
the arrays' own precision.
"""

import numpy as np

SMALLEST_NORM = 1e-9  # what norms are divided by at least: the cosine with a zero vector is 0


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors [..., D] at length 1; zero vectors stay zero."""
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(norms, SMALLEST_NORM)


def cosines(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the similarities [N, M] float32 of normalised [N, D] and [M, D].

    They are summed in double precision, so that rounding decides no rank.
    """
    products = first.astype(np.float64) @ second.astype(np.float64).T
    return products.astype(np.float32)


def paired_cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine [...] of each vector [..., D] with the one in the same place."""
    products = (first * second).sum(-1)
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return products / np.maximum(norms, SMALLEST_NORM)


def closest(similarity: np.ndarray, k: int) -> np.ndarray:
    """Return the columns [N, k] of each row's highest values of [N, M], highest first.

    Equal ones keep the columns' order.
    """
    return np.argsort(-similarity, axis=1, kind="stable")[:, :k]


def softmax(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Return the softmax of scores / temperature over the last axis, in the scores' precision.

    A score of -inf takes no part; where all are -inf the weights are zeros.
    """
    best = np.maximum(scores.max(-1, keepdims=True), -1e30)
    weights = np.exp((scores - best) / temperature)
    return weights / np.maximum(weights.sum(-1, keepdims=True), 1e-30)
