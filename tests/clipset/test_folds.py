"""Folds: whole sources, in equal numbers, whatever the order of the clips."""

import numpy as np
import pandas as pd
import pytest

from audio_from_video.clipset import folds

SOURCES = np.array([f"yt-{i % 37}" for i in range(150)])


@pytest.mark.parametrize("count", [1, 2, 3, 5, 20])
def test_no_source_stands_in_two_folds_and_folds_have_equal_numbers_of_sources(count):
    fold = folds.of_sources(SOURCES, count)
    assert len(fold) == len(SOURCES)
    of_source = {source: set(fold[source == SOURCES]) for source in SOURCES}
    assert all(len(found) == 1 for found in of_source.values())
    sizes = np.bincount([found.pop() for found in of_source.values()], minlength=count)
    assert len(sizes) == count and sizes.max() - sizes.min() <= 1 and sizes.sum() == 37


def test_the_order_and_the_number_of_clips_do_not_matter():
    fold = folds.of_sources(SOURCES, 5)
    order = np.random.default_rng(0).permutation(len(SOURCES))
    assert np.array_equal(folds.of_sources(SOURCES[order], 5), fold[order])
    assert np.array_equal(
        folds.of_sources(np.unique(SOURCES), 5),
        [fold[source == SOURCES][0] for source in np.unique(SOURCES)],
    )


def test_folds_do_not_follow_the_sources_names():
    """Sources in the order of their names (channels, dates) are spread over the folds."""
    fold = folds.of_sources(np.array([f"s{i:04d}" for i in range(400)]), 4)
    assert 60 < (np.diff(fold) == 0).sum() < 140  # 100 by chance
    assert 60 < (np.diff(fold) % 4 == 1).sum() < 140


def test_fewer_sources_than_folds_leave_folds_empty():
    assert sorted(folds.of_sources(np.array(["x", "y", "x"]), 5)) in ([0, 0, 1], [0, 1, 1])


# The folds of a table of clips


def table(seed: int = 0) -> pd.DataFrame:
    """Clips in any order; sources have several, every third training source unlabelled ones too."""
    rows = [("training", f"t{i % 31}") for i in range(80)] + [
        ("unlabelled", f"t{3 * (i % 10)}") for i in range(20)
    ]
    rows += [("unlabelled", f"u{i % 12}") for i in range(30)]
    rows += [(split, f"{split}-{i % 9}") for split in ("validation", "test") for i in range(20)]
    return pd.DataFrame(rows, columns=["split", "source_id"]).sample(
        frac=1, random_state=seed, ignore_index=True
    )


def by_source(clips: pd.DataFrame, count: int) -> dict[str, set[int]]:
    return (
        clips.assign(fold=folds.of_clips(clips, count)).groupby("source_id").fold.agg(set).to_dict()
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_source_has_one_fold_over_training_and_unlabelled_clips_and_others_have_none(count):
    clips = table()
    fitted = clips.split.isin(["training", "unlabelled"])
    fold = folds.of_clips(clips, count)
    assert (
        fold.shape == (len(clips),)
        and (fold[~fitted] == -1).all()
        and set(fold[fitted]) == set(range(count))
    )
    found = by_source(clips[fitted], count)
    assert all(len(numbers) == 1 for numbers in found.values()) and len(found) == 31 + 12
    shared = set(clips.source_id[clips.split == "training"]) & set(
        clips.source_id[clips.split == "unlabelled"]
    )
    assert len(shared) == 10  # of both kinds
    sizes = np.bincount([numbers.pop() for numbers in found.values()], minlength=count)
    assert sizes.max() - sizes.min() <= 1 and sizes.sum() == 43


@pytest.mark.parametrize("split", ["validation", "test"])
def test_clips_that_nothing_is_fitted_on_deal_no_fold_anew(split):
    clips = table()
    fold = folds.of_clips(clips, 5)
    for i in range(20):
        more = pd.concat(
            [pd.DataFrame({"split": [split], "source_id": [f"new-{i}"]}), clips], ignore_index=True
        )
        assert np.array_equal(folds.of_clips(more, 5), [-1, *fold])
    without = clips[clips.split != split]
    assert np.array_equal(folds.of_clips(without, 5), fold[without.index])


def test_a_new_training_source_does_deal_anew():
    """Folds have equal numbers of sources, so a new one moves others: the test above can fail."""
    clips = table()
    fold = folds.of_clips(clips, 5)
    more = [
        pd.concat(
            [pd.DataFrame({"split": ["training"], "source_id": [f"new-{i}"]}), clips],
            ignore_index=True,
        )
        for i in range(20)
    ]
    assert any(not np.array_equal(folds.of_clips(one, 5)[1:], fold) for one in more)


def test_a_test_clip_of_a_training_source_belongs_to_no_fold():
    clips = pd.DataFrame(
        {"split": ["training", "test", "training", "validation"], "source_id": ["x", "x", "y", "y"]}
    )
    fold = folds.of_clips(clips, 2)
    assert fold[[1, 3]].tolist() == [-1, -1] and sorted(fold[[0, 2]]) == [0, 1]


def test_the_tables_order_does_not_matter_and_folds_are_those_of_the_sources():
    clips = table()
    found = by_source(clips, 5)
    assert by_source(table(seed=1), 5) == found
    fitted = clips.source_id[clips.split.isin(["training", "unlabelled"])].to_numpy()
    assert {
        name: {number} for name, number in zip(fitted, folds.of_sources(fitted, 5), strict=True)
    } == {name: found[name] for name in fitted}


def test_without_training_clips_there_are_no_folds():
    clips = table()
    assert folds.of_clips(clips[clips.split == "test"], 3).tolist() == [-1] * 20
