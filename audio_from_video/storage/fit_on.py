"""Which clips models are fitted on: data/fit_on.parquet, which the stage `clips` writes.

These are PCA, fine-tuned captioners, label audio, generators and label predictors.  Clips that came
later (`clips.fit_on`, docs/storage.md) only pass through them.
"""

from collections.abc import Iterable

import numpy as np

from audio_from_video.storage import layout, shards


def fitted(clip_ids: Iterable[str]) -> np.ndarray:
    """Return whether models are fitted on clips, bool [N]; all of them where nothing is written."""
    names = list(clip_ids)
    if not layout.FIT_ON.is_file():
        return np.ones(len(names), bool)
    known = set(shards.read_table(layout.FIT_ON)["clip_id"].to_pylist())
    return np.array([name in known for name in names], bool)
