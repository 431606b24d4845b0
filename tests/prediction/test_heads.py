"""Linear and kernel heads of a bundle answer as scikit-learn's own heads do."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from audio_from_video.classification.head_weights import kernel_arrays, linear_arrays
from audio_from_video.prediction import bundle
from audio_from_video.prediction.bundle import read_bundle
from audio_from_video.prediction.networks import Classifiers
from tests.support.tiny_bundle import ACTIONS, COMPONENTS, STEPS, VIDEO, copy_of, write_settings

CLIPS = 12


@pytest.fixture
def features() -> tuple[torch.Tensor, torch.Tensor]:
    """Features of video [n, T, V] and of the sound of three generators [n, 3, T, A]."""
    rng = torch.Generator().manual_seed(0)
    video = torch.randn(CLIPS, STEPS, VIDEO, generator=rng)
    return video, torch.randn(CLIPS, 3, STEPS, COMPONENTS, generator=rng)


def summary(features: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time [n, 2D] of features [n, T, D]."""
    return np.concatenate([features.mean(1), features.std(1, ddof=1)], axis=1)


def learned(estimator, width: int):
    """A scikit-learn head that learned from random summaries of three actions."""
    rng = np.random.default_rng(5)
    return estimator.fit(rng.normal(size=(40, width)), np.arange(40) % len(ACTIONS))


def answers(whole_bundle, tmp_path, condition: str, seed: int, arrays: dict, *inputs) -> np.ndarray:
    """What a head answers whose weights stand in a bundle in place of a condition's own."""
    folder = copy_of(whole_bundle, tmp_path / "copy")
    settings = read_bundle(folder).settings
    path = folder / bundle.classifier_file(condition, seed)
    weights = load_file(path) | {name: torch.from_numpy(array) for name, array in arrays.items()}
    save_file(weights, path)
    write_settings(folder, settings)
    return Classifiers(read_bundle(folder), condition)(*inputs)[:, seed]


def test_a_linear_head_hears_its_own_generator(whole_bundle, tmp_path, features):
    video, sound = features
    model = learned(LogisticRegression(), 2 * (VIDEO + COMPONENTS))
    arrays = linear_arrays(model, np.eye(2 * (VIDEO + COMPONENTS)))
    present = torch.arange(CLIPS) % 4 != 0
    names = [str(number) for number in range(CLIPS)]
    inputs = (video, sound, present, names)
    found = answers(whole_bundle, tmp_path, "logistic_generated", 1, arrays, *inputs)

    weights = load_file(whole_bundle / bundle.classifier_file("logistic_generated", 1))
    scale = {name: tensor.double().numpy() for name, tensor in weights.items()}
    of_video = (summary(video.double().numpy()) - scale["video_mean"]) / scale["video_std"]
    heard = (sound[:, 1].double().numpy() - scale["audio_mean"]) / scale["audio_std"]
    heard = heard * scale["audio_weight"] * present.numpy()[:, None, None]
    everything = np.concatenate([of_video, scale["audio_gain"] * summary(heard)], axis=1)
    np.testing.assert_allclose(found, model.predict_proba(everything), atol=1e-5)


def test_a_kernel_head_without_sound(whole_bundle, tmp_path, features):
    video, _ = features
    model = learned(SVC(), 2 * VIDEO)
    arrays = kernel_arrays(model)
    nobody = torch.zeros(CLIPS, dtype=torch.bool)
    inputs = (video, None, nobody, [""] * CLIPS)
    found = answers(whole_bundle, tmp_path, "svm", 0, arrays, *inputs)

    weights = load_file(whole_bundle / bundle.classifier_file("svm", 0))
    mean = weights["video_mean"].double().numpy()
    values = model.decision_function(summary(video.double().numpy()) - mean)
    expected = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
