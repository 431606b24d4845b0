"""Cosines, unit vectors and the softmax against scikit-learn and PyTorch."""

import numpy as np
import torch
from sklearn.metrics.pairwise import cosine_similarity

from audio_from_video.meaning.similarity import closest, cosines, paired_cosine, softmax, unit

RNG = np.random.default_rng(0)


def test_unit_vectors_have_length_one_and_zero_stays_zero():
    vectors = RNG.normal(size=(4, 3, 8)).astype(np.float32)
    vectors[1, 2] = 0
    units = unit(vectors)
    lengths = np.linalg.norm(units, axis=-1)
    assert lengths[1, 2] == 0
    lengths[1, 2] = 1
    assert np.allclose(lengths, 1, atol=1e-6)
    assert units.dtype == np.float32


def test_paired_cosines_are_scikit_learns_diagonal():
    first = RNG.normal(size=(6, 8))
    second = RNG.normal(size=(6, 8))
    expected = cosine_similarity(first, second).diagonal()
    assert np.allclose(paired_cosine(first, second), expected)
    assert paired_cosine(first, 0 * second).tolist() == [0] * 6


def test_cosines_are_those_of_all_pairs_of_unit_vectors():
    first = unit(RNG.normal(size=(3, 8))).astype(np.float32)
    second = unit(RNG.normal(size=(5, 8))).astype(np.float32)
    found = cosines(first, second)
    assert found.dtype == np.float32
    assert np.allclose(found, cosine_similarity(first, second), atol=1e-6)


def test_closest_breaks_ties_in_the_columns_order():
    similarity = np.array([[0.5, 0.9, 0.5, 0.9]], np.float32)
    assert closest(similarity, 3).tolist() == [[1, 3, 0]]


def test_the_softmax_is_pytorchs():
    scores = RNG.normal(size=(5, 4)).astype(np.float32)
    expected = (torch.from_numpy(scores) / 0.05).softmax(-1).numpy()
    found = softmax(scores, 0.05)
    assert found.dtype == np.float32
    assert np.allclose(found, expected, atol=1e-6)
    assert np.isfinite(softmax(scores, 1e-6)).all()


def test_what_is_minus_infinity_takes_no_part():
    scores = np.array([[0.5, -np.inf, 0.5], [-np.inf, -np.inf, -np.inf]])
    assert softmax(scores, 0.1).tolist() == [[0.5, 0, 0.5], [0, 0, 0]]
