"""Which AudioSet labels a caption is mapped to: those of the highest scores."""

from typing import NamedTuple

import numpy as np

from audio_from_video.meaning import similarity

LOWEST_ATTENDED = 1e-6  # attended score from which on a label counts: below it nobody heard it


class Ranking(NamedTuple):
    """Labels of each caption, best first; the one behind top_k is there to tell the margin."""

    labels: np.ndarray  # [N, top_k + 1]
    scores: np.ndarray  # [N, top_k + 1]

    def best(self, top_k: int, lowest: float) -> np.ndarray:
        """Return the first top_k labels [N, top_k], -1 in the place of those below `lowest`."""
        labels = self.labels[:, :top_k]
        return np.where(self.scores[:, :top_k] >= lowest, labels, -1)


def rank(scores: np.ndarray, width: int) -> Ranking:
    """Return the `width` best labels of scores [N, L]; equal ones keep the labels' order."""
    best = similarity.closest(scores, width)
    return Ranking(best, np.take_along_axis(scores, best, 1))
