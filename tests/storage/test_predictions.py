"""Predictions on disk, and what is read off them, against scikit-learn and by hand."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score, top_k_accuracy_score

from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions
from audio_from_video.storage.predictions import Predictions

ACTIONS = [f"action {i}" for i in range(7)]


def random_predictions(seeds: int = 3, clips: int = 90) -> Predictions:
    rng = np.random.default_rng(seeds)
    true = rng.integers(0, len(ACTIONS), clips)
    table = pd.DataFrame(
        {
            "clip_id": [f"c{i}" for i in range(clips)],
            "split": ["test"] * (clips - 30) + ["training"] * 10 + ["validation"] * 20,
            "action": [ACTIONS[t] for t in true],
            "source_id": [f"s{i // 3}" for i in range(clips)],
        }
    )
    probabilities = rng.dirichlet(np.ones(len(ACTIONS)), (seeds, clips)).astype(np.float32)
    probabilities[:, np.arange(clips), true] += 0.15
    return Predictions(table, ACTIONS, probabilities / probabilities.sum(2, keepdims=True))


@pytest.fixture
def made(workspace) -> Predictions:
    return random_predictions()


def test_what_is_written_is_read(made):
    predictions.write("row", made)
    found = predictions.read("row")
    assert found.actions == ACTIONS and np.array_equal(found.probabilities, made.probabilities)
    pd.testing.assert_frame_equal(found.clips, made.clips)
    table = pq.read_table("data/predictions/row.parquet").to_pydict()
    assert table["seed"] == [seed for seed in range(3) for _ in range(90)]
    assert table["predicted"] == [ACTIONS[i] for i in made.probabilities.argmax(2).ravel()]


def test_a_missing_file_names_the_command(workspace):
    with pytest.raises(
        UserError, match="nothing.parquet is missing: run `dvc repro classifier@nothing`"
    ):
        predictions.read("nothing")


def test_consensus_averages_probabilities_not_votes():
    clips = pd.DataFrame(
        {"clip_id": ["x", "y"], "split": "test", "action": ["a", "b"], "source_id": "s"}
    )
    probabilities = np.array(
        [[[0.51, 0.49], [0.2, 0.8]], [[0.51, 0.49], [0.4, 0.6]], [[0.1, 0.9], [0.7, 0.3]]],
        np.float32,
    )
    made = Predictions(clips, ["a", "b"], probabilities)
    assert made.consensus().to_dict() == {"x": "b", "y": "b"}  # of x two of three seeds say a
    assert made.labels.tolist() == [0, 1] and made.answers.tolist() == [[0, 1], [0, 1], [1, 0]]
    assert made.hits().tolist() == pytest.approx([2 / 3, 2 / 3]) and made.hits(2).tolist() == [1, 1]


@pytest.mark.parametrize("top", [1, 2, 5])
def test_hits_are_scikit_learns(made, top):
    per_seed = [
        top_k_accuracy_score(made.labels, p, k=top, labels=range(7)) for p in made.probabilities
    ]
    assert made.hits(top).mean() == pytest.approx(np.mean(per_seed))
    assert made.hits(top).shape == (90,)


def test_a_split_keeps_its_clips_and_their_probabilities(made):
    part = made.of("validation")
    assert part.clips.clip_id.tolist() == [f"c{i}" for i in range(70, 90)]
    assert np.array_equal(part.probabilities, made.probabilities[:, 70:])
    assert made.of("nowhere").probabilities.shape == (3, 0, 7)


def test_figures_are_of_the_right_split_and_scikit_learns(made):
    figures = condition_evaluation.classifier_figures(made)
    true, guessed = made.labels, made.answers
    test, validation = slice(0, 60), slice(70, 90)
    per_seed = [accuracy_score(true[test], g[test]) for g in guessed]
    assert figures["accuracy"]["mean"] == pytest.approx(np.mean(per_seed))
    assert figures["accuracy"]["seed_sd"] == pytest.approx(np.std(per_seed, ddof=1))
    assert (
        figures["accuracy"]["n"],
        figures["accuracy"]["sources"],
        figures["accuracy"]["seeds"],
    ) == (60, 20, 3)
    on_validation = np.mean([accuracy_score(true[validation], g[validation]) for g in guessed])
    assert figures["validation_accuracy"]["mean"] == pytest.approx(on_validation)
    pooled = f1_score(np.tile(true[test], 3), guessed[:, test].ravel(), average="macro")
    assert figures["macro_f1"]["mean"] == pytest.approx(pooled)  # counts summed over seeds
    assert (
        condition_evaluation.classifier_figures(random_predictions(1))["accuracy"]["seed_sd"] == 0
    )


def test_a_row_without_clips_stands_in_files_and_figures(workspace):
    empty = pd.DataFrame({name: pd.Series(dtype=str) for name in predictions.CLIP_COLUMNS})
    predictions.write("published", Predictions(empty, ["a", "b"], np.zeros((3, 0, 2), np.float32)))
    found = predictions.read("published")
    assert found.actions == ["a", "b"] and found.probabilities.shape == (1, 0, 2)
    figures = condition_evaluation.classifier_figures(found)
    assert (
        figures["accuracy"]["mean"] is None
        and figures["accuracy"]["n"] == 0
        and figures["macro_f1"]["mean"] is None
    )


def test_unlabelled_clips_are_answered_but_never_right(workspace):
    clips = pd.DataFrame(
        [
            {"clip_id": "unlabelled/x_1", "split": "unlabelled", "action": None, "source_id": "x"},
            {"clip_id": "b/y_1", "split": "test", "action": "b", "source_id": "y"},
        ]
    )
    made = predictions.Predictions(
        clips, ["a", "b"], np.array([[[0.1, 0.9], [0.2, 0.8]]], np.float32)
    )
    predictions.write("video_only", made)
    found = predictions.read("video_only")
    assert (
        found.labels.tolist() == [-1, 1]
        and found.hits().tolist() == [0, 1]
        and found.hits(2).tolist() == [0, 1]
    )
    assert (
        found.clips.action.isna().tolist() == [True, False]
        and found.consensus()["unlabelled/x_1"] == "b"
    )
    assert condition_evaluation.classifier_figures(found)["accuracy"]["n"] == 1
