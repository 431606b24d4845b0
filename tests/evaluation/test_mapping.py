"""Figures of mapped captions, by hand and at their limits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.evaluation import mapping as mapping_evaluation
from audio_from_video.storage import shards
from tests.support import synthetic
from tests.support.synthetic import COMPONENTS

RNG = np.random.default_rng(0)


def measured(
    labels, similarity, weights, condition, real, true=None, heard=None, split="validation"
):
    """The measures of captions, one a clip and source."""
    n = len(labels)
    captions = pd.DataFrame(
        {
            "clip_id": [f"c{i}" for i in range(n)],
            "split": split,
            "source_id": [f"s{i}" for i in range(n)],
            "step": 1,
        }
    )
    heard = {f"c{i}": heard[i] for i in range(n)}
    real = {
        f"c{i}": np.stack([np.full(len(row), 9.0), row]) for i, row in enumerate(real)
    }  # step 1 counts
    similarity, weights, condition = (
        np.array(values, float) for values in (similarity, weights, condition)
    )
    mapped = mapping_evaluation.MappedCaptions(np.array(labels), similarity, weights, condition)
    references = mapping_evaluation.References(heard, true or {}, real)
    return mapping_evaluation.figures_by_split(captions, mapped, references)


def test_measures_of_cases_made_by_hand():
    found = measured(
        labels=[[0, 1, 2], [3, 4, 5], [6, -1, -1], [-1, -1, -1]],
        similarity=[[0.9, 0.8, 0.7, 0.5], [0.9, 0.8, 0.7, 0.6], [0.5] * 4, [0.1] * 4],
        weights=[[1 / 3] * 3, [0.5, 0.5, 0], [1, 0, 0], [0] * 3],
        condition=[[1, 0], [0, 2], [1, 1], [0, 0]],
        real=[[2, 0], [0, -1], [1, 0], [1, 1]],
        heard=[{1, 2, 11}, {9}, {6}, {7}],
        true={"c0": {0}, "c1": {3}, "c3": {1}},
    )
    assert set(found) == {"validation"}
    row = found["validation"]
    assert (row["captions"], row["with_labels"]) == (4, 0.75)
    assert row["hit"]["mean"] == 0.5 and row["hit"]["n"] == 4 and row["first_hit"] == 0.25
    assert row["precision"] == pytest.approx((2 / 3 + 0 + 1 + 0) / 4)
    assert row["margin"] == pytest.approx((0.2 + 0.1 + 0 + 0) / 4)
    assert row["entropy"] == pytest.approx((np.log(3) + np.log(2) + 0) / 3)
    assert (
        row["condition_cosine"]["mean"] == pytest.approx((1 - 1 + np.sqrt(0.5)) / 3)
        and row["condition_cosine"]["n"] == 3
    )
    assert row["hit_in_truth"] == 0.5


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_entropy_of_equal_weights_is_the_logarithm_of_their_number(k):
    found = measured(
        [list(range(k))] * 3,
        np.ones((3, k + 1)),
        np.full((3, k), 1 / k),
        np.ones((3, 2)),
        np.ones((3, 2)),
        heard=[{0}] * 3,
    )
    assert found["validation"]["entropy"] == pytest.approx(np.log(k))


def test_a_perfect_condition_and_the_shuffled_baseline():
    real = RNG.normal(size=(40, COMPONENTS))
    labels = np.arange(40)[:, None]
    found = measured(
        labels,
        np.ones((40, 2)),
        np.ones((40, 1)),
        3 * real,
        real,
        heard=[{i} for i in range(40)],
        split="training",
    )
    row = found["out_of_fold"]
    assert (row["hit"]["mean"], row["precision"], row["first_hit"]) == (1, 1, 1) and row[
        "hit_shuffled"
    ] <= 0.1
    assert row["condition_cosine"]["mean"] == pytest.approx(1) and "hit_in_truth" not in row
    alike = measured(0 * labels, np.ones((40, 2)), np.ones((40, 1)), -real, real, heard=[{0}] * 40)[
        "validation"
    ]
    assert (
        alike["hit_shuffled"] == alike["hit"]["mean"] == 1
    )  # a label that everybody hears is no skill
    assert alike["condition_cosine"]["mean"] == pytest.approx(-1)


def test_splits_without_audible_captions_have_no_figures():
    assert (
        measured([[0]], [[1, 1]], [[1]], [[1, 1]], [[1, 1]], heard=[{0}], split="unlabelled") == {}
    )
    captions = pd.DataFrame({"clip_id": ["c"], "split": ["test"], "source_id": ["s"], "step": [0]})
    nothing = np.zeros((1, 1))
    mapped = mapping_evaluation.MappedCaptions(nothing, nothing, nothing, np.zeros((1, 2)))
    references = mapping_evaluation.References({}, {}, {})
    assert mapping_evaluation.figures_by_split(captions, mapped, references) == {}


def test_what_is_heard_and_what_is_true(workspace):
    scores = {"loud": np.array([0.1, 0.3, 0.9]), "faint": np.array([0.1, 0.2, 0.05])}
    assert mapping_evaluation.heard_labels(scores, 0.3) == {"loud": {1, 2}, "faint": {1}}
    rows = [("a", True, ["Rain", "Dog"]), ("b", False, ["Rain"]), ("c", True, ["Music"])]
    known = [
        dict.fromkeys(TRUTH_SCHEMA.names)
        | dict(zip(("clip_id", "audible", "audio_labels"), row, strict=True))
        for row in rows
    ]
    shards.write_table(pa.Table.from_pylist(known, schema=TRUTH_SCHEMA), Path("data/truth.parquet"))
    assert mapping_evaluation.true_labels(["Dog", "Wind", "Rain"]) == {"a": {0, 2}, "c": set()}


def test_real_features_are_centred_by_the_training_clips(workspace):
    rows = synthetic.make_clips()
    synthetic.write_data(rows)
    audible = {row["clip_id"]: row for row in rows if row["audible"]}
    found = mapping_evaluation.centred_features(set(audible))
    assert found.keys() == audible.keys()
    one = next(iter(audible))
    assert mapping_evaluation.centred_features({one}).keys() == {one}
    learned = [
        row["audio"] for row in audible.values() if row["split"] in ("training", "unlabelled")
    ]
    for name, row in audible.items():
        np.testing.assert_allclose(
            found[name], row["audio"] - np.concatenate(learned).mean(0), atol=1e-2
        )


def test_hits_no_better_than_shuffled_ones_are_a_warning():
    hit = {"mean": 0.3, "ci95_low": 0.2, "ci95_high": 0.4}
    warned = mapping_evaluation.hit_warnings({"out_of_fold": {"hit": hit, "hit_shuffled": 0.25}})
    assert "heard in 30.0% of their own clips [20.0%, 40.0%] and in 25.0% of clips" in warned[0]
    assert not mapping_evaluation.hit_warnings({"out_of_fold": {"hit": hit, "hit_shuffled": 0.1}})
    assert not mapping_evaluation.hit_warnings({})
