"""The figures of a run in one file, against the files that they come from."""

import json

import pytest

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout
from stages import summary

ACCURACIES = {"video_only": 0.64, "real_audio": 0.76, "validated": 0.63, "mapped_validated": 0.65}
THRESHOLDS = {"semantic_validation": 0.4, "caption_mapping": 0.52}


@pytest.fixture
def measured(workspace) -> None:
    conditions = {}
    for name, accuracy in ACCURACIES.items():
        conditions[name] = {"accuracy": accuracy}
        if name != "video_only":
            conditions[name]["difference"] = accuracy - 0.64
    write_json(layout.metrics("report"), {"conditions": conditions})
    decided = {
        name: {"threshold": threshold, "kept_fraction": {"mean": threshold + 0.3}}
        for name, threshold in THRESHOLDS.items()
    }
    write_json(layout.metrics("filter"), decided)
    labels = {"generated_features": {"f1": 0.57}, "mapped_features": {"f1": 0.52}}
    labels |= {"generated_mel": {"f1": 0.1}, "mapped_mel": {"f1": 0.2}}
    write_json(layout.metrics("label_predictor"), {"head": "features", "test": labels})
    for name, cosine in (("semantic_validation", 0.5), ("caption_mapping", 0.48)):
        generated = {"generated": {"centred_cosine": {"mean": cosine}}}
        write_json(layout.metrics("generator", name), {"test": generated})


def run() -> dict:
    summary.main(stage_run.StageRun("summary", "", 1))
    return json.loads(layout.metrics("summary").read_text())


def test_figures_are_those_of_the_files(measured):
    found = run()
    assert found == {
        "accuracy": ACCURACIES,
        "difference": {"real_audio": 0.12, "validated": -0.01, "mapped_validated": 0.01},
        "threshold": THRESHOLDS,
        "kept": {"semantic_validation": 0.7, "caption_mapping": 0.82},
        "generator_cosine": {"semantic_validation": 0.5, "caption_mapping": 0.48},
        "labels_f1": {"semantic_validation": 0.57, "caption_mapping": 0.52},
    }
    assert sum(len(figures) for figures in found.values()) == 15


def test_a_condition_that_the_report_lacks_is_named(measured, workspace):
    workspace.set(summary={"conditions": ["video_only", "sound_only"]})
    with pytest.raises(UserError, match="summary.conditions names sound_only"):
        run()


def test_a_missing_file_is_named(measured):
    layout.metrics("filter").unlink()
    with pytest.raises(UserError, match="metrics/filter.json is missing"):
        run()
