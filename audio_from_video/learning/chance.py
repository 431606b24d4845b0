"""Whether a gain is more than noise: what failed trainings are told by."""

import numpy as np

NOISE = 2.0  # standard errors that a gain must exceed


def exceeds_noise(gains: np.ndarray, sources: np.ndarray) -> bool:
    """Return whether the mean gain [n] is above NOISE standard errors over sources."""
    _, source = np.unique(sources, return_inverse=True)
    residuals = np.bincount(source, gains - gains.mean())
    error = np.sqrt(np.square(residuals).sum()) / len(gains)
    return bool(gains.mean() > NOISE * error)
