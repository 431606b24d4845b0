"""From features to decisions and answers, all stages of architecture 1 in a row: nothing leaks from test labels, from a clip's
own sound or from the truth of rendered clips."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from audio_from_video.backbones.audio import AudioBackbone
from audio_from_video.clipset import folds
from audio_from_video.runtime import stage_run
from audio_from_video.storage import predictions, shards
from stages import classifier, filter, generator, label_predictor
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.synthetic import ACTIONS, NETWORK, STEPS
from tests.support.tiny_backbones import write_ast

GENERATED = {"train_audio": "generated", "test_audio": "generated"}
REAL = {"train_audio": "real", "test_audio": "real"}
CONDITIONS = {
    "video_only": condition_keys(out_of_fold=2),
    "logistic": condition_keys(model="logistic"),
    "generated": condition_keys(**GENERATED),
    "validated": condition_keys(**GENERATED, gate="keep"),
    "validated_real": condition_keys(**REAL, gate="keep_real"),
    "real_audio": condition_keys(**REAL),
}
HONEST = [
    "score",
    "keep",
    "score_real",
    "keep_real",
    "predicted_action",
]  # columns of data/filter/semantic_validation.parquet that know no test label


@pytest.fixture(scope="module")
def ast_model(tmp_path_factory) -> Path:
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def pipeline(workspace, ast_model, in_process):
    backbone = AudioBackbone(str(ast_model))

    def head(pooled: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return (
                backbone.model.classifier(torch.tensor(pooled, dtype=torch.float32))
                .sigmoid()
                .numpy()
            )

    workspace.rows = synthetic.make_clips(head=head)
    synthetic.write_data(workspace.rows)
    synthetic.write_dictionary(seed=1)
    workspace.set(
        frames={"count": STEPS},
        audio_features={"model": str(ast_model)},
        label_predictor={"decoder": {"hidden": 16, "epochs": 2}},
        generator={
            "seeds": 2,
            "folds": 2,
            "lstm": NETWORK,
            "architectures": {"caption_mapping": None},
        },
        classifier={"seeds": 2, "lstm": NETWORK, "conditions": CONDITIONS},
        filter={"labels": 3, "entry_size": 2, "threshold": "auto", "calibration": "none"},
    )
    return workspace


def run_all() -> None:
    """The stages in the order of dvc.yaml."""
    for name in ("video_only", "logistic", "real_audio"):
        classifier.main(stage_run.StageRun("classifier", name, 1))
    generator.main(stage_run.StageRun("generator", "semantic_validation", 1))
    label_predictor.main(stage_run.StageRun("label_predictor", None, 1))
    classifier.main(stage_run.StageRun("classifier", "generated", 1))
    filter.main(stage_run.StageRun("filter", None, 1))
    for name in ("validated", "validated_real"):
        classifier.main(stage_run.StageRun("classifier", name, 1))


def decisions() -> pd.DataFrame:
    return (
        pd.read_parquet("data/filter/semantic_validation.parquet").set_index("clip_id").sort_index()
    )


def labels() -> dict[str, bytes]:
    found = shards.read_columns(Path("data/predicted_labels/semantic_validation"), ["generated"])
    return {
        name: scores.tobytes()
        for name, scores in zip(found["clip_id"], found["generated"], strict=True)
    }


def answers(condition: str) -> pd.DataFrame:
    """Probabilities of all seeds by clip."""
    found = predictions.read(condition)
    return pd.DataFrame(
        np.concatenate(list(found.probabilities), axis=1), index=found.clips.clip_id
    ).sort_index()


def threshold() -> float:
    return json.loads(Path("metrics/filter.json").read_text())["threshold"]


@pytest.mark.parametrize("calibration", ["none", "action"])
def test_labels_of_test_clips_change_nothing_but_metrics_and_what_is_called_leaky(
    pipeline, calibration
):
    pipeline.set(filter={"calibration": calibration})
    run_all()
    before = (
        synthetic.generated_bytes(),
        labels(),
        threshold(),
        decisions(),
        {name: answers(name) for name in CONDITIONS},
    )
    accuracy = json.loads(Path("metrics/classifier/video_only.json").read_text())["accuracy"][
        "mean"
    ]
    for row in (
        pipeline.rows
    ):  # each test clip's label becomes the next one; the folders and the order change with them
        if row["split"] == "test":
            row["action"] = ACTIONS[(ACTIONS.index(row["action"]) + 1) % len(ACTIONS)]
    synthetic.write_data(pipeline.rows)
    run_all()
    assert synthetic.generated_bytes() == before[0]
    assert labels() == before[1]
    assert threshold() == before[2]
    table = decisions()
    pd.testing.assert_frame_equal(table[HONEST], before[3][HONEST])
    assert table.score.nunique() > 10  # the scores that stayed the same tell clips apart
    test = table.split == "test"
    assert (
        table.score_oracle[test] != before[3].score_oracle[test]
    ).any()  # what is leaky does change
    assert (table.score_published[test] != before[3].score_published[test]).any()
    pd.testing.assert_frame_equal(table[~test], before[3][~test])
    for name in CONDITIONS:
        pd.testing.assert_frame_equal(answers(name), before[4][name])
    assert (
        json.loads(Path("metrics/classifier/video_only.json").read_text())["accuracy"]["mean"]
        != accuracy
    )


def test_a_training_clips_own_sound_does_not_come_back_to_it(pipeline):
    """Neither its generated features nor its predicted action know it; the test clips' features, from all clips, do."""
    run_all()
    before, table = synthetic.generated_bytes(), decisions()
    row = [row for row in pipeline.rows if row["split"] == "training" and row["audible"]][4]
    row["audio"] = -2 * row["audio"]
    synthetic.write_data(pipeline.rows)
    run_all()
    after, changed = synthetic.generated_bytes(), decisions()
    assert after[row["clip_id"]] == before[row["clip_id"]]
    test = [other["clip_id"] for other in pipeline.rows if other["split"] == "test"]
    assert all(after[name] != before[name] for name in test)
    assert (changed.predicted_action == table.predicted_action).all()


def test_the_truth_of_rendered_clips_changes_metrics_alone(pipeline):
    def outputs() -> dict[Path, bytes]:
        return {
            path: path.read_bytes()
            for folder in ("data", "models", "metrics")
            for path in Path(folder).rglob("*.*")
            if path.is_file()
        }

    run_all()
    before = outputs()
    synthetic.write_data(pipeline.rows, truth=False)
    run_all()
    after = outputs()
    changed = {str(path) for path in before | after if before.get(path) != after.get(path)}
    assert changed == {"data/truth.parquet", "metrics/filter.json"} and len(before) > 50
    with_truth, without = (
        json.loads(found[Path("metrics/filter.json")]) for found in (before, after)
    )
    assert with_truth.keys() - without.keys() == {
        *("auroc", "auroc_within_action", "auroc_oracle", "auroc_real", "auroc_real_within_action"),
        *("generated_sounds_right", "kept_sounds_right"),
    }
    assert without.items() <= with_truth.items()


def test_unlabelled_clips_reach_no_classifier(pipeline):
    for name in ("video_only", "real_audio"):
        classifier.main(stage_run.StageRun("classifier", name, 1))
    before = {name: answers(name) for name in ("video_only", "real_audio")}
    for row in pipeline.rows:
        if row["split"] == "unlabelled":
            row["rgb"], row["audio"] = row["rgb"] + 3, row["audio"] + 3
    synthetic.write_data(pipeline.rows)
    for name, found in before.items():
        classifier.main(stage_run.StageRun("classifier", name, 1))
        pd.testing.assert_frame_equal(answers(name), found)
        assert not found.index.str.contains("unlabelled").any()


def test_a_training_clips_own_label_does_not_come_back_to_it(pipeline):
    """`video_only` out of fold: another label of a training clip changes no answer to the clips of its fold."""
    classifier.main(stage_run.StageRun("classifier", "video_only", 1))
    before = answers("video_only")
    row = [
        row for row in pipeline.rows if row["split"] == "training" and row["action"] == ACTIONS[0]
    ][-1]
    row["action"] = ACTIONS[
        1
    ]  # the last of one action becomes the first of the next: the order of the clips is as before
    synthetic.write_data(pipeline.rows)
    classifier.main(stage_run.StageRun("classifier", "video_only", 1))
    training = pd.DataFrame(
        [row for row in pipeline.rows if row["split"] == "training"]
    )  # no unlabelled clip reaches a classifier
    fold = dict(zip(training.clip_id, folds.of_clips(training, 2), strict=True))
    same = {name for name, number in fold.items() if number == fold[row["clip_id"]]}
    unchanged = (answers("video_only") == before).all(axis=1)
    assert row["clip_id"] in same and set(unchanged.index[unchanged]) == same


def test_an_action_that_nobody_hears_runs_to_the_decisions(pipeline):
    """Its clips get generated sound from what was learned of the others, and a decision; its real sound has none."""
    silent = ACTIONS[0]
    for row in pipeline.rows:
        row["audible"] = row["audible"] and row["action"] != silent
    synthetic.write_data(pipeline.rows)
    run_all()
    table = decisions()
    own = table[table.action == silent]
    assert (
        len(own) == sum(row["action"] == silent for row in pipeline.rows)
        and np.isfinite(own.score).all()
    )
    assert own.score_real.isna().all() and not own.keep_real.any() and table.keep_real.any()
    measured = json.loads(Path("metrics/generator/semantic_validation.json").read_text())["test"][
        "generated"
    ]["centred_cosine"]
    assert measured["n"] == sum(row["audible"] for row in pipeline.rows if row["split"] == "test")
