"""The score from which on an audio model hears a label, derived from training clips."""

from collections.abc import Iterable

import numpy as np

LABELS_PER_CLIP = 2.0  # that clips are to have, as the embedded AST has them at 0.3
HIGHEST = 20  # scores of a clip that can count


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
