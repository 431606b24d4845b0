"""From which score on does an audio model hear a label?"""

from typing import Literal

from audio_from_video.audioset.label_cut import derived_cut
from audio_from_video.storage import fit_on, layout, shards


def label_cut(setting: float | Literal["auto"]) -> float:
    """Return a label cut as params.yaml names it; `auto`: `derived_cut` of data/audio_features."""
    if setting != "auto":
        return setting
    clip_ids = shards.ok_clip_ids(layout.AUDIO_FEATURES)
    fitted = dict(zip(clip_ids, fit_on.fitted(clip_ids), strict=True))
    rows = shards.iter_rows(layout.AUDIO_FEATURES, ["label_scores"], ["training"])
    return derived_cut(row["label_scores"] for row in rows if fitted[row["clip_id"]])
