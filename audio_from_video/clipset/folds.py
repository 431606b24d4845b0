"""Folds for cross-fitting: what is made for a training clip comes from a model that has not seen the clip's source."""

import numpy as np
import pandas as pd

from audio_from_video.runtime.digests import digest

WHOLE = -1  # instead of a fold that is left out: the model fitted on all training clips


def assign(sources: np.ndarray, folds: int) -> np.ndarray:
    """Fold [N] of each clip by its source id [N]: sources in the order of their hash are dealt out
    in turn.

    Folds have equal numbers of sources, up to one; the assignment does not depend on the order of
    the clips.
    """
    ordered = sorted(set(sources), key=lambda source: digest("fold", source))
    dealt = {source: position % folds for position, source in enumerate(ordered)}
    return np.array([dealt[source] for source in sources])


def of_clips(clips: pd.DataFrame, folds: int) -> np.ndarray:
    """Fold [N] of each clip (columns split, source_id); -1 for validation and test clips, which
    belong to none.

    Every stage that is given the same training and unlabelled clips finds the same folds.
    """
    fitted = clips.split.isin(["training", "unlabelled"]).to_numpy()
    fold = np.full(len(clips), -1)
    fold[fitted] = assign(clips.source_id.to_numpy()[fitted], folds)
    return fold
