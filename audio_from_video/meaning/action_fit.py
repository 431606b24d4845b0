"""How well what a clip sounds like fits an action, by the meaning of AudioSet labels."""

import numpy as np
import pandas as pd

from audio_from_video.meaning.similarity import closest, unit


class ActionFit:
    """Unit vectors of labels [L, D] and of each action's reference [A, D], centred or not."""

    def __init__(
        self, names: list[str], references: np.ndarray, labels: np.ndarray, centre: bool = False
    ):
        """Take embeddings of labels [L, D], and the references [A, D] of the actions `names`.

        centre: whether the labels' mean is subtracted.
        """
        mean = labels.mean(0) if centre else 0.0
        self.labels = unit(labels - mean)
        self.actions = unit(references - mean)
        self.action_index = {action: i for i, action in enumerate(names)}

    def of_scores(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Return unit vectors [N, D] of label scores [N, L].

        They are the `count` highest labels weighted by score.  Summing all labels would blur them:
        hundreds of small scores pull every vector to the same mean.
        """
        top = closest(scores, count)
        weights = np.take_along_axis(scores, top, 1)
        return unit((self.labels[top] * weights[..., None]).sum(1))

    def fit(self, vectors: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Return the cosine [N] of each vector [N, D] with its action's reference."""
        references = self.actions[[self.action_index[action] for action in actions]]
        return (vectors * references).sum(1)


def entry_means(
    dictionary: pd.DataFrame,
    actions: list[str],
    label_names: list[str],
    labels: np.ndarray,
    size: int,
) -> np.ndarray:
    """Return each action's dictionary labels, averaged by similarity [A, D].

    dictionary: see stages/dictionary.py.  labels: embeddings [L, D] of `label_names`.  size:
    labels of an entry, the most similar first.
    """
    dictionary = dictionary[dictionary["rank"] <= size]
    entries = dict(tuple(dictionary.groupby("action")))
    label_index = {label: i for i, label in enumerate(label_names)}
    means = []
    for action in actions:
        entry = entries[action]
        vectors = labels[[label_index[label] for label in entry.audio_label]]
        means.append(np.average(vectors, axis=0, weights=entry.similarity))
    return np.stack(means)


def background_scores(
    embeddings: ActionFit, vectors: np.ndarray, actions: np.ndarray
) -> dict[str, np.ndarray]:
    """Return, for each action, the ascending scores of training clips of other actions.

    vectors [N, D] and actions [N] are those of the training clips.
    """
    background = {}
    for action, i in embeddings.action_index.items():
        others = vectors[actions != action]
        background[action] = np.sort(others @ embeddings.actions[i])
    return background


def calibrate(
    scores: np.ndarray, actions: np.ndarray, background: dict[str, np.ndarray]
) -> np.ndarray:
    """Return the percentile (0..1) of each score [N] in the background of its action.

    background: `background_scores`.
    """
    percentiles = []
    for score, action in zip(scores, actions, strict=True):
        others = background[action]
        percentiles.append(np.searchsorted(others, score, side="right") / len(others))
    return np.array(percentiles)
