"""From features to decisions and answers, all stages of architecture 1 in a row.

Nothing leaks from test labels, from a clip's own sound or from the truth of rendered clips.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from audio_from_video.backbones.audio_ast import AstBackbone
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
    "logistic": condition_keys(model="logistic", out_of_fold=2, answers_pool=True),
    "logistic_real": condition_keys(model="logistic", **REAL, out_of_fold=2, answers_pool=True),
    "svm_generated": condition_keys(
        model="svm", **GENERATED, fusion={"audio_scale": "reliability", "components": 3}
    ),
    "trusted": condition_keys(**GENERATED, fusion={"audio_scale": "confidence"}),
    "generated_late": condition_keys(**GENERATED, fusion={"how": "late"}),
    "distilled": condition_keys(
        **GENERATED,
        teaching="hard",
        teacher_seeds="ensemble",
        teacher_predictions="data/predictions/logistic_real.parquet",
    ),
    "generated": condition_keys(**GENERATED),
    "validated": condition_keys(**GENERATED, gate="keep"),
    "validated_real": condition_keys(**REAL, gate="keep_real"),
    "real_audio": condition_keys(**REAL),
}
# Where the filter's scores come from.
BY_MEANING = {"score": "meaning", "calibration": "none"}
BY_PERCENTILE = {"score": "meaning", "calibration": "action"}
BY_CONFIDENCE = {"score": "confidence", "calibration": "none"}
# Columns of data/filter/semantic_validation.parquet that know no test label.
HONEST = ["score", "keep", "score_real", "keep_real", "predicted_action"]


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ast_model(tmp_path_factory) -> Path:
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def pipeline(workspace, ast_model, in_process):
    backbone = AstBackbone(str(ast_model))

    def head(pooled: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = backbone.model.classifier(torch.tensor(pooled, dtype=torch.float32))
            return logits.sigmoid().numpy()

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
            "repeats": 1,
            "lstm": NETWORK
            | {"schedule": "cosine", "contrastive_weight": 0.1, "variance": "predicted"},
            "architectures": {"caption_mapping": None},
        },
        classifier={"seeds": 2, "lstm": NETWORK, "conditions": CONDITIONS},
        filter={"labels": 3, "entry_size": 2, "threshold": "auto"} | BY_MEANING,
    )
    return workspace


def run_all() -> None:
    """Run the stages in the order of dvc.yaml."""
    for name in ("video_only", "logistic", "logistic_real", "real_audio"):
        classifier.main(stage_run.StageRun("classifier", name, 1))
    generator.main(stage_run.StageRun("generator", "semantic_validation", 1))
    label_predictor.main(stage_run.StageRun("label_predictor", None, 1))
    for name in ("generated", "trusted", "generated_late", "svm_generated", "distilled"):
        classifier.main(stage_run.StageRun("classifier", name, 1))
    filter.main(stage_run.StageRun("filter", None, 1))
    for name in ("validated", "validated_real"):
        classifier.main(stage_run.StageRun("classifier", name, 1))


def decisions() -> pd.DataFrame:
    table = pd.read_parquet("data/filter/semantic_validation.parquet")
    return table.set_index("clip_id").sort_index()


def labels() -> dict[str, bytes]:
    columns = shards.read_columns(Path("data/predicted_labels/semantic_validation"), ["generated"])
    pairs = zip(columns["clip_id"], columns["generated"], strict=True)
    return {clip_id: scores.tobytes() for clip_id, scores in pairs}


def answers(condition: str) -> pd.DataFrame:
    """Return a condition's probabilities, of all seeds side by side, by clip."""
    stored = predictions.read(condition)
    probabilities = np.concatenate(list(stored.probabilities), axis=1)
    return pd.DataFrame(probabilities, index=stored.clips.clip_id).sort_index()


def metrics(name: str) -> dict:
    return json.loads(Path(f"metrics/{name}.json").read_text())


def threshold() -> float:
    return metrics("filter")["semantic_validation"]["threshold"]


def chosen() -> dict:
    """Return what was chosen: settings of heads and maps, repetitions, shares, epochs."""
    found = {
        "generator": metrics("generator/semantic_validation")["trainings"],
        "epochs": Path("metrics/plots/generator/semantic_validation.csv").read_text(),
        "ridge": metrics("generator/semantic_validation")["ridge_penalty"],
        "map": metrics("label_predictor")["map"],
    }
    for name in CONDITIONS:
        of_condition = metrics(f"classifier/{name}")
        found[name] = [of_condition.get("setting"), of_condition.get("trainings")]
    for seed in range(2):
        weights = load_file(f"models/classifier/generated_late/seed-{seed}.safetensors")
        found[f"share {seed}"] = weights["audio_share"].item()
    return found


def accuracy() -> float:
    return metrics("classifier/video_only")["accuracy"]["mean"]


@pytest.mark.parametrize("scored", [BY_MEANING, BY_PERCENTILE, BY_CONFIDENCE])
def test_labels_of_test_clips_change_nothing_but_metrics_and_what_is_called_leaky(pipeline, scored):
    pipeline.set(filter=scored)
    run_all()
    generated_before = synthetic.generated_bytes()
    labels_before = labels()
    threshold_before = threshold()
    before = decisions()
    answers_before = {name: answers(name) for name in CONDITIONS}
    chosen_before = chosen()
    accuracy_before = accuracy()

    # Each test clip's label becomes the next one; the folders and the order change with them.
    for row in pipeline.rows:
        if row["split"] == "test":
            row["action"] = ACTIONS[(ACTIONS.index(row["action"]) + 1) % len(ACTIONS)]
    synthetic.write_data(pipeline.rows)
    run_all()

    assert synthetic.generated_bytes() == generated_before
    assert labels() == labels_before
    assert threshold() == threshold_before
    assert chosen() == chosen_before
    table = decisions()
    pd.testing.assert_frame_equal(table[HONEST], before[HONEST])
    assert table.score.nunique() > 10  # the scores that stayed the same tell clips apart
    test = table.split == "test"
    # What is leaky does change; confidence knows no action.
    if scored != BY_CONFIDENCE:
        assert (table.score_oracle[test] != before.score_oracle[test]).any()
    assert (table.score_published[test] != before.score_published[test]).any()
    pd.testing.assert_frame_equal(table[~test], before[~test])
    for name in CONDITIONS:
        pd.testing.assert_frame_equal(answers(name), answers_before[name])
    assert accuracy() != accuracy_before


def test_a_training_clips_own_sound_does_not_come_back_to_it(pipeline):
    """Neither its generated features nor its predicted action know it.

    The features of test clips come from all clips, and so they do know it.
    """
    run_all()
    before = synthetic.generated_bytes()
    table = decisions()
    row = [row for row in pipeline.rows if row["split"] == "training" and row["audible"]][4]
    row["audio"] = -2 * row["audio"]
    synthetic.write_data(pipeline.rows)
    run_all()
    after = synthetic.generated_bytes()
    assert after[row["clip_id"]] == before[row["clip_id"]]
    test = [other["clip_id"] for other in pipeline.rows if other["split"] == "test"]
    assert all(after[name] != before[name] for name in test)
    assert (decisions().predicted_action == table.predicted_action).all()


def test_the_sound_of_test_clips_chooses_nothing(pipeline):
    """No generator or setting, no threshold; what hears them at test answers otherwise."""
    run_all()
    chosen_before = chosen()
    threshold_before = threshold()
    generated_before = synthetic.generated_bytes()
    without_sound = [name for name, keys in CONDITIONS.items() if keys["test_audio"] != "real"]
    answers_before = {name: answers(name) for name in CONDITIONS}

    for row in pipeline.rows:
        if row["split"] == "test":
            row["audio"] = -row["audio"]
    synthetic.write_data(pipeline.rows)
    run_all()

    assert chosen() == chosen_before
    assert threshold() == threshold_before
    assert synthetic.generated_bytes() == generated_before
    for name in without_sound:
        pd.testing.assert_frame_equal(answers(name), answers_before[name])
    assert not answers("real_audio").equals(answers_before["real_audio"])


def test_the_truth_of_rendered_clips_changes_metrics_alone(pipeline):
    def outputs() -> dict[Path, bytes]:
        paths = [path for name in ("data", "models", "metrics") for path in Path(name).rglob("*.*")]
        return {path: path.read_bytes() for path in paths if path.is_file()}

    run_all()
    before = outputs()
    synthetic.write_data(pipeline.rows, truth=False)
    run_all()
    after = outputs()
    changed = {str(path) for path in before | after if before.get(path) != after.get(path)}
    assert changed == {"data/truth.parquet", "metrics/filter.json"}
    assert len(before) > 50
    with_truth = json.loads(before[Path("metrics/filter.json")])["semantic_validation"]
    without = json.loads(after[Path("metrics/filter.json")])["semantic_validation"]
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
            row["rgb"] = row["rgb"] + 3
            row["audio"] = row["audio"] + 3
    synthetic.write_data(pipeline.rows)
    for name, table in before.items():
        classifier.main(stage_run.StageRun("classifier", name, 1))
        pd.testing.assert_frame_equal(answers(name), table)
        assert not table.index.str.contains("unlabelled").any()


@pytest.mark.parametrize("condition", ["video_only", "logistic"])
def test_a_training_clips_own_label_does_not_come_back_to_it(pipeline, condition):
    """Out of fold, another label of a training clip changes no answer to the clips of its fold."""
    classifier.main(stage_run.StageRun("classifier", condition, 1))
    before = answers(condition)
    training = [row for row in pipeline.rows if row["split"] == "training"]
    # The last of one action becomes the first of the next: the order of the clips is as before.
    row = [row for row in training if row["action"] == ACTIONS[0]][-1]
    row["action"] = ACTIONS[1]
    synthetic.write_data(pipeline.rows)
    classifier.main(stage_run.StageRun("classifier", condition, 1))
    folded = training
    if condition == "logistic":  # it answers the unlabelled clips, too
        folded = [row for row in pipeline.rows if row["split"] in ("training", "unlabelled")]
    clips = pd.DataFrame(folded)
    fold = dict(zip(clips.clip_id, folds.of_clips(clips, 2), strict=True))
    names = {each["clip_id"] for each in training}
    same = {name for name in names if fold[name] == fold[row["clip_id"]]}
    unchanged = (answers(condition) == before).all(axis=1)
    assert row["clip_id"] in same
    assert set(unchanged.index[unchanged]) == same


def test_an_action_that_nobody_hears_runs_to_the_decisions(pipeline):
    """Its clips get sound generated from what was learned of the others, and a decision.

    Their real sound has no decision.
    """
    silent = ACTIONS[0]
    for row in pipeline.rows:
        row["audible"] = row["audible"] and row["action"] != silent
    synthetic.write_data(pipeline.rows)
    run_all()
    table = decisions()
    own = table[table.action == silent]
    assert len(own) == sum(row["action"] == silent for row in pipeline.rows)
    assert np.isfinite(own.score).all()
    assert own.score_real.isna().all()
    assert not own.keep_real.any()
    assert table.keep_real.any()
    figures = metrics("generator/semantic_validation")["test"]["generated"]
    test = [row for row in pipeline.rows if row["split"] == "test"]
    assert figures["centred_cosine"]["n"] == sum(row["audible"] for row in test)
