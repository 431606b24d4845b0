"""Streams of clips run side by side, or stop with a sentence that names who differs where."""

import pytest

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.alignment import aligned

NAMES = ("data/frames", "data/audio")


def test_payloads_of_one_clip_come_together():
    streams = ([("a", 1), ("b", 2)], iter([("a", "x"), ("b", "y")]))
    assert list(aligned(NAMES, streams)) == [("a", (1, "x")), ("b", (2, "y"))]
    assert list(aligned(NAMES, ([], []))) == []


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("abc", "acb", "where the first has the clip b, the second has the clip c"),
        ("abc", "ab", "where the first has the clip c, the second has no more clips"),
        ("a", "ab", "where the first has no more clips, the second has the clip b"),
    ],
)
def test_other_orders_and_lengths_are_sentences(first, second, sentence):
    streams = [[(clip_id, None) for clip_id in clip_ids] for clip_ids in (first, second)]
    passed = []
    with pytest.raises(UserError, match="^data/frames and data/audio do not hold the") as caught:
        passed += aligned(NAMES, streams)
    assert sentence in str(caught.value) and "`dvc repro`" in str(caught.value)


def test_the_stream_that_differs_is_named():
    streams = ([("a", 1)], [("a", 1)], [("b", 1)])
    with pytest.raises(UserError, match="^one and three do not"):
        list(aligned(("one", "two", "three"), streams))
