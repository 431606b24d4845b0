"""What the stages' tables say of their inputs."""

import numpy as np
import pytest

from audio_from_video.evaluation.told_apart import told_apart
from audio_from_video.reporting import stage_tables
from audio_from_video.reporting.stage_tables import told_apart_sentence
from tests.support.closure import ROOT

ACTIONS = np.repeat(np.arange(4), 10)
SOURCES = np.arange(40)


@pytest.mark.parametrize(
    ("signal", "expected"),
    [(2.0, "shuffled actions would give taken off."), (0.0, "no better than chance")],
)
def test_a_table_says_whether_captions_tell_actions_apart(signal, expected):
    noise = np.random.default_rng(3).normal(size=(40, 8))
    vectors = noise + signal * np.eye(8)[ACTIONS]
    sentence = told_apart_sentence("captions", told_apart(vectors, ACTIONS, SOURCES))
    assert expected in sentence
    assert ("nothing rests on them" in sentence) == (signal == 0)


def test_too_few_clips_say_so():
    figures = told_apart(np.ones((1, 3)), np.array(["a"]), np.array(["x"]))
    assert "Too few training clips" in told_apart_sentence("labels", figures)


@pytest.mark.parametrize(("low", "nothing"), [(-0.1, True), (0.1, False)])
def test_the_tables_that_rest_on_labels_say_whether_these_tell_actions_apart(
    monkeypatch, low, nothing
):
    """Of the committed figures, but for that one."""
    monkeypatch.chdir(ROOT)
    read = stage_tables.read_metrics
    apart = {"difference": 0.2, "difference_low": low, "difference_high": 0.3}

    def read_metrics(stage: str, item: str = "") -> dict:
        metrics = read(stage, item)
        if stage == "audio_features":
            metrics["labels_tell_actions_apart"] = apart
        return metrics

    monkeypatch.setattr(stage_tables, "read_metrics", read_metrics)
    for table in (stage_tables.threshold_table(), stage_tables.label_table()):
        assert f"by {low:+.3f} to +0.300" in table.note
        assert ("nothing rests on them" in table.note) == nothing


@pytest.mark.parametrize(("auroc", "said"), [(0.75, "0.750"), (None, "not defined")])
def test_a_filter_that_cannot_be_ranked_says_so(monkeypatch, auroc, said):
    monkeypatch.chdir(ROOT)
    read = stage_tables.read_metrics

    def read_metrics(stage: str, item: str = "") -> dict:
        metrics = read(stage, item)
        if stage == "filter":
            metrics["semantic_validation"]["auroc_found_in_real"] = auroc
        return metrics

    monkeypatch.setattr(stage_tables, "read_metrics", read_metrics)
    assert f'found in the real sound": {said}' in stage_tables.filter_sentence()
