"""The clip that looks most alike: against a loop, and among a bounded number of candidates."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch

from audio_from_video.learning import features

CLIPS = 40
STEPS = 3
WIDTH = 6


def make() -> tuple[SimpleNamespace, np.ndarray]:
    """Return what `nearest` reads of clips, and their standardised means over time."""
    values = np.random.default_rng(0).normal(size=(CLIPS, STEPS, WIDTH)).astype(np.float32)
    video = SimpleNamespace(read=lambda indices: torch.from_numpy(values[indices]))
    names = [f"clip{i}" for i in range(CLIPS)]
    clips = pd.DataFrame({"clip_id": names, "source_id": [f"s{i // 3}" for i in range(CLIPS)]})
    return SimpleNamespace(video=video, clips=clips), values.mean(1)


def find(data: SimpleNamespace, candidates: torch.Tensor) -> list[int]:
    everything = torch.arange(CLIPS)
    mean, std = torch.zeros(WIDTH), torch.ones(WIDTH)
    return features.nearest(data, candidates, everything, mean, std, other_sources=True).tolist()


def expected(data: SimpleNamespace, means: np.ndarray, candidates: list[int]) -> list[int]:
    """The reference, clip by clip."""
    unit = means / np.linalg.norm(means, axis=1, keepdims=True)
    best = []
    for i in range(CLIPS):
        others = [c for c in candidates if data.clips.source_id[c] != data.clips.source_id[i]]
        best.append(max(others, key=lambda c: float(unit[i] @ unit[c])))
    return best


def test_the_nearest_clip_is_that_of_a_loop():
    data, means = make()
    candidates = torch.arange(5, 35)
    assert find(data, candidates) == expected(data, means, candidates.tolist())


def test_of_too_many_candidates_a_fixed_part_is_drawn(monkeypatch):
    data, means = make()
    monkeypatch.setattr(features, "MOST_CANDIDATES", 12)
    found = find(data, torch.arange(CLIPS))
    drawn = sorted(set(found))
    assert 3 < len(drawn) <= 12
    # The draw is by name: fewer other candidates leave the same ones in.
    assert set(find(data, torch.tensor(drawn))) <= set(drawn)
    within = expected(data, means, drawn)
    assert sum(a == b for a, b in zip(found, within, strict=True)) >= CLIPS - 12
