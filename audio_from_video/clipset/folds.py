"""Folds for cross-fitting.

What is made for a training clip comes from a model that has not seen the clip's source.
"""

import numpy as np
import pandas as pd

from audio_from_video.runtime.digests import digest

FOLDED_SPLITS = ("training", "unlabelled")
NO_FOLD = -1  # of validation and test clips
WHOLE = -1  # instead of a fold that is left out: the model fitted on all training clips


def of_sources(source_ids: np.ndarray, folds: int) -> np.ndarray:
    """Return the fold [N] of each clip by its source id [N].

    Sources are dealt out in turn, in the order of their hash.  Folds have equal numbers of sources,
    up to one, and do not depend on the order of the clips.
    """
    ordered = sorted(set(source_ids), key=lambda source_id: digest("fold", source_id))
    fold_of = {source_id: position % folds for position, source_id in enumerate(ordered)}
    return np.array([fold_of[source_id] for source_id in source_ids])


def of_clips(clips: pd.DataFrame, folds: int, fitted: np.ndarray | None = None) -> np.ndarray:
    """Return the fold [N] of each clip; NO_FOLD for validation and test clips.

    clips: columns split and source_id.  fitted [N]: the clips that models are fitted on, else all
    of them: a source without such clips has no fold, as every model is without it.  Every stage
    that is given the same training and unlabelled clips finds the same folds.
    """
    folded = clips.split.isin(FOLDED_SPLITS).to_numpy()
    if fitted is not None:
        learned_sources = clips.source_id[folded & fitted].unique()
        folded = folded & clips.source_id.isin(learned_sources).to_numpy()
    fold = np.full(len(clips), NO_FOLD)
    fold[folded] = of_sources(clips.source_id.to_numpy()[folded], folds)
    return fold
