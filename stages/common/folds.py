"""Folds for cross-fitting: what is made for a training clip comes from a model that has not seen the clip's source."""
import numpy as np

from stages.common.item_store import digest


def assign(sources: np.ndarray, folds: int) -> np.ndarray:
    """Fold [N] of each clip by its source id [N]: sources in the order of their hash are dealt out in turn.

    Folds have equal numbers of sources, up to one; the assignment does not depend on the order of the clips.
    """
    ordered = sorted(set(sources), key=lambda source: digest("fold", source))
    dealt = {source: position % folds for position, source in enumerate(ordered)}
    return np.array([dealt[source] for source in sources])
