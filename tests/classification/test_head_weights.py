"""Kept weights of heads give the decision values that scikit-learn's own heads give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from audio_from_video.classification import heads
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.head_weights import (
    Arrays,
    kept_values,
    kernel_arrays,
    linear_arrays,
    weights_of,
)
from audio_from_video.classification.settings import ClassifierParams, Condition
from audio_from_video.runtime import params
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.conditions import condition_keys

WIDTH = 90


def clips(classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Summaries [60, WIDTH] of overlapping classes, and their labels [60]: 2, 4, 6 ..."""
    rng = np.random.default_rng(seed)
    labels = np.arange(60) % classes
    centres = np.random.default_rng(0).normal(size=(classes, WIDTH))
    summaries = rng.normal(size=(60, WIDTH)) + 0.2 * centres[labels]
    return summaries.astype(np.float32), 2 * labels + 2


def kept(arrays: Arrays, classes: np.ndarray, folder: Path) -> dict[str, torch.Tensor]:
    """Weights as they come back from disk."""
    weights = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    save_file(weights | {"classes": torch.from_numpy(classes)}, folder / "head.safetensors")
    return load_file(folder / "head.safetensors")


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_of_a_logistic_regression_in_the_span_of_its_clips(classes, tmp_path):
    learned, labels = clips(classes, 1)
    asked, _ = clips(classes, 2)
    basis = heads.basis_of("logistic", learned)
    assert basis.shape == (WIDTH, 60)
    model = LogisticRegression(C=0.3).fit(learned @ basis, labels)
    weights = kept(linear_arrays(model, basis), model.classes_, tmp_path)
    expected = model.decision_function(asked @ basis)
    np.testing.assert_allclose(kept_values(weights, asked), expected, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_of_a_support_vector_machine(classes, tmp_path):
    learned, labels = clips(classes, 1)
    asked, _ = clips(classes, 2)
    model = SVC(C=0.7).fit(learned, labels)
    weights = kept(kernel_arrays(model), model.classes_, tmp_path)
    expected = model.decision_function(asked)
    np.testing.assert_allclose(kept_values(weights, asked), expected, atol=1e-6)
    # The machine has something to say: its answers are not all the same.
    assert len(set(model.predict(asked))) > 1


@pytest.mark.parametrize("model", ["logistic", "svm"])
@pytest.mark.parametrize("sound", ["none", "real"])
def test_a_fitted_head_keeps_all_that_it_answers_by(workspace, model, sound, tmp_path):
    synthetic.write_data(synthetic.make_clips(unlabelled=0))
    p = params.load("classifier", ClassifierParams)
    with scratch() as folder:
        keys = condition_keys(model=model, train_audio=sound, test_audio=sound)
        data = ActionData(folder, Condition(**keys))
        training = data.participants("training")
        setting = heads.HeadSetting(0.1, 0.3, 1.7, None)
        head = heads.Head(data, p, training, setting, 0)
        save_file(weights_of(head), tmp_path / "head.safetensors")
        weights = load_file(tmp_path / "head.safetensors")
        test = data.participants("test")
        summary = head.summaries.as_at_test(test, setting.audio_gain)
        values = kept_values(weights, summary)
        expected = head.estimator.decision_function(summary @ head.basis)
    np.testing.assert_allclose(values, expected, atol=1e-4)
    assert (weights["audio_gain"].item(), weights["temperature"].item()) == (0.3, 1.7)
    assert ("audio_mean" in weights) == (sound == "real")
