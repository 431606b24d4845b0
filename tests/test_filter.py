"""The filter: scores, thresholds, sweep and figures by hand; what the classifier makes of it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy.stats import percentileofscore
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from audio_from_video.classification.data import ActionData
from audio_from_video.evaluation import filter as filter_evaluation
from audio_from_video.meaning.action_fit import background_scores, calibrate
from audio_from_video.runtime import params, stage_run, vocabulary
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.row_file import scratch
from stages import classifier, filter
from stages.filter import read_embeddings
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.synthetic import ACTIONS, COMPONENTS, LABELS, NETWORK, STEPS

FIRST = vocabulary.SEMANTIC_VALIDATION
SECOND = vocabulary.CAPTION_MAPPING
DEFAULT = {
    "threshold": "auto",
    "action": "predicted",
    "reference": "action",
    "centre": True,
    "calibration": "none",
    "labels": 3,
    "entry_size": 2,
}


@pytest.fixture
def data(workspace, in_process, monkeypatch):
    """All that the filter reads.

    Labels of half of the generated audio resemble the real ones, the others are shuffled.
    """
    monkeypatch.setattr(filter_evaluation, "DRAWS", 3)
    rng = np.random.default_rng(1)
    workspace.rows = rows = synthetic.make_clips()
    synthetic.write_data(rows)
    workspace.actions, workspace.labels = synthetic.write_dictionary()
    for i, row in enumerate(rows):
        scores = rng.permutation(row["label_scores"]) if i % 2 else row["label_scores"]
        row["generated_scores"] = np.clip(
            scores + 0.1 * rng.normal(size=LABELS), 0.01, 0.99
        ).astype(np.float16)
        row["made"] = np.stack(
            [row["audio"] + rng.normal(size=(STEPS, COMPONENTS)) for _ in range(2)]
        )
    write_made(rows)
    synthetic.write_predictions("video_only", rows, seed=1)
    synthetic.write_predictions("generated", rows, seed=2, skill=1.5)
    workspace.set(
        filter=DEFAULT,
        frames={"count": STEPS},
        generator={"architectures": {"caption_mapping": None}},
    )
    return workspace


def write_made(
    rows: list[dict],
    architecture: str = "semantic_validation",
    made: str = "made",
    scores: str = "generated_scores",
) -> None:
    """What an architecture generated and what it sounds like, from these keys of the rows."""
    labelled = [row for row in rows if row["action"]]
    labelled.sort(key=lambda row: (row["split"], row["action"], row["clip_id"]))
    features, labels = (
        Path("data/generated") / architecture,
        Path("data/predicted_labels") / architecture,
    )
    synthetic.write_shards(
        features,
        {"features": (2, STEPS, COMPONENTS)},
        [row | {"features": row[made]} for row in labelled],
    )
    synthetic.write_shards(
        labels, {"generated": (LABELS,)}, [row | {"generated": row[scores]} for row in labelled]
    )


def decide(workspace, **changes) -> tuple[pd.DataFrame, dict, pd.DataFrame]:
    """Run the filter: architecture 1's table by clip, metrics, sweep."""
    workspace.set(filter={**DEFAULT, **changes})
    filter.main(stage_run.StageRun("filter", None, 1))
    return decisions(FIRST), filter_metrics()[FIRST], sweep_of(FIRST)


def test_outputs_of_another_data_set_are_a_sentence(data):
    """Nothing of one data set is scored by what was predicted for another one."""
    clips = [row | {"content_hash": row["clip_id"], "status": "ok"} for row in data.rows]
    columns = ["clip_id", "content_hash", "split", "action", "source_id", "status"]
    table = pa.Table.from_pylist([{name: row[name] for name in columns} for row in clips])
    shards.write_table(shards.with_clip_set(table), layout.CLIPS)
    synthetic.write_predictions("video_only", data.rows, seed=1)
    decide(data)

    shards.write_table(shards.with_clip_set(table.slice(1)), layout.CLIPS)
    with pytest.raises(UserError, match="^data/predictions/video_only.parquet is of another data"):
        decide(data)
    write_made(data.rows)
    synthetic.write_predictions("video_only", data.rows, seed=1)
    decide(data)


def decisions(architecture: str) -> pd.DataFrame:
    """An architecture's table of decisions by clip."""
    table = pd.read_parquet(layout.decisions(architecture))
    return table.set_index("clip_id", drop=False)


def sweep_of(architecture: str) -> pd.DataFrame:
    return pd.read_csv(layout.filter_sweep(architecture))


def filter_metrics() -> dict[str, dict]:
    """The metrics by architecture."""
    return json.loads(layout.metrics("filter").read_text())


def by_hand(workspace, row: dict, action: str, key: str, centre=True, reference="action") -> float:
    """The score of one clip, computed label by label."""
    names, mean = list(ACTIONS), workspace.labels.mean(0) if centre else 0
    scores = row[key].astype(np.float16).astype(np.float64)
    best = sorted(range(LABELS), key=lambda label: -scores[label])[: DEFAULT["labels"]]
    units = [
        (workspace.labels[label] - mean) / np.linalg.norm(workspace.labels[label] - mean)
        for label in best
    ]
    v = sum(scores[label] * unit for label, unit in zip(best, units, strict=True))
    own = workspace.actions[names.index(action)]
    if reference == "entry":
        similarity = workspace.labels @ own
        closest = np.argsort(-similarity)[: DEFAULT["entry_size"]]
        own = sum(similarity[label] * workspace.labels[label] for label in closest)
        own = (
            own / similarity[closest].sum()
        )  # a mean: centring takes as much from it as from a label
    r = own - mean
    return float(v @ r / np.linalg.norm(v) / np.linalg.norm(r))


# Scores


@pytest.mark.parametrize(
    ("reference", "centre"),
    [("action", True), ("action", False), ("entry", False), ("entry", True)],
)
def test_scores_are_cosines_computed_label_by_label(data, reference, centre):
    table, _, _ = decide(data, reference=reference, centre=centre)
    predicted = predictions.read("video_only").consensus()
    for row in data.rows:
        if row["action"]:
            found = table.loc[row["clip_id"]]
            assert (found.split, found.action, found.predicted_action) == (
                row["split"],
                row["action"],
                predicted[row["clip_id"]],
            )
            how = {"centre": centre, "reference": reference}
            assert found.score == pytest.approx(
                by_hand(data, row, found.predicted_action, "generated_scores", **how), abs=1e-5
            )
            assert found.score_oracle == pytest.approx(
                by_hand(data, row, row["action"], "generated_scores", **how), abs=1e-5
            )
            real = by_hand(data, row, found.predicted_action, "label_scores", **how)
            assert (
                found.score_real == pytest.approx(real, abs=2e-3)
                if row["audible"]
                else np.isnan(found.score_real)
            )
            published = by_hand(data, row, row["action"], "generated_scores", False, "entry")
            assert found.score_published == pytest.approx(published, abs=1e-5)
    assert (table.score != table.score_oracle).any()
    assert (table.score == table.score_oracle).any()
    assert len(table) == sum(row["action"] is not None for row in data.rows)


def test_confidence_is_the_share_of_the_variance_that_the_generator_expects_to_explain(data):
    rng = np.random.default_rng(3)
    labelled = synthetic.in_order([row for row in data.rows if row["action"]])
    for row in labelled:
        row["features"] = row["made"]
        row["deviation"] = rng.uniform(0.1, 2.0) * rng.uniform(0.5, 1.5, size=row["made"].shape)
    shape = (2, STEPS, COMPONENTS)
    path = Path("data/generated/semantic_validation")
    synthetic.write_shards(path, {"features": shape, "deviation": shape}, labelled)
    table, metrics, _ = decide(data, score="confidence")
    heard = [row["audio"] for row in labelled if row["split"] == "training" and row["audible"]]
    variance = np.concatenate(heard).var(0).mean()
    expected = {row["clip_id"]: 1 - (row["deviation"] ** 2).mean() / variance for row in labelled}
    assert table.score.to_dict() == pytest.approx(expected, abs=2e-3)
    assert (table.score == table.score_oracle).all()
    audible = {row["clip_id"] for row in labelled if row["audible"]}
    assert set(table.index[table.score_real == 1]) == audible
    assert (table.keep == (table.score >= metrics["threshold"])).all() and table.keep.any()


def test_confidence_without_deviations_is_a_sentence(data):
    with pytest.raises(UserError, match="filter.score: confidence needs predicted deviations"):
        decide(data, score="confidence")


def test_few_labels_count_and_by_their_scores(data):
    embeddings = read_embeddings("action", False, 2)
    scores = np.zeros((2, LABELS))
    scores[0, [3, 7, 5]] = 0.9, 0.6, 0.1
    scores[1, 4] = 0.2
    vectors = embeddings.of_scores(scores, 2)
    assert np.allclose(vectors[0], unit(0.9 * data.labels[3] + 0.6 * data.labels[7]), atol=1e-6)
    assert np.allclose(vectors[1], data.labels[4], atol=1e-6)
    expected = [vectors[0] @ data.actions[2], vectors[1] @ data.actions[0]]
    assert np.allclose(embeddings.fit(vectors, np.array(["waving", "boiling"])), expected)
    assert np.allclose(
        np.linalg.norm(
            embeddings.of_scores(np.random.default_rng(0).random((5, LABELS)), 5), axis=1
        ),
        1,
    )


def test_centring_takes_away_what_all_labels_share(data):
    plain, centred = read_embeddings("action", False, 2), read_embeddings("action", True, 2)

    def share(e):
        return (e.labels @ e.labels.T)[np.triu_indices(LABELS, 1)].mean()

    assert share(plain) > 0.15 > abs(share(centred))


def unit(vector):
    return vector / np.linalg.norm(vector)


def test_calibration_is_the_percentile_among_clips_of_other_actions():
    rng = np.random.default_rng(0)
    background = {"a": np.sort(rng.normal(size=37)), "b": np.sort(rng.normal(1, 2, size=12))}
    scores, asked = rng.normal(size=20), np.array(["a", "b"] * 10)
    scores[:2] = background["a"][5], background["b"][3]  # ties count as reached
    expected = [
        percentileofscore(background[action], score, kind="weak") / 100
        for score, action in zip(scores, asked, strict=True)
    ]
    assert np.allclose(calibrate(scores, asked, background), expected)


def test_the_background_is_training_clips_that_are_predicted_to_be_others(data):
    table, _, _ = decide(data, calibration="action")
    plain = read_embeddings("action", True, 2)
    training = [row for row in data.rows if row["split"] == "training"]
    predicted = table.predicted_action
    for way in ("score", "score_oracle", "score_real"):
        key, audible = (
            ("label_scores", True) if way == "score_real" else ("generated_scores", False)
        )
        known = [row for row in training if row["audible"] or not audible]
        vectors = plain.of_scores(
            np.stack([row[key].astype(np.float16).astype(np.float32) for row in known]), 3
        )
        for row in [row for row in data.rows if row["action"] and row["audible"]][::7]:
            asked = row["action"] if way == "score_oracle" else predicted[row["clip_id"]]
            others = np.array([predicted[other["clip_id"]] != asked for other in known])
            reference = plain.actions[ACTIONS.index(asked)]
            own = (
                plain.of_scores(row[key].astype(np.float16).astype(np.float32)[None], 3)[0]
                @ reference
            )
            expected = percentileofscore(vectors[others] @ reference, own, kind="weak") / 100
            assert table.loc[row["clip_id"], way] == pytest.approx(
                expected, abs=1.01 / others.sum()
            ), way
    found = background_scores(
        plain, plain.labels[:4], np.array(["waving", "boiling", "waving", "clapping"])
    )
    assert {action: len(values) for action, values in found.items()} == {
        "boiling": 3,
        "clapping": 3,
        "waving": 2,
    }
    assert all((np.diff(values) >= 0).all() for values in found.values())


def test_with_the_label_the_score_is_the_oracles(data):
    table, _, _ = decide(data, action="label")
    assert (table.score == table.score_oracle).all()
    assert (table.keep == table.keep_oracle).all()


# Thresholds


@pytest.mark.parametrize("threshold", [0.5, 0.72, -0.2, 1.0])
def test_a_number_is_the_threshold(data, threshold):
    table, metrics, _ = decide(data, threshold=threshold)
    assert metrics["threshold"] == threshold
    for way in ("", "_oracle", "_real"):
        assert (table[f"keep{way}"] == (table[f"score{way}"] >= threshold)).all()
    assert not table.keep_real[
        ~table.index.isin([row["clip_id"] for row in data.rows if row["audible"]])
    ].any()


def test_cross_fitted_has_training_clips_choose_too(data):
    table, metrics, sweep = decide(data, threshold="cross_fitted")
    rows = {row["clip_id"]: row for row in data.rows}
    judged = [rows[name] for name in table.clip_id if rows[name]["split"] != "test"]
    judged = [row for row in judged if row["audible"]]
    assert {row["split"] for row in judged} == {"training", "validation"}
    strongest = [row["generated_scores"].argmax() for row in judged]
    right = [
        row["label_scores"][label] >= 0.3 for row, label in zip(judged, strongest, strict=True)
    ]
    scores = table.score[[row["clip_id"] for row in judged]].to_numpy()
    values = [
        recall_score(right, scores >= threshold)
        + recall_score(right, scores >= threshold, pos_label=False)
        for threshold in sweep.threshold
    ]
    best = sweep.threshold[np.array(values) >= max(values) - 1e-9].min()
    assert metrics["threshold"] == best
    assert metrics["threshold"] != decide(data)[1]["threshold"]


def test_auto_is_best_on_validation_and_keeps_more_of_equals(data):
    table, metrics, sweep = decide(data)
    best = sweep.validation_informedness.max()
    assert (
        metrics["threshold"] == sweep.threshold[sweep.validation_informedness >= best - 1e-6].min()
    )
    assert sweep.validation_informedness.nunique() > 1
    assert sweep.validation_informedness.iloc[0] == 0  # -1 keeps all
    hand = pd.DataFrame(
        {"threshold": [0.0, 0.3, 0.6, 0.9], "validation_informedness": [0.5, 0.7, 0.7 + 1e-15, 0.4]}
    )
    assert filter_evaluation.best_threshold(hand) == 0.3
    assert (table.keep == (table.score >= metrics["threshold"])).all()


def test_auto_does_not_look_at_test(data):
    _, before, _ = decide(data)
    for condition, seed in (("video_only", 1), ("generated", 2)):
        made = predictions.read(condition)
        test = (made.clips.split == "test").to_numpy()
        probabilities = made.probabilities.copy()
        probabilities[:, test] = np.random.default_rng(seed).dirichlet(np.ones(3), (2, test.sum()))
        predictions.write(
            condition, predictions.Predictions(made.clips, made.actions, probabilities)
        )
    assert decide(data)[1]["threshold"] == before["threshold"]


def test_published_needs_its_score_audible_sound_and_the_exact_number_of_frames(data):
    table, metrics, _ = decide(data)
    for row in data.rows:
        if row["action"]:
            found = table.loc[row["clip_id"]]
            assert found.keep_published == (
                found.score_published >= 0.72 and row["audible"] and row["frame_count"] == STEPS
            )
    would = table.score_published >= 0.72
    assert would.sum() > table.keep_published.sum() > 0
    assert metrics["kept_fraction_published"] == pytest.approx(
        table.keep_published[table.split == "test"].mean()
    )
    assert (
        decide(data, threshold=0.1, reference="entry", action="label")[0].keep_published
        == table.keep_published
    ).all()


# The sweep


def test_the_sweep_by_hand(data):
    table, _, sweep = decide(data)
    rows = {row["clip_id"]: row for row in data.rows}
    found = {condition: predictions.read(condition) for condition in ("generated", "video_only")}
    hits = {
        condition: pd.Series(made.hits(), made.clips.clip_id) for condition, made in found.items()
    }
    test, validation = (table[table.split == split] for split in ("test", "validation"))
    audible = [name for name in test.index if rows[name]["audible"]]
    fits = np.array(
        [
            rows[n]["label_scores"].astype(np.float16)[np.argmax(rows[n]["generated_scores"])]
            >= 0.3
            for n in audible
        ]
    )
    assert 0 < fits.mean() < 1
    assert 0.72 in sweep.threshold.to_numpy()
    for line in sweep.itertuples():
        assert line.kept_fraction == pytest.approx((test.score >= line.threshold).mean(), abs=1e-6)
        kept = (test.score[audible] >= line.threshold).to_numpy()
        if kept.any():
            assert line.precision == pytest.approx(precision_score(fits, kept), abs=1e-6)
        else:
            assert np.isnan(line.precision)
        assert line.recall == pytest.approx(recall_score(fits, kept), abs=1e-6)
        for part, found in ((validation, line.validation_accuracy), (test, line.test_accuracy)):
            expected = np.mean(
                [
                    hits["generated" if score >= line.threshold else "video_only"][name]
                    for name, score in part.score.items()
                ]
            )
            assert found == pytest.approx(expected, abs=1e-6)
    assert sweep.test_accuracy.iloc[-1] == pytest.approx(
        hits["video_only"][test.index].mean(), abs=1e-6
    )  # all rejected


def test_control_filters_keep_as_many_of_each_predicted_action():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"predicted_action": rng.choice(["a", "b", "c"], 60)})
    keep, confidence = rng.random(60) < 0.4, rng.random(60)
    orders = filter_evaluation.keeping_orders(confidence)
    actions = table.predicted_action.to_numpy()

    def by_action(order):
        return filter_evaluation.place_in_action(
            actions, order
        ) <= filter_evaluation.kept_of_action(actions, keep)

    assert len(orders) == 1 + filter_evaluation.DRAWS
    for order in orders:
        chosen = by_action(order)
        assert (
            table.predicted_action[chosen].value_counts().to_dict()
            == table.predicted_action[keep].value_counts().to_dict()
        )
    sure = by_action(orders[0])
    for action in "abc":
        inside = (table.predicted_action == action).to_numpy()
        assert confidence[inside & sure].min() > confidence[inside & ~sure].max()
    drawn = np.mean([by_action(order) for order in orders[1:]], axis=0)
    assert 0.2 < drawn.mean() < 0.6
    assert (drawn > 0).mean() > 0.9  # no clip is left out by the draw


def test_the_confidence_filters_accuracy(data):
    table, _, sweep = decide(data)
    video = predictions.read("video_only").of("test")
    confidence = pd.Series(video.probabilities.mean(0).max(1), video.clips.clip_id)
    own = pd.Series(predictions.read("generated").of("test").hits(), video.clips.clip_id)
    base = pd.Series(video.hits(), video.clips.clip_id)
    test = table[table.split == "test"]
    for line in sweep.iloc[[3, 8, 12]].itertuples():
        right = []
        for _, group in test.groupby("predicted_action"):
            count = (group.score >= line.threshold).sum()
            order = confidence[group.index].sort_values(ascending=False).index
            right += [*own[order[:count]], *base[order[count:]]]
        assert line.confidence_filter_accuracy == pytest.approx(np.mean(right), abs=1e-6)


# Figures


def test_the_kept_bit_alone_by_hand():
    table = pd.DataFrame(
        [
            *(
                ["training", "a", True],
                ["training", "a", True],
                ["training", "b", True],
                ["training", "b", False],
                ["training", "b", False],
            ),
            *(
                ["test", "a", True],
                ["test", "a", False],
                ["test", "b", True],
                ["test", "b", False],
                ["test", "b", False],
            ),
        ],
        columns=["split", "action", "keep"],
    )
    assert filter_evaluation.bit_accuracy(table, "keep") == 3 / 5  # kept: a; rejected: b
    assert filter_evaluation.bit_accuracy(table, None) == 3 / 5  # always b
    table.loc[table.split == "training", "keep"] = True
    assert (
        filter_evaluation.bit_accuracy(table, "keep") == 1 / 5
    )  # of the rejected nothing is known; kept: b


def test_figures_by_hand_and_scikit_learn(data):
    table, metrics, _ = decide(data, threshold=0.2)
    rows = {row["clip_id"]: row for row in data.rows}
    test = table[table.split == "test"]
    kept = metrics["kept_fraction"]
    assert (kept["mean"], kept["n"]) == (pytest.approx(test.keep.mean(), abs=1e-6), len(test))
    assert kept["ci95_low"] <= kept["mean"] <= kept["ci95_high"]
    for action in ACTIONS:
        assert metrics["kept_fraction_by_action"][action] == pytest.approx(
            test.keep[test.action == action].mean(), abs=1e-6
        )
    heard = np.array([rows[name]["audible"] for name in test.index])
    found = np.array(
        [
            rows[n]["label_scores"].astype(np.float16)[np.argmax(rows[n]["generated_scores"])]
            >= 0.3
            for n in test.index
        ]
    )
    assert metrics["auroc_found_in_real"] == pytest.approx(
        roc_auc_score(found[heard], test.score[heard]), abs=1e-5
    )
    belongs = np.array([rows[name]["sound_belongs"] for name in test.index])
    assert metrics["auroc_real"] == pytest.approx(
        roc_auc_score(belongs[heard], test.score_real[heard]), abs=1e-5
    )
    assert metrics["kept_fraction_real"] == pytest.approx(test.keep_real[heard].mean(), abs=1e-6)
    good = [row for row in data.rows if row["split"] == "training" and row["sound_belongs"]]
    probe = LogisticRegression(C=0.1, max_iter=2000).fit(
        [row["audio"].mean(0) for row in good], [row["action"] for row in good]
    )
    right = np.array(
        [
            probe.predict(rows[name]["made"][0].mean(0)[None])[0] == rows[name]["action"]
            for name in test.index
        ]
    )
    assert metrics["auroc"] == pytest.approx(roc_auc_score(right, test.score), abs=1e-5)
    assert metrics["auroc_oracle"] == pytest.approx(
        roc_auc_score(right, test.score_oracle), abs=1e-5
    )
    assert metrics["generated_sounds_right"] == pytest.approx(right.mean(), abs=1e-6)
    assert metrics["kept_sounds_right"] == pytest.approx(right[test.keep].mean(), abs=1e-6)


def test_auroc_needs_both_kinds():
    assert filter_evaluation.auroc(np.array([1, 1]), pd.Series([0.1, 0.2])) is None
    assert filter_evaluation.auroc(np.array([0, 1, 0, 1]), pd.Series([0.1, 0.2, 0.3, 0.4])) == 0.75


def test_labels_in_another_order_than_their_index_are_an_error(data):
    labelled = [row | {"generated": row["generated_scores"]} for row in data.rows if row["action"]]
    labelled.sort(key=lambda row: (row["split"], row["action"], row["clip_id"]))
    shards.write(
        Path("data/predicted_labels/semantic_validation"),
        filter.pa.schema([("generated", shards.tensor(filter.pa.float16(), LABELS))]),
        labelled,
        labelled[::-1],
        "v",
    )
    with pytest.raises(
        UserError,
        match="data/predicted_labels/semantic_validation is not in the order of its index",
    ):
        decide(data)


def test_nothing_kept_and_everything_kept(data):
    for threshold, share in ((1.0, 0), (-1.0, 1)):
        _, metrics, _ = decide(data, threshold=threshold)
        assert metrics["kept_fraction"]["mean"] == share
        assert (metrics["kept_sounds_right"] is None) == (share == 0)


# Two architectures


@pytest.fixture
def both(data):
    """All that the filter reads of architecture 2, too.

    Its labels follow the real ones more, and its condition is right more often.
    """
    rng = np.random.default_rng(7)
    for i, row in enumerate(data.rows):
        scores = row["label_scores"] if i % 4 else rng.permutation(row["label_scores"])
        row["mapped_scores"] = np.clip(scores + 0.15 * rng.normal(size=LABELS), 0.01, 0.99).astype(
            np.float16
        )
        row["mapped"] = np.stack(
            [row["audio"] + 0.5 * rng.normal(size=(STEPS, COMPONENTS)) for _ in range(2)]
        )
    write_made(data.rows, SECOND, "mapped", "mapped_scores")
    synthetic.write_predictions("mapped", data.rows, seed=6, skill=2.0)
    data.set(generator={"architectures": {SECOND: "data/mapping"}})
    return data


def output_paths(architecture: str) -> list[Path]:
    return [layout.decisions(architecture), layout.filter_sweep(architecture)]


def output_bytes(architecture: str) -> list[bytes]:
    return [path.read_bytes() for path in output_paths(architecture)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"threshold": 0.3, "action": "label"}, {"calibration": "action", "reference": "entry"}],
)
def test_architecture_2_is_judged_as_architecture_1_would_be(both, changes):
    """The same inputs in the other's place give the same decisions, sweep and figures."""
    decide(both, **changes)
    together = filter_metrics()
    first = output_bytes(FIRST)
    second = output_bytes(SECOND)
    assert first != second
    assert list(together) == [FIRST, SECOND]
    assert together[FIRST] != together[SECOND]
    assert together[FIRST].keys() == together[SECOND].keys()

    both.set(generator={"architectures": {SECOND: None}})
    for path in (*output_paths(FIRST), *output_paths(SECOND)):
        path.unlink()
    decide(both, **changes)
    assert filter_metrics() == {FIRST: together[FIRST]}
    assert output_bytes(FIRST) == first
    assert not any(path.exists() for path in output_paths(SECOND))

    write_made(both.rows, FIRST, "mapped", "mapped_scores")
    predictions.write("generated", predictions.read("mapped"))
    _, swapped, _ = decide(both, **changes)
    assert swapped == together[SECOND]
    assert output_bytes(FIRST) == second


@pytest.mark.parametrize(
    ("changed", "unchanged", "features", "scores", "condition"),
    [
        (SECOND, FIRST, "mapped", "mapped_scores", "mapped"),
        (FIRST, SECOND, "made", "generated_scores", "generated"),
    ],
)
def test_a_change_of_one_architecture_changes_nothing_of_the_other(
    both, changed, unchanged, features, scores, condition
):
    decide(both)
    unchanged_bytes = output_bytes(unchanged)
    changed_bytes = output_bytes(changed)
    metrics = filter_metrics()
    for clip in both.rows:
        clip[features] = clip[features][:, ::-1] + 1
        clip[scores] = clip[scores][::-1]
    write_made(both.rows, changed, features, scores)
    synthetic.write_predictions(condition, both.rows, seed=9)
    decide(both)
    assert output_bytes(unchanged) == unchanged_bytes
    assert filter_metrics()[unchanged] == metrics[unchanged]
    for after, before in zip(output_bytes(changed), changed_bytes, strict=True):
        assert after != before
    assert filter_metrics()[changed] != metrics[changed]


def test_each_architecture_has_its_own_automatic_threshold(both):
    decide(both)
    metrics = filter_metrics()
    assert metrics[FIRST]["threshold"] != metrics[SECOND]["threshold"]
    for architecture in (FIRST, SECOND):
        threshold = metrics[architecture]["threshold"]
        sweep = sweep_of(architecture)
        best = sweep.validation_informedness.max()
        assert threshold == sweep.threshold[sweep.validation_informedness >= best - 1e-6].min()
        table = decisions(architecture)
        for way in ("", "_oracle", "_real"):
            assert (table[f"keep{way}"] == (table[f"score{way}"] >= threshold)).all()
        kept = table.keep[table.split == "test"]
        kept_fraction = metrics[architecture]["kept_fraction"]["mean"]
        assert kept_fraction == pytest.approx(kept.mean(), abs=1e-6)
        assert 0 < kept.mean() < 1
    decide(both, threshold=0.4)
    assert {figures["threshold"] for figures in filter_metrics().values()} == {0.4}


def test_the_sweep_of_architecture_2_combines_its_own_condition_with_video_only(both):
    decide(both)
    sweep = sweep_of(SECOND).set_index("threshold")
    hits = {
        condition: predictions.read(condition).of("test").hits().mean()
        for condition in ("mapped", "generated", "video_only")
    }
    assert sweep.kept_fraction[-1.0] == 1
    assert sweep.test_accuracy[-1.0] == pytest.approx(hits["mapped"], abs=1e-6)
    assert sweep.kept_fraction[1.0] == 0
    assert sweep.test_accuracy[1.0] == pytest.approx(hits["video_only"], abs=1e-6)
    assert len({round(value, 4) for value in hits.values()}) == 3
    assert list(sweep_of(FIRST)) == ["threshold", *sweep]


def test_both_decide_on_the_same_clips_actions_and_real_sound(both):
    table, _, _ = decide(both, threshold=0.3)
    other = decisions(SECOND)
    # Nothing of what was generated.
    same = ["clip_id", "split", "action", "predicted_action", "score_real", "keep_real"]
    pd.testing.assert_frame_equal(table[same], other[same])
    assert (table.score != other.score).mean() > 0.9
    assert (table.keep != other.keep).any()
    assert list(table) == list(other)


# What the classifier makes of it

GENERATED = {"train_audio": "generated", "test_audio": "generated"}
REAL = {"train_audio": "real", "test_audio": "real"}
MAPPED = {"train_audio": "mapped", "test_audio": "mapped"}
CONDITIONS = {
    "generated": condition_keys(**GENERATED),
    "validated": condition_keys(**GENERATED, gate="keep"),
    "validated_real": condition_keys(**REAL, gate="keep_real"),
    "published": condition_keys(**GENERATED, gate="keep_published", kept_only=True),
    "mapped": condition_keys(**MAPPED),
    "mapped_validated": condition_keys(**MAPPED, gate="keep"),
}


def train(name: str) -> predictions.Predictions:
    classifier.main(stage_run.StageRun("classifier", name, 1))
    return predictions.read(name)


@pytest.fixture
def decided(data):
    data.set(classifier={"seeds": 2, "lstm": NETWORK, "conditions": CONDITIONS})
    data.table, _, _ = decide(data, threshold=0.2)
    return data


def test_what_was_generated_for_a_rejected_clip_does_not_matter(decided):
    before = {name: train(name).probabilities for name in ("generated", "validated")}
    assert 0.2 < decided.table.keep.mean() < 0.9
    for row in decided.rows:
        if row["action"] and not decided.table.keep[row["clip_id"]]:
            row["made"] = row["made"] + 5
    write_made(decided.rows)
    assert np.array_equal(train("validated").probabilities, before["validated"])
    assert not np.array_equal(train("generated").probabilities, before["generated"])


def test_what_was_generated_for_a_kept_clip_matters(decided):
    before = train("validated").probabilities
    chosen = next(
        row for row in decided.rows if row["split"] == "test" and decided.table.keep[row["clip_id"]]
    )
    chosen["made"] = chosen["made"] + 5
    write_made(decided.rows)
    after = train("validated")
    changed = (after.probabilities != before).any((0, 2))
    assert after.clips.clip_id[changed].tolist() == [chosen["clip_id"]]


def test_real_sound_that_the_filter_rejects_does_not_matter(decided):
    before = train("validated_real").probabilities
    for row in decided.rows:
        if row["action"] and not decided.table.keep_real[row["clip_id"]]:
            row["audio"] = row["audio"] + 5
    synthetic.write_data(decided.rows)
    assert np.array_equal(train("validated_real").probabilities, before)


def test_kept_only_leaves_rejected_clips_out_of_training_and_scoring(decided):
    # by hand, so that every split keeps some of every action
    kept = {row["clip_id"]: i % 3 > 0 for i, row in enumerate(decided.rows)}
    decided.table["keep_published"] = decided.table.clip_id.map(kept)
    decided.table.to_parquet("data/filter/semantic_validation.parquet", index=False)
    made = train("published")
    answered = [
        row["clip_id"]
        for row in decided.rows
        if row["split"] in ("validation", "test") and kept[row["clip_id"]]
    ]
    assert set(made.clips.clip_id) == set(answered)
    metrics = json.loads(Path("metrics/classifier/published.json").read_text())
    for split in ("training", "validation", "test"):
        assert metrics["clips"][split] == sum(
            kept[row["clip_id"]] for row in decided.rows if row["split"] == split
        )
    for row in decided.rows:
        if not kept[row["clip_id"]]:
            row["rgb"], row["made"] = row["rgb"] + 3, row["made"] + 3
    synthetic.write_data(decided.rows)
    write_made(decided.rows)
    assert np.array_equal(train("published").probabilities, made.probabilities)


def test_seed_s_hears_generator_s(decided):
    before = train("generated").probabilities
    for row in decided.rows:
        row["made"][1] += 5 * np.sin(np.arange(COMPONENTS))
    write_made(decided.rows)
    with scratch() as folder:
        made = ActionData(
            folder, params.load("classifier", classifier.ClassifierParams).conditions["generated"]
        )
        rows = made.clip_indices("test")
        by_name = {row["clip_id"]: row["made"] for row in decided.rows}
        for seed in (0, 1, 2):  # more seeds than generators begin again
            expected = np.stack(
                [by_name[name][seed % 2] for name in made.clips.clip_id.to_numpy()[rows]]
            )
            assert np.allclose(made.sounds["generated"].read(rows, seed)[0], expected, atol=1e-2)
    after = train("generated").probabilities
    assert not np.array_equal(after[1], before[1])


def test_a_filter_that_rejects_everything_leaves_the_token(decided):
    decide(decided, threshold=1.0)
    made = train("validated")
    assert np.isfinite(made.probabilities).all()
    for row in decided.rows:
        row["made"] = row["made"] + 5
    write_made(decided.rows)
    assert np.array_equal(train("validated").probabilities, made.probabilities)


def test_rejected_clips_are_read_as_without_audio(decided):
    with scratch() as folder:
        made = ActionData(
            folder, params.load("classifier", classifier.ClassifierParams).conditions["validated"]
        )
        rows = made.clip_indices("training", "test")
        audio, heard = made.sounds["generated"].read(rows, 0)
        assert heard.tolist() == decided.table.keep[made.clips.clip_id.to_numpy()[rows]].tolist()
        assert not audio[~heard].any()
        assert audio[heard].any()
        assert len(torch.unique(heard)) == 2


@pytest.fixture
def decided_on_both(both):
    both.set(classifier={"seeds": 1, "lstm": NETWORK, "conditions": CONDITIONS})
    both.tables = {}
    decide(both, threshold=0.3)
    for architecture in (FIRST, SECOND):
        both.tables[architecture] = decisions(architecture)
    assert all(0.1 < table.keep.mean() < 0.9 for table in both.tables.values())
    return both


@pytest.mark.slow
def test_mapped_rows_hear_architecture_2_and_the_others_architecture_1(decided_on_both):
    rows = ("generated", "validated", "mapped", "mapped_validated")
    before = {name: train(name).probabilities for name in rows}
    for architecture, made, changed in (
        (FIRST, "made", rows[:2]),
        (SECOND, "mapped", rows[2:]),
    ):
        write_made(
            [
                row | {made: row[made] + 5 * np.sin(np.arange(COMPONENTS))}
                for row in decided_on_both.rows
            ],
            architecture,
            made,
        )
        for name in rows:
            assert np.array_equal(train(name).probabilities, before[name]) == (
                name not in changed
            ), (architecture, name)
        write_made(decided_on_both.rows, architecture, made)


@pytest.mark.slow
def test_what_architecture_2_generated_for_a_clip_that_its_filter_rejects_does_not_matter(
    decided_on_both,
):
    before = {name: train(name).probabilities for name in ("mapped", "mapped_validated")}
    rejected = ~decided_on_both.tables[SECOND].keep
    assert (rejected != ~decided_on_both.tables[FIRST].keep).any()
    for row in decided_on_both.rows:
        if row["action"] and rejected[row["clip_id"]]:
            row["mapped"] = row["mapped"] + 5
    write_made(decided_on_both.rows, SECOND, "mapped")
    assert np.array_equal(train("mapped_validated").probabilities, before["mapped_validated"])
    assert not np.array_equal(train("mapped").probabilities, before["mapped"])
    chosen = next(
        row
        for row in decided_on_both.rows
        if row["split"] == "test" and not rejected[row["clip_id"]]
    )
    chosen["mapped"] = chosen["mapped"] + 5
    write_made(decided_on_both.rows, SECOND, "mapped")
    after = train("mapped_validated")
    assert after.clips.clip_id[
        (after.probabilities != before["mapped_validated"]).any((0, 2))
    ].tolist() == [chosen["clip_id"]]


@pytest.mark.slow
def test_each_gate_is_that_of_the_architecture_a_row_hears(decided_on_both):
    """A filter that now rejects everything silences the rows of its own architecture alone."""
    before = {name: train(name).probabilities for name in ("validated", "mapped_validated")}
    for architecture, silenced in ((FIRST, "validated"), (SECOND, "mapped_validated")):
        path = layout.decisions(architecture)
        table = pd.read_parquet(path)
        table.assign(keep=False).to_parquet(path, index=False)
        for name in before:
            assert np.array_equal(train(name).probabilities, before[name]) == (name != silenced), (
                path,
                name,
            )
        table.to_parquet(path, index=False)
