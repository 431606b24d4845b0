"""From which score on does an audio model hear a label?"""

from collections.abc import Iterable
from typing import Literal

import numpy as np

from audio_from_video.storage import fit_on, layout, shards

LABELS_PER_CLIP = 2.0  # that `auto` lets training clips have, as the embedded AST has them at 0.3
HIGHEST = 20  # scores of a clip that can count


def label_cut(setting: float | Literal["auto"]) -> float:
    """Return a label cut as params.yaml names it; `auto`: `derived_cut` of data/audio_features."""
    if setting != "auto":
        return setting
    clip_ids = shards.ok_clip_ids(layout.AUDIO_FEATURES)
    fitted = dict(zip(clip_ids, fit_on.fitted(clip_ids), strict=True))
    rows = shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores"], ["training"])
    return derived_cut(row["label_scores"] for row in rows if fitted[row["clip_id"]])


def derived_cut(label_scores: Iterable[np.ndarray]) -> float:
    """Return the score that leaves clips LABELS_PER_CLIP labels on average.

    label_scores: [L] of each training clip.  Models differ in how high they score: a published AST
    seldom gives 0.3 to more than one label, cosines of CLAP are small throughout.  0 without clips.
    """
    highest = [np.sort(scores)[::-1][:HIGHEST].astype(np.float32) for scores in label_scores]
    if not highest:
        return 0.0
    descending = np.sort(np.concatenate(highest))[::-1]
    kept = min(round(LABELS_PER_CLIP * len(highest)), len(descending))
    return float(descending[kept - 1])
