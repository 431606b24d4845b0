"""Audio features of labels: against loops over the clips; folds, borrowing, figures."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from sklearn.linear_model import Ridge
from sklearn.metrics.pairwise import cosine_similarity

from audio_from_video.audioset.labels import load_labels
from audio_from_video.backbones.text import embed
from audio_from_video.clipset import folds
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import label_audio
from stages.label_audio import (
    Moments,
    Part,
    Thresholds,
    borrow,
    from_clips,
    mean_pairwise_cosine,
)
from tests.support import synthetic
from tests.support.published_records import write_records
from tests.support.synthetic import COMPONENTS, LABELS

FOLDS, MIN_SCORE, MIN_EVIDENCE, NEIGHBOURS = 3, 0.2, 2.0, 2
SECTION = {
    "source": "clips",
    "min_score": MIN_SCORE,
    "min_evidence": MIN_EVIDENCE,
    "neighbours": NEIGHBOURS,
    "audioset_root": "",
    "ridge_penalty": 2.0,
}
NAMES = [label.display_name for label in load_labels()[:LABELS]]
RARE, ONE_FOLD, SILENT = (
    3,
    7,
    9,
)  # labels with too little evidence, with evidence in the clips of fold 1 alone, and with none
RNG = np.random.default_rng(0)


@pytest.fixture
def data(workspace, bert, monkeypatch):
    """Clips whose scores leave some labels without evidence; `rows` as written, `fold` by id."""
    monkeypatch.setattr(label_audio, "LABELS", load_labels()[:LABELS])
    workspace.set(label_audio=SECTION | {"model": bert}, generator={"folds": FOLDS})
    workspace.rows = synthetic.make_clips()
    workspace.fold = dict(zip(*fold_of(workspace.rows), strict=True))
    for row in workspace.rows:
        row["label_scores"][[RARE, SILENT]] = 0.004, MIN_SCORE - 0.01
        row["label_scores"][ONE_FOLD] = 0.9 if workspace.fold[row["clip_id"]] == 1 else 0.1
    workspace.rows[0]["label_scores"][RARE] = 0.9
    synthetic.write_data(workspace.rows)
    return workspace


def fold_of(rows: list[dict]) -> tuple[list[str], np.ndarray]:
    table = pd.DataFrame(rows)[["clip_id", "split", "source_id"]]
    return table.clip_id.tolist(), folds.of_clips(table, FOLDS)


def make() -> dict:
    label_audio.main(stage_run.StageRun("label_audio", "", 1))
    return json.loads(Path("metrics/label_audio.json").read_text())


def features() -> dict[str, np.ndarray]:
    return load_file("data/label_audio/features.safetensors")


def outputs() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("data/label_audio").iterdir()}


def stored(row: dict) -> tuple[np.ndarray, np.ndarray]:
    """A clip's mean feature and label scores as data/audio_features has them."""
    return np.float64(np.float16(row["audio"])).mean(0), np.float64(np.float16(row["label_scores"]))


def by_loop(data, left_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prototypes [L, A] (NaN without evidence), evidence [L] and mean [A], clip by clip."""
    used = [
        stored(row)
        for row in data.rows
        if row["audible"]
        and row["split"] in ("training", "unlabelled")
        and data.fold[row["clip_id"]] != left_out
    ]
    mean = np.mean([feature for feature, _ in used], axis=0)
    result, evidence = np.full((LABELS, COMPONENTS), np.nan), np.zeros(LABELS)
    for label in range(LABELS):
        heard = [(feature, scores[label]) for feature, scores in used if scores[label] >= MIN_SCORE]
        evidence[label] = sum(score for _, score in heard)
        if evidence[label] >= MIN_EVIDENCE:
            result[label] = (
                sum(score * feature for feature, score in heard) / evidence[label] - mean
            )
    return result, evidence, mean


def fill_in(prototypes: np.ndarray, bert: str) -> tuple[np.ndarray, dict[int, list[int]]]:
    """Borrowed features in the place of NaN, and from whom, by a loop."""
    vectors = embed(bert, NAMES)
    known = [label for label in range(LABELS) if not np.isnan(prototypes[label, 0])]
    result, lenders = prototypes.copy(), {}
    for label in set(range(LABELS)) - set(known):
        cosines = {other: float(vectors[label] @ vectors[other]) for other in known}
        near = [
            other
            for other in sorted(known, key=lambda other: -cosines[other])[:NEIGHBOURS]
            if cosines[other] > 0
        ]
        result[label] = (
            np.average(prototypes[near], axis=0, weights=[cosines[other] for other in near])
            if near
            else 0
        )
        lenders[label] = near
    return result, lenders


# The prototypes


@pytest.mark.parametrize("left_out", [label_audio.WHOLE, 0, 1, 2])
def test_equal_a_loop_over_labels_and_clips(data, bert, left_out):
    make()
    found = features()
    assert found["whole"].shape == (LABELS, COMPONENTS) and found["folds"].shape == (
        FOLDS,
        LABELS,
        COMPONENTS,
    )
    assert {values.dtype for values in found.values()} == {np.dtype("float32")}
    own, evidence, _ = by_loop(data, left_out)
    missing = {RARE, SILENT} | ({ONE_FOLD} if left_out == 1 else set())
    assert set(np.flatnonzero(np.isnan(own[:, 0]))) == missing
    part = found["whole"] if left_out == label_audio.WHOLE else found["folds"][left_out]
    np.testing.assert_allclose(part, fill_in(own, bert)[0], rtol=1e-5, atol=1e-6)
    if left_out == label_audio.WHOLE:
        assert pq.read_table("data/label_audio/labels.parquet")[
            "evidence"
        ].to_numpy() == pytest.approx(evidence, rel=1e-6)


def test_the_table_says_which_labels_borrow_and_from_whom(data, bert):
    make()
    table = pq.read_table("data/label_audio/labels.parquet")
    assert dict(zip(table.schema.names, table.schema.types, strict=True)) == {
        "label": pa.string(),
        "mid": pa.string(),
        "evidence": pa.float32(),
        "borrowed": pa.bool_(),
        "neighbours": pa.list_(pa.string()),
    }
    rows = table.to_pylist()
    assert [(row["label"], row["mid"]) for row in rows] == [
        (label.display_name, label.mid) for label in load_labels()[:LABELS]
    ]
    assert {i for i, row in enumerate(rows) if row["borrowed"]} == {RARE, SILENT}
    assert rows[RARE]["evidence"] == pytest.approx(0.9, abs=1e-3) and rows[SILENT]["evidence"] == 0
    lenders = fill_in(by_loop(data, label_audio.WHOLE)[0], bert)[1]
    assert {i: row["neighbours"] for i, row in enumerate(rows) if row["neighbours"]} == {
        label: [NAMES[other] for other in near] for label, near in lenders.items() if near
    }


def test_borrowing_by_hand():
    own = np.array([[1.0, 0], [0, 2], [4, 4], [0, 0], [0, 0]])
    part = Part(
        own, np.array([5, 5, 5, 1, 0]), np.array([True, True, True, False, False]), np.zeros(2)
    )
    similarity = np.eye(5, dtype=np.float32)
    similarity[3] = 0.6, 0.2, 0.1, 1, 0.9  # the closest label of all has no evidence itself
    similarity[4] = -0.5, -0.1, -0.2, 0.9, 1
    found, lenders = borrow(part, similarity, 2)
    np.testing.assert_allclose(found[3], (0.6 * own[0] + 0.2 * own[1]) / 0.8, rtol=1e-6)
    np.testing.assert_array_equal(found[4], 0)
    np.testing.assert_array_equal(found[:3], own[:3])
    assert lenders == [[], [], [], [0, 1], []]
    assert borrow(part, similarity, 500)[1][3] == [0, 1, 2]


def test_a_part_never_touches_the_sums_of_its_fold():
    sums = [
        RNG.random((FOLDS, *shape))
        for shape in ((), (COMPONENTS,), (LABELS,), (LABELS, COMPONENTS))
    ]
    at_least = Thresholds(score=MIN_SCORE, evidence=0.1, audioset_clips=0.1)
    before = from_clips(Moments(*sums), 1, at_least)
    for values in sums:
        values[1] = np.nan
    assert all(
        np.array_equal(first, second)
        for first, second in zip(before, from_clips(Moments(*sums), 1, at_least), strict=True)
    )


# What knows what


def test_a_clip_changes_no_byte_of_what_its_own_fold_gets(data):
    make()
    before = features()
    row = next(
        row
        for row in data.rows
        if row["split"] == "training" and row["audible"] and data.fold[row["clip_id"]] == 2
    )
    row["audio"], row["label_scores"] = -3 * row["audio"], row["label_scores"][::-1].copy()
    synthetic.write_data(data.rows)
    make()
    after = features()
    assert after["folds"][2].tobytes() == before["folds"][2].tobytes()
    for k in (0, 1):
        assert (after["folds"][k] != before["folds"][k]).any()
    assert (after["whole"] != before["whole"]).any()


def test_validation_and_test_clips_change_metrics_alone(data):
    metrics, before = make(), outputs()
    for row in data.rows:
        if row["split"] in ("validation", "test"):
            row["audio"] = row["audio"] + RNG.normal(size=row["audio"].shape)
            row["label_scores"] = RNG.random(LABELS)
    synthetic.write_data(data.rows)
    changed = make()
    assert outputs() == before
    assert {key for key in metrics if metrics[key] != changed[key]} == {"prediction_cosine"}


def test_actions_do_not_matter(data):
    make()
    before = features()
    for row in data.rows:
        row["action"] = None if row["action"] is None else synthetic.ACTIONS[2]
    synthetic.write_data(data.rows)
    make()
    for (
        name,
        values,
    ) in (
        features().items()
    ):  # the clips come in another order, and with it the last bits of their sums
        np.testing.assert_allclose(values, before[name], rtol=1e-4, atol=1e-6)


def test_folds_are_those_of_the_clips_with_both_video_features(data):
    """A clip without flow features is none of the generator's: it may not shift the folds."""
    rows = sorted(data.rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    lost = {
        row["source_id"]
        for row in rows
        if row["split"] == "training" and row["action"] == synthetic.ACTIONS[1]
    }
    index = [row if row["source_id"] not in lost else row | {"status": "failed"} for row in rows]
    kept = [row | {"features": row["flow"]} for row in rows if row["source_id"] not in lost]
    shape = shards.tensor_shape(Path("data/video_features/flow"), "features")
    shards.write(
        Path("data/video_features/flow"),
        pa.schema([("features", shards.tensor(pa.float16(), *shape))]),
        kept,
        index,
        "v",
    )
    make()
    data.rows = [row for row in data.rows if row["source_id"] not in lost]
    data.fold = dict(zip(*fold_of(data.rows), strict=True))
    for k in range(FOLDS):
        own, _, _ = by_loop(data, k)
        known = ~np.isnan(own[:, 0])
        np.testing.assert_allclose(features()["folds"][k][known], own[known], rtol=1e-5, atol=1e-6)


def test_a_second_run_gives_equal_bytes(data):
    metrics, before = make(), outputs()
    (Path("data/label_audio") / "left over").touch()
    assert (
        make() == metrics
        and outputs() == before
        and set(before) == {"features.safetensors", "labels.parquet"}
    )
    assert not list(Path("data").glob(".*"))


# Thresholds from the audio model's scores


def cut_by_loop(data) -> float:
    """The score that as many scores of audible training clips reach as two labels a clip are."""
    scores = [stored(row)[1] for row in data.rows if row["audible"] and row["split"] == "training"]
    return sorted(np.concatenate(scores), reverse=True)[2 * len(scores) - 1]


def test_auto_needs_what_three_clips_give_that_just_count(data):
    data.set(label_audio={"min_score": "auto", "min_evidence": "auto"})
    cut = cut_by_loop(data)
    assert make()["thresholds"] == {
        "score": pytest.approx(cut, abs=1e-6),
        "evidence": pytest.approx(3 * cut, abs=1e-6),
        "audioset_clips": 3.0,
    }
    learned = [row for row in data.rows if row["audible"] and row["split"] in label_audio.LEARNED]
    scores = np.stack([stored(row)[1] for row in learned])
    evidence = np.where(scores >= cut - 1e-6, scores, 0).sum(0)
    table = pq.read_table("data/label_audio/labels.parquet").to_pydict()
    assert table["evidence"] == pytest.approx(evidence, rel=1e-5)
    assert table["borrowed"] == (evidence < 3 * cut).tolist()
    assert 0 < sum(table["borrowed"]) < LABELS


def test_auto_does_not_depend_on_the_scale_of_scores(data):
    """Cosines of CLAP are a hundredth of what an AST gives: the same labels have evidence."""
    data.set(label_audio={"min_score": "auto", "min_evidence": "auto"})
    first = make()
    labels = pq.read_table("data/label_audio/labels.parquet").to_pydict()
    for row in data.rows:
        row["label_scores"] = row["label_scores"] / 128
    synthetic.write_data(data.rows)
    second = make()
    small = pq.read_table("data/label_audio/labels.parquet").to_pydict()
    assert small["borrowed"] == labels["borrowed"]
    assert second["thresholds"]["evidence"] == pytest.approx(
        first["thresholds"]["evidence"] / 128, abs=1e-6
    )


def test_auto_is_halved_where_one_fold_has_the_highest_scores(data, capsys):
    data.set(label_audio={"min_score": "auto", "min_evidence": "auto"})
    for row in data.rows:
        row["label_scores"] = np.full(LABELS, 0.75 if data.fold[row["clip_id"]] == 1 else 0.2)
    synthetic.write_data(data.rows)
    found = make()["thresholds"]
    assert found["score"] == pytest.approx(0.75 / 4, abs=1e-3)
    assert found["evidence"] == pytest.approx(3 * 0.75 / 4, abs=1e-3)
    told = capsys.readouterr().err
    assert "auto found was halved 2 times, to a score of 0.188 and an evidence of 0.562:" in told
    assert sum(pq.read_table("data/label_audio/labels.parquet")["borrowed"].to_pylist()) == 0


def test_what_is_told_of_a_halving_names_what_was_auto(data, capsys):
    """Halved once, for the clips outside fold 1 alone; the score is a number and stays."""
    data.set(label_audio={"min_score": 0.05, "min_evidence": "auto"})
    for row in data.rows:
        row["label_scores"] = np.full(LABELS, 0.96 if data.fold[row["clip_id"]] == 1 else 0.08)
    synthetic.write_data(data.rows)
    found = make()["thresholds"]
    assert found["score"] == 0.05
    assert found["evidence"] == pytest.approx(3 * 0.96 / 2, abs=1e-3)
    told = capsys.readouterr().err
    assert f"was halved once, to an evidence of {found['evidence']:.3g}: with more" in told


def test_numbers_as_set_are_no_metric(data):
    assert "thresholds" not in make()


def test_a_model_that_scores_nothing_is_one_sentence(data):
    """Its label cut is 0, which every label would reach."""
    data.set(label_audio={"min_score": "auto", "min_evidence": "auto"})
    for row in data.rows:
        row["label_scores"][:] = 0
    synthetic.write_data(data.rows)
    with pytest.raises(UserError, match="the audio model scores fewer than two above 0: name an"):
        make()


# The figures


def test_figures_by_brute_force(data):
    metrics = make()
    own, _, mean = by_loop(data, label_audio.WHOLE)
    known = ~np.isnan(own[:, 0])
    assert (metrics["labels"], metrics["with_evidence"], metrics["borrowed"]) == (LABELS, 10, 2)
    assert metrics["coverage"] == pytest.approx(10 / 12, abs=1e-6) and metrics["source"] == "clips"
    learned = [
        row for row in data.rows if row["audible"] and row["split"] in ("training", "unlabelled")
    ]
    assert metrics["clips"] == len(learned)
    pairs = np.triu_indices(10, 1)
    assert metrics["mean_pairwise_cosine"] == pytest.approx(
        cosine_similarity(own[known])[pairs].mean(), abs=1e-6
    )
    assert metrics["mean_pairwise_cosine_uncentred"] == pytest.approx(
        cosine_similarity(own[known] + mean)[pairs].mean(), abs=1e-6
    )


def test_prediction_cosine_by_brute_force(data):
    validation = [row for row in data.rows if row["split"] == "validation" and row["audible"]]
    for row in validation[:2]:
        row["label_scores"][:] = 0.29  # AST hears nothing in them
    synthetic.write_data(data.rows)
    found = make()["prediction_cosine"]
    mean = by_loop(data, label_audio.WHOLE)[2]
    whole, values = features()["whole"].astype(float), []
    for feature, scores in map(stored, validation[2:]):
        heard = [label for label in range(LABELS) if scores[label] >= 0.3]
        predicted = np.average(whole[heard], axis=0, weights=scores[heard])
        values.append(cosine_similarity([predicted], [feature - mean])[0, 0])
    assert found["mean"] == pytest.approx(np.mean(values), abs=1e-6)
    assert (found["n"], found["without_label"]) == (len(validation) - 2, 2)
    assert found["sources"] == len({row["source_id"] for row in validation[2:]})
    assert found["ci95_low"] < found["mean"] < found["ci95_high"]


def test_pairwise_cosine_at_the_limits():
    assert mean_pairwise_cosine(np.ones((1, 3))) is None
    assert mean_pairwise_cosine(np.eye(3)) == 0 and mean_pairwise_cosine(
        np.ones((4, 2))
    ) == pytest.approx(1)


# AudioSet's published features


@pytest.fixture
def audioset(data) -> dict[int, list[np.ndarray]]:
    """Records below a folder, and each label's clip means [128]; label 10 has one, 11 none."""
    data.set(label_audio={"source": "audioset", "audioset_root": "audioset"})
    centres = RNG.integers(60, 196, (LABELS, 128))
    clips, means = [], {label: [] for label in range(LABELS)}
    for i in range(40):
        labels = sorted({i % 10, (3 * i) % 10} | ({10} if i == 7 else set()))
        seconds = np.clip(
            centres[labels].mean(0) + RNG.integers(-40, 41, (2 + i % 3, 128)), 0, 255
        ).astype(np.uint8)
        clips.append((labels, seconds))
        for label in labels:
            means[label].append((seconds / 255 * 4 - 2 + 4 / 512).mean(0))
    Path("audioset/bal_train").mkdir(parents=True)
    write_records(Path("audioset/bal_train/00.tfrecord"), clips[:25])
    write_records(Path("audioset/01.tfrecord"), clips[25:])
    means["all"] = [(seconds / 255 * 4 - 2 + 4 / 512).mean(0) for _, seconds in clips]
    return means


def test_audioset_goes_through_a_ridge_map_part_by_part(data, audioset, bert):
    metrics = make()
    found = features()
    all_clips = audioset["all"]
    published = np.stack(
        [np.mean(audioset[label] or all_clips, axis=0) for label in range(LABELS)]
    ) - np.mean(all_clips, axis=0)
    heard = np.array([len(audioset[label]) >= MIN_EVIDENCE for label in range(LABELS)])
    assert heard.sum() == 10
    for part, left_out in zip(
        [found["whole"], *found["folds"]], [label_audio.WHOLE, 0, 1, 2], strict=True
    ):
        own, _, _ = by_loop(data, left_out)
        both = heard & ~np.isnan(own[:, 0])
        model = Ridge(alpha=2.0, fit_intercept=False).fit(published[both], own[both])
        mapped = np.where(heard[:, None], model.predict(published), np.nan)
        np.testing.assert_allclose(part, fill_in(mapped, bert)[0], rtol=1e-4, atol=1e-5)
    rows = pq.read_table("data/label_audio/labels.parquet").to_pylist()
    assert [row["borrowed"] for row in rows] == [False] * 10 + [True] * 2
    assert [row["evidence"] for row in rows] == [len(audioset[label]) for label in range(LABELS)]
    own, _, _ = by_loop(data, label_audio.WHOLE)
    both = np.flatnonzero(heard & ~np.isnan(own[:, 0]))
    left_out_cosines = []
    for label in both:
        rest = both[both != label]
        model = Ridge(alpha=2.0, fit_intercept=False).fit(published[rest], own[rest])
        left_out_cosines.append(
            cosine_similarity(model.predict(published[[label]]), own[[label]])[0, 0]
        )
    expected = pytest.approx(np.mean(left_out_cosines), abs=1e-6)
    assert metrics["audioset"] == {
        "clips": 40,
        "labels": len(both),
        "leave_one_out_cosine": expected,
    }
    assert metrics["source"] == "audioset" and metrics["with_evidence"] == 10


def test_audioset_knows_no_clip_of_the_fold_either(data, audioset):
    make()
    before = features()
    row = next(
        row
        for row in data.rows
        if row["split"] == "unlabelled" and row["audible"] and data.fold[row["clip_id"]] == 0
    )
    row["audio"] = -3 * row["audio"]
    synthetic.write_data(data.rows)
    make()
    assert features()["folds"][0].tobytes() == before["folds"][0].tobytes()
    assert (features()["folds"][1] != before["folds"][1]).any()


def test_audioset_without_a_shared_label_is_one_sentence(data, audioset):
    for row in data.rows:
        row["label_scores"][:10] = 0
        row["label_scores"][10:] = 0.9
    synthetic.write_data(data.rows)
    with pytest.raises(
        UserError,
        match=r"no label has evidence in both the clips \(2 have\) and AudioSet's files \(10\)",
    ):
        make()


# What a user can mend


def test_no_evidence_is_one_sentence(data):
    data.set(label_audio={"min_evidence": 1000.0})
    with pytest.raises(
        UserError,
        match=r"no label has evidence in the \d+ audible training clips: .*min_score.*min_evidence",
    ):
        make()
    for row in data.rows:
        row["label_scores"] = np.where(data.fold[row["clip_id"]] == 1, row["label_scores"], 0)
    synthetic.write_data(data.rows)
    data.set(label_audio={"min_evidence": MIN_EVIDENCE})
    with pytest.raises(UserError, match="outside fold 1"):
        make()
    assert not Path("data/label_audio").exists()


def test_another_number_of_labels_is_one_sentence(data, monkeypatch):
    monkeypatch.setattr(label_audio, "LABELS", load_labels())
    with pytest.raises(UserError, match="gives 12 label scores, not AudioSet's 527"):
        make()


def test_no_audible_clip_is_one_sentence(data):
    synthetic.write_data([row | {"audible": False} for row in data.rows])
    with pytest.raises(UserError, match="audio_features holds no clip"):
        make()
