"""Folds: whole sources, in equal numbers, whatever the order of the clips."""
import numpy as np
import pytest

from stages.common import folds

SOURCES = np.array([f"yt-{i % 37}" for i in range(150)])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_no_source_stands_in_two_folds_and_folds_have_equal_numbers_of_sources(count):
    fold = folds.assign(SOURCES, count)
    assert len(fold) == len(SOURCES)
    of_source = {source: set(fold[source == SOURCES]) for source in SOURCES}
    assert all(len(found) == 1 for found in of_source.values())
    sizes = np.bincount([found.pop() for found in of_source.values()], minlength=count)
    assert len(sizes) == count and sizes.max() - sizes.min() <= 1 and sizes.sum() == 37


def test_the_order_and_the_number_of_clips_do_not_matter():
    fold = folds.assign(SOURCES, 5)
    order = np.random.default_rng(0).permutation(len(SOURCES))
    assert np.array_equal(folds.assign(SOURCES[order], 5), fold[order])
    assert np.array_equal(folds.assign(np.unique(SOURCES), 5), [fold[source == SOURCES][0] for source in np.unique(SOURCES)])


def test_folds_do_not_follow_the_sources_names():
    """Sources in the order of their names (channels, dates) are spread: neither blocks nor taken in turn."""
    fold = folds.assign(np.array([f"s{i:04d}" for i in range(400)]), 4)
    assert 60 < (np.diff(fold) == 0).sum() < 140  # 100 by chance
    assert 60 < (np.diff(fold) % 4 == 1).sum() < 140


def test_fewer_sources_than_folds_leave_folds_empty():
    assert sorted(folds.assign(np.array(["x", "y", "x"]), 5)) in ([0, 0, 1], [0, 1, 1])
