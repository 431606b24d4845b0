"""The chain of answers that is recommended for new clips, as one more condition.

Nothing is trained for it: a clip's probabilities are those of the condition that the chain chooses
(meaning/recommended.py), by decisions and predictions on disk.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from audio_from_video.meaning.recommended import CONDITION_OF, NAME, VIDEO_ONLY, recommend
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, SEMANTIC_VALIDATION
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.predictions import Predictions

SCORED = ("validation", "test")


@dataclass(frozen=True)
class RecommendedSettings:
    """What a report needs to know of the chain, as of a condition of params.yaml."""

    train_audio: str = "each its own"
    test_audio: str = "by the chain"
    audio_at_test: str = "real"
    leaky: bool = False
    kept_only: bool = False


def is_available(conditions: Collection[str], architectures: Collection[str]) -> bool:
    """Return whether conditions and architectures hold all links of the chain."""
    judged = {SEMANTIC_VALIDATION, CAPTION_MAPPING} <= set(architectures)
    return judged and set(CONDITION_OF.values()) <= set(conditions) and NAME not in conditions


def recommended_predictions() -> Predictions:
    """Return the chain's answers to validation and test clips."""
    answers = {word: predictions.read(condition) for word, condition in CONDITION_OF.items()}
    baseline = answers[VIDEO_ONLY]
    clips = baseline.clips[baseline.clips.split.isin(SCORED)].reset_index(drop=True)
    real_fits = decided(SEMANTIC_VALIDATION, "keep_real", clips.clip_id)
    mapped_kept = decided(CAPTION_MAPPING, "keep", clips.clip_id)
    words = recommend(real_fits, mapped_kept)

    seeds = len(baseline.probabilities)
    probabilities = np.empty((seeds, len(clips), len(baseline.actions)), np.float32)
    for word, each in answers.items():
        chosen = words == word
        place = pd.Series(np.arange(len(each.clips)), index=each.clips.clip_id)
        places = place[clips.clip_id[chosen]].to_numpy()
        probabilities[:, chosen] = each.probabilities[:, places]
    return Predictions(clips, baseline.actions, probabilities)


def decided(architecture: str, column: str, clip_ids: pd.Series) -> np.ndarray:
    """Return the filter's decision on each clip [n] bool."""
    table = shards.read_table(layout.decisions(architecture), ["clip_id", column]).to_pandas()
    return clip_ids.map(table.set_index("clip_id")[column]).to_numpy(bool)
