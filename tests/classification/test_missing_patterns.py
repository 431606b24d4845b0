"""Which clips and which steps lose their sound."""

import numpy as np
import pytest
import torch

from audio_from_video.classification.missing_patterns import (
    class_dependent,
    removal_order,
    segment,
    silent_shares,
    stream_order,
    uniform_numbers,
)

STEPS = 18
IDS = [f"clip-{i}" for i in range(400)]


def test_numbers_depend_on_the_clip_and_the_key_alone_and_are_uniform():
    numbers = uniform_numbers(IDS, "segments", 0)
    assert uniform_numbers(IDS[::-1], "segments", 0).tolist() == numbers[::-1].tolist()
    assert not np.isclose(uniform_numbers(IDS, "segments", 1), numbers).any()
    assert numbers.min() > 0
    assert numbers.max() < 1
    # Kolmogorov-Smirnov's bound at the level of 0.1 %
    steps = np.arange(1, len(IDS) + 1) / len(IDS)
    assert np.abs(np.sort(numbers) - steps).max() < 1.95 / np.sqrt(len(IDS))


def test_a_stream_has_every_clip_once():
    order = stream_order(IDS, 0)
    assert sorted(order.tolist()) == list(range(len(IDS)))
    assert order.tolist() != list(range(len(IDS)))


@pytest.mark.parametrize(
    ("share", "length"), [(0.0, 0), (0.25, 5), (0.5, 9), (0.75, 14), (1.0, 18)]
)
def test_a_segment_is_a_row_of_steps_of_the_asked_length(share, length):
    pattern = segment(uniform_numbers(IDS, "segments", 0), share, STEPS)
    assert pattern.heard.shape == (len(IDS), STEPS)
    assert pattern.filled.all()
    missing = ~pattern.heard.numpy()
    assert (missing.sum(1) == length).all()
    for steps in missing:
        places = np.flatnonzero(steps)
        assert not length or places[-1] - places[0] == length - 1


def test_segments_lie_anywhere_and_larger_ones_contain_smaller_ones():
    numbers = uniform_numbers(IDS, "segments", 0)
    missing = [~segment(numbers, length / STEPS, STEPS).heard.numpy() for length in range(19)]
    for smaller, larger in zip(missing, missing[1:], strict=False):
        assert (smaller <= larger).all()
    starts = np.unique(missing[5].argmax(1), return_counts=True)
    assert starts[0].tolist() == list(range(14))
    assert starts[1].min() > 10  # of 400 / 14 = 29


def test_shares_of_silent_clips_by_action():
    actions = np.array(["a", "a", "a", "b", "c", "c"])
    audible = np.array([True, False, False, True, True, False])
    assert silent_shares(actions, audible) == {"a": 3 / 5, "b": 1 / 3, "c": 2 / 4}


def test_clips_lose_their_sound_in_proportion_to_their_odds():
    odds = np.array([0.6, 0.3, 0.1])
    rng = np.random.default_rng(0)
    orders = np.stack([removal_order(rng.random(3), odds) for _ in range(20_000)])
    first = np.bincount(orders[:, 0], minlength=3) / len(orders)
    np.testing.assert_allclose(first, odds, atol=0.015)
    # The second is drawn from those left: after clip 0 it is clip 1 with odds of 0.3 to 0.1.
    second = orders[orders[:, 0] == 0, 1]
    assert (second == 1).mean() == pytest.approx(0.75, abs=0.015)


def test_as_many_audible_clips_lose_their_sound_as_in_the_random_draw():
    rng = np.random.default_rng(1)
    audible = torch.from_numpy(rng.random(200) < 0.8)
    missing = torch.from_numpy(rng.random(200) < 0.4)
    order = rng.permutation(200)
    pattern = class_dependent(missing, audible, order, STEPS)
    count = int((missing & audible).sum())
    removed = [place for place in order if audible[place]][:count]

    has_sound = pattern.heard.all(1)
    assert (has_sound == pattern.heard.any(1)).all()
    assert set(torch.nonzero(audible & ~has_sound)[:, 0].tolist()) == set(removed)
    assert not has_sound[~audible].any()
    # Inaudible clips are filled where the random draw names them.
    assert (pattern.filled[~audible] == missing[~audible]).all()
    assert (pattern.filled[audible] == ~has_sound[audible]).all()
