"""Vectors against shuffled actions: by brute force over pairs, and on what is known."""

import numpy as np
import pytest

from audio_from_video.evaluation.told_apart import told_apart


def clips(signal: float, seed: int = 0, sources: int = 30):
    """Return vectors [N, 6], actions and sources: two or three clips of each source."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(3, 6))
    vectors, actions, names = [], [], []
    for source in range(sources):
        of_source = random.normal(size=6)
        for _ in range(2 + source % 2):
            own = 0.3 * random.normal(size=6)
            vectors.append(signal * directions[source % 3] + of_source + own)
            actions.append(f"action {source % 3}")
            names.append(f"source {source}")
    return np.array(vectors), np.array(actions), np.array(names)


def test_the_difference_is_that_of_all_pairs():
    vectors, actions, sources = clips(0.5)
    centred = vectors - vectors.mean(0)
    within, between = [], []
    for i in range(len(vectors)):
        for j in range(len(vectors)):
            if sources[i] != sources[j]:
                norms = np.linalg.norm(centred[i]) * np.linalg.norm(centred[j])
                pairs = within if actions[i] == actions[j] else between
                pairs.append(centred[i] @ centred[j] / norms)
    figures = told_apart(vectors, actions, sources)
    assert figures["difference"] == pytest.approx(np.mean(within) - np.mean(between))
    assert figures["clips"] == len(vectors) and figures["sources"] == 30


def test_an_effect_is_found_and_its_absence_hardly_ever():
    assert told_apart(*clips(2.0))["difference_low"] > 0.3
    # Clips of one source are alike, which must not count as an effect.
    found = [told_apart(*clips(0.0, seed))["difference_low"] > 0 for seed in range(20)]
    assert sum(found) <= 3  # one-sided at 2.5 %: more than 3 of 20 have a probability of 0.0002


def test_without_pairs_there_is_no_difference():
    vectors, actions, sources = clips(1.0, sources=2)
    figures = told_apart(vectors, actions, sources)
    assert figures["difference"] is None and figures["difference_low"] is None
