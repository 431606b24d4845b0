"""Which stages are still to come, and how long they take."""

import json
from pathlib import Path

import pytest

from audio_from_video.runtime import countdown

PIPELINE = """
stages:
  code: {cmd: x, deps: [stages], outs: [data/code]}
  models: {cmd: x, frozen: true, deps: [data/code/models.json], outs: [models/tiny]}
  frames: {cmd: x, deps: [data/code/frames.json], outs: [data/frames]}
  features:
    foreach: {rgb: data/frames, flow: data/flow}
    do: {cmd: x, deps: ["${item}"], outs: ["data/features/${key}"]}
  classifier:
    foreach: ${classifier.conditions}
    do: {cmd: x, deps: ["${item.audio}"], outs: ["data/predictions/${key}.parquet"]}
  report: {cmd: x, deps: [data/predictions], outs: [{report.html: {cache: false}}]}
"""
PARAMS = """
classifier:
  conditions:
    silent: {audio: data/features/rgb}
    heard: {audio: data/audio}
"""


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository of these stages, all of whose outputs are there."""
    monkeypatch.chdir(tmp_path)
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text(PARAMS)
    for stage in countdown.pipeline().values():
        for path in stage.outs:
            Path(path).mkdir(parents=True)
    return tmp_path


def test_items_of_foreach_are_stages(repository):
    stages = countdown.pipeline()
    assert stages["features@flow"].deps == ("data/flow",)
    assert stages["classifier@heard"].outs == ("data/predictions/heard.parquet",)
    assert stages["report"].outs == ("report.html",)
    assert len(stages) == 8


def test_what_follows_is_pending_and_nothing_else(repository):
    stages = countdown.pipeline()
    followers = ["classifier@silent", "features@rgb", "report"]
    assert countdown.pending(stages, "frames", ["code"]) == followers
    assert countdown.pending(stages, "features@rgb", ["code", "frames"]) == followers[::2]


def test_the_first_stage_counts_what_is_missing(repository):
    stages = countdown.pipeline()
    assert countdown.pending(stages, "code", []) == []
    Path("data/features/flow").rmdir()
    assert countdown.pending(stages, "code", []) == ["features@flow"]


def test_frozen_stages_never_run(repository):
    Path("models/tiny").rmdir()
    assert countdown.pending(countdown.pipeline(), "code", []) == []


def test_the_announcement_of_a_run(repository, monkeypatch):
    logs = repository / "logs"
    for folder in ("features", "classifier"):
        (logs / folder).mkdir(parents=True)
    known = {"frames": 100, "features/rgb": 200, "classifier/silent": 20, "report": 40}
    for name, seconds in known.items():
        (logs / f"{name}.json").write_text(json.dumps({"seconds": seconds}))
    monkeypatch.setattr(countdown, "_process_of_dvc", lambda: [17, 1000])

    monkeypatch.setenv("DVC_STAGE", "frames")
    assert countdown.announcement(logs) == "stage 1 of 4, about 6 min left"
    # A stage without a log is taken to be as long as the others are.
    (logs / "features/rgb.json").rename(logs / "elsewhere.json")
    assert countdown.announcement(logs) == "stage 1 of 4, about 4 min left"
    (logs / "elsewhere.json").rename(logs / "features/rgb.json")

    # It took twice as long as expected.
    state = json.loads((logs / "run.json").read_text())
    (logs / "run.json").write_text(json.dumps(state | {"start": state["start"] - 200}))
    monkeypatch.setenv("DVC_STAGE", "features@rgb")
    assert countdown.announcement(logs) == "stage 2 of 4, about 9 min left"

    # Another run of DVC begins to count anew.
    monkeypatch.setattr(countdown, "_process_of_dvc", lambda: [18, 1000])
    monkeypatch.setenv("DVC_STAGE", "report")
    assert countdown.announcement(logs) == "stage 1 of 1, about 1 min left"


def test_without_times_the_place_alone_is_said(repository, monkeypatch):
    monkeypatch.setattr(countdown, "_process_of_dvc", lambda: [17, 1000])
    monkeypatch.setenv("DVC_STAGE", "frames")
    assert countdown.announcement(repository / "logs") == "stage 1 of 4"


def test_without_dvc_there_is_nothing_to_say(repository, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert countdown.announcement(repository / "logs") is None
