"""Figures of predicted label scores against scikit-learn, and their baselines."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from sklearn.metrics.pairwise import cosine_similarity

from audio_from_video.evaluation import labels as label_evaluation
from audio_from_video.learning.features import Features
from audio_from_video.runtime import vocabulary
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.synthetic import LABELS

RNG = np.random.default_rng(0)


def test_figures_are_scikit_learns():
    real = RNG.random((40, 9)) ** 3
    predicted = np.clip(real + 0.3 * RNG.normal(size=real.shape), 0, 1)
    real[:, 7] = 0  # a label that never occurs
    real[:, 8] = 1  # one that always occurs
    truth = real >= 0.3
    answer = predicted >= 0.3
    found = label_evaluation.score_figures(predicted, real, 0.3)
    assert found["precision"] == pytest.approx(precision_score(truth.ravel(), answer.ravel()))
    assert found["recall"] == pytest.approx(recall_score(truth.ravel(), answer.ravel()))
    assert found["f1"] == pytest.approx(f1_score(truth.ravel(), answer.ravel()))
    by_label = [average_precision_score(truth[:, k], predicted[:, k]) for k in range(7)]
    assert found["map"] == pytest.approx(np.mean(by_label))
    assert found["cosine"] == pytest.approx(cosine_similarity(predicted, real).diagonal().mean())


def test_figures_at_the_limits():
    real = (RNG.random((20, 5)) < 0.4).astype(float)
    perfect = label_evaluation.score_figures(real, real, 0.5)
    assert [perfect[key] for key in ("precision", "recall", "f1", "map")] == pytest.approx([1] * 4)

    nothing = label_evaluation.score_figures(np.zeros_like(real), real, 0.5)
    for key in ("precision", "recall", "f1", "cosine"):
        assert nothing[key] == 0, key
    chance = real[:, real.any(0)].mean(0).mean()  # how often a label occurs
    assert nothing["map"] == pytest.approx(chance)
    assert label_evaluation.score_figures(np.ones((3, 2)), np.zeros((3, 2)), 0.5)["map"] == 0


@pytest.fixture
def features(workspace):
    synthetic.write_data(synthetic.make_clips())
    with scratch() as folder:
        yield Features(folder, vocabulary.SPLITS)


def test_baselines_are_training_frequencies_and_other_clips_labels(features):
    split = features.clips.split.to_numpy()
    labelled = features.clip_indices(*vocabulary.LABELLED)
    audible = torch.nonzero(features.audio_row >= 0).ravel().tolist()
    real = {i: RNG.random(LABELS).astype(np.float32) for i in audible}
    scores = {"generated_mel": RNG.random((len(labelled), LABELS))}
    found = label_evaluation.label_figures(features, labelled, scores, real, 0.3)["test"]

    test = [i for i in real if split[i] == "test"]
    table = np.stack([real[i] for i in test])
    assert found["clips"] == len(test)
    assert found["labels_per_clip"] == pytest.approx((table >= 0.3).sum() / len(test))

    frequencies = np.mean([real[i] for i in real if split[i] == "training"], axis=0)
    constant = np.tile(frequencies, (len(test), 1))
    expected = label_evaluation.score_figures(constant, table, 0.3)
    assert found["constant_frequencies"] == pytest.approx(expected)
    share = (table >= 0.3).mean(0).mean()
    assert found["constant_frequencies"]["map"] == pytest.approx(share, abs=0.02)  # ranks nothing

    positions = [labelled.tolist().index(i) for i in test]
    generated = scores["generated_mel"][positions].astype(np.float32)
    expected = label_evaluation.score_figures(generated, table, 0.3)
    assert found["generated_mel"] == pytest.approx(expected)

    # The same labels, but of other clips.
    shuffled = found["shuffled_clips"]
    assert shuffled["precision"] == pytest.approx(shuffled["recall"])
    assert shuffled["f1"] < 1
