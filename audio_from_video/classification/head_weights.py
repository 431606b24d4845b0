"""Weights of linear and kernel heads: what is kept of them on disk, and their decision values.

models/classifier/<condition>/seed-<n>.safetensors holds of the head that answers test clips
    classes [C]                 the actions that it saw, by index
    audio_gain, temperature     see `HeadSetting`
    video_mean, video_std [2V]  of the summaries of video
    audio_mean, audio_std, audio_weight [A]   of audio, where it hears
    audio_real_variance [A]     where generated sound counts by confidence
and of logistic regression
    coefficients [C, D], intercepts [C]; [1, D] and [1] of two actions
or of a support vector machine with a Gaussian kernel
    support_vectors [S, D], support_counts [C], dual_coefficients [C - 1, S],
    intercepts [C (C - 1) / 2], gamma
"""

from itertools import combinations
from typing import Any

import numpy as np
import torch

from audio_from_video.classification.audio_input import AudioScale
from audio_from_video.classification.heads import (
    Head,
    Summaries,
    of_all_actions,
    pooled,
    pooled_sound,
    softmax,
)

Arrays = dict[str, np.ndarray]


def weights_of(head: Head) -> dict[str, torch.Tensor]:
    """Return what is kept of a head."""
    estimator = head.estimator
    weights = {
        "classes": torch.from_numpy(estimator.classes_),
        "audio_gain": torch.tensor(head.setting.audio_gain, dtype=torch.float64),
        "temperature": torch.tensor(head.setting.temperature, dtype=torch.float64),
    }
    if head.summaries.data.condition.model == "logistic":
        arrays = linear_arrays(estimator, head.basis)
    else:
        arrays = kernel_arrays(estimator)
    for name, array in arrays.items():
        weights[name] = torch.from_numpy(np.array(array, order="C"))
    return weights | scales_of(head.summaries)


def linear_arrays(estimator: Any, basis: np.ndarray) -> Arrays:
    """Return the weights of a logistic regression on summaries, whatever basis it learned in."""
    return {"coefficients": estimator.coef_ @ basis.T, "intercepts": estimator.intercept_}


def kernel_arrays(estimator: Any) -> Arrays:
    """Return the weights of a support vector machine."""
    return {
        "support_vectors": estimator.support_vectors_,
        "support_counts": estimator.n_support_,
        "dual_coefficients": estimator.dual_coef_,
        "intercepts": estimator.intercept_,
        # The kernel's width follows from what it learned. scikit-learn has no public name for it.
        "gamma": np.array(estimator._gamma),
    }


def scales_of(summaries: Summaries) -> dict[str, torch.Tensor]:
    """Return what features are standardised and weighted by."""
    scales = {"video_mean": summaries.video_mean, "video_std": summaries.video_std}
    if summaries.hearing is None:
        return scales
    reader = summaries.hearing.reader
    scales["audio_mean"] = reader.scale.mean
    scales["audio_std"] = reader.scale.std
    scales["audio_weight"] = summaries.hearing.weights
    if reader.real_variance is not None:
        scales["audio_real_variance"] = reader.real_variance
    return scales


class KeptHead:
    """A head as it comes back from disk.  It answers features, wherever they come from.

    audio_mean, audio_std [A]: of the audio that it learned from, [0] where it hears nothing.
    """

    def __init__(self, weights: dict[str, torch.Tensor], actions: int):
        self.weights = weights
        self.actions = actions
        self.audio_mean = weights.get("audio_mean", torch.zeros(0))
        self.audio_std = weights.get("audio_std", torch.zeros(0))

    def video_summary(self, video: torch.Tensor) -> torch.Tensor:
        """Return the summary [n, 2V] of video features [n, T, V]."""
        return (pooled(video) - self.weights["video_mean"]) / self.weights["video_std"]

    def probabilities(
        self, video_summary: torch.Tensor, audio: torch.Tensor | None, present: torch.Tensor
    ) -> np.ndarray:
        """Return probabilities [n, actions].

        audio [n, T, A]: None where it hears nothing.  present [n, T] or [n, 1] bool: the steps that
        have it.
        """
        summary = video_summary
        if audio is not None:
            scale = AudioScale(self.audio_mean, self.audio_std)
            heard = pooled_sound(audio, present, scale, self.weights["audio_weight"])
            gain = self.weights["audio_gain"].item()
            summary = torch.cat([video_summary, gain * heard], dim=1)
        values = kept_values(self.weights, summary.numpy())
        classes = self.weights["classes"].numpy()
        temperature = self.weights["temperature"].item()
        return softmax(temperature * of_all_actions(values, classes, self.actions))


def kept_values(weights: dict[str, torch.Tensor], summary: np.ndarray) -> np.ndarray:
    """Return the decision values of summaries [n, D] as scikit-learn's head had them.

    They are [n, C], or [n] where the head saw two actions.
    """
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    if "support_vectors" in arrays:
        return kernel_values(arrays, summary)
    values = summary @ arrays["coefficients"].T + arrays["intercepts"]
    return values[:, 0] if values.shape[1] == 1 else values


def kernel_values(arrays: Arrays, summary: np.ndarray) -> np.ndarray:
    """Return the decision values of a support vector machine for summaries [n, D].

    Each pair of actions has a machine of its own, and each action's value is its number of won
    pairs.  How surely it won them, squeezed into -1/3 to 1/3, orders actions that won as many.
    """
    from sklearn.metrics.pairwise import rbf_kernel

    kernel = rbf_kernel(summary, arrays["support_vectors"], gamma=float(arrays["gamma"]))  # [n, S]
    classes = len(arrays["classes"])
    owner = np.repeat(np.arange(classes), arrays["support_counts"])  # [S]: class of each vector
    coefficients = arrays["dual_coefficients"]
    votes = np.zeros((len(summary), classes))
    confidence = np.zeros((len(summary), classes))
    for number, (first, second) in enumerate(combinations(range(classes), 2)):
        # The row of a vector's coefficient is that of the other class, its own left out.
        of_first = kernel[:, owner == first] @ coefficients[second - 1, owner == first]
        of_second = kernel[:, owner == second] @ coefficients[first, owner == second]
        value = of_first + of_second + arrays["intercepts"][number]
        if classes == 2:  # scikit-learn turns the sign of two classes' weights
            return value
        votes[:, first] += value >= 0
        votes[:, second] += value < 0
        confidence[:, first] += value
        confidence[:, second] -= value
    return votes + confidence / (3 * (np.abs(confidence) + 1))
