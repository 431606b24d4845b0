"""The read-out behind benchmarks/segments.py, on features of known worth."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import segments

pytestmark = pytest.mark.slow

SOURCES = np.repeat([f"video{number}" for number in range(24)], 3)
ACTIONS = np.array(["a", "b"])[np.repeat(np.arange(24) % 2, 3)]


def clips() -> pd.DataFrame:
    return pd.DataFrame({"action": ACTIONS, "source_id": SOURCES})


def features(gap: float, of_source: float = 0.0) -> np.ndarray:
    """Noise, a shift of one action, and what clips of a source share."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(SOURCES), 8))
    x[:, 0] += gap * (ACTIONS == "a")
    return x + of_source * rng.normal(size=(24, 8))[np.repeat(np.arange(24), 3)]


def test_clips_are_found_by_what_other_sources_teach():
    known = segments.held_out_hits(features(8.0), ACTIONS, SOURCES, 2)
    assert known.shape == (72, 2)
    assert known.mean() > 0.97
    # Clips of a source are alike, and tell nothing of other sources.
    unknown = segments.held_out_hits(features(0.0, of_source=10.0), ACTIONS, SOURCES, 3)
    assert unknown.mean() == pytest.approx(0.5, abs=0.2)


def test_values_are_compared_on_the_same_folds(monkeypatch):
    gaps = {"pooled": 0.0, "windows": 8.0, "padded_windows": 8.0}
    monkeypatch.setattr(segments, "summaries", lambda model, each, sounds: features(gaps[each]))
    figures = segments.compare("any", list(gaps), clips(), [], 2)
    assert "difference" not in figures["pooled"]
    assert figures["windows"]["difference"]["ci95_low"] > 0.2
    assert figures["windows"] == figures["padded_windows"]
    for each in figures.values():
        assert (each["accuracy"]["n"], each["accuracy"]["sources"]) == (72, 24)
