"""Whether a training learned anything: a failed training is no result."""

import numpy as np

from audio_from_video.learning.chance import exceeds_noise

SMALLEST_PROBABILITY = 1e-9


def is_at_chance(
    probabilities: np.ndarray, labels: np.ndarray, prior: np.ndarray, sources: np.ndarray
) -> bool:
    """Return whether answers are within noise of chance.

    They are where neither their log loss nor their accuracy is better than that of `prior` by more
    than noise (learning/chance.py).
    probabilities [n, actions] of clips with labels [n] and sources [n]; prior [actions]: the
    shares of the actions in training.  A test clip has no part in it: these are validation clips.
    """
    clips = np.arange(len(labels))
    of_answers = np.log(np.maximum(probabilities[clips, labels], SMALLEST_PROBABILITY))
    of_prior = np.log(np.maximum(prior[labels], SMALLEST_PROBABILITY))
    right = (probabilities.argmax(1) == labels).astype(float)
    most_frequent = labels == prior.argmax()
    loss_gain = of_answers - of_prior
    accuracy_gain = right - most_frequent
    return not exceeds_noise(loss_gain, sources) and not exceeds_noise(accuracy_gain, sources)
