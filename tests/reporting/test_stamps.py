"""Stamps of experiments: figures of other data, code or parameters stand behind a banner."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from audio_from_video.reporting import stamps
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

CLASSIFIER = Path("data/code/classifier.json")
AUDIO = Path("data/code/audio.json")
REPORT = Path("data/code/report.json")


def write_clips(content: str) -> None:
    row = dict.fromkeys(("clip_id", "split", "action", "source_id"), "x")
    row |= {"content_hash": content, "status": "ok"}
    shards.write_table(shards.with_clip_set(pa.Table.from_pylist([row])), layout.CLIPS)


@pytest.fixture
def run(workspace):
    """The data set and the code of a run."""
    CLASSIFIER.parent.mkdir(parents=True)
    for path in (CLASSIFIER, AUDIO, REPORT):
        path.write_text("{}")
    write_clips("1")
    return workspace


def write_stamp(setting: str = "5") -> None:
    """The stamp of an experiment that reads what the classifier of this run gave."""
    code = stamps.contents([str(CLASSIFIER), str(AUDIO)])
    stamp = stamps.finish(stamps.begin("2 cores", ["a.b 5"]), shards.current_clip_set(), code)
    stamps.write("budget", stamps.read("budget") | {setting: stamp})


def banner(*settings: str) -> str:
    return stamps.banner("budget", list(settings or ("5",)))


def test_figures_of_this_run_have_no_banner(run):
    write_stamp()
    assert banner() == ""
    REPORT.write_text("other")  # nothing in the figures depends on it
    run.set(report={"clips": 7}, search={"draws": 3})
    assert banner() == ""


def test_other_data_code_and_parameters_are_named(run):
    write_stamp()
    write_clips("2")
    assert "): other data. " in banner()
    AUDIO.write_text("other")
    assert "): other data, other code. " in banner()
    run.set(filter={"threshold": 0.3})
    assert "): other data, other code, other parameters. " in banner()
    assert banner().startswith("Of another run (commit unknown, 2")


def test_going_back_takes_the_banner_away(run):
    write_stamp()
    CLASSIFIER.write_text("other")
    assert banner()
    CLASSIFIER.write_text("{}")
    assert banner() == ""


def test_figures_without_a_stamp_are_of_another_run(run):
    expected = "Of another run (unknown): unknown data, code and parameters."
    assert banner().startswith(expected)
    write_stamp("5")
    assert banner("5", "10").startswith(expected)


def test_one_setting_of_another_run_is_enough(run):
    write_stamp("5")
    write_clips("2")
    write_stamp("10")
    assert banner("10") == ""
    assert "other data" in banner("5", "10")


def test_what_was_not_noted_is_unknown_and_what_plays_no_part_does_not_count(run):
    stamp = stamps.begin("2 cores", [])
    stamps.write("budget", {"5": stamp})
    assert "): unknown data, unknown code. " in banner()
    simulated = stamps.finish(stamp, None, stamps.contents([]))
    stamps.write("budget", {"5": simulated.model_copy(update={"parameters": None})})
    write_clips("2")
    run.set(filter={"threshold": 0.3})
    assert banner() == ""


def test_a_run_without_a_data_set_cannot_tell(run):
    write_stamp()
    layout.CLIPS.unlink()
    assert "): unknown data. " in banner()


@pytest.mark.parametrize("content", ["", "[]", '{"5": {"date": "today"}}'])
def test_a_file_without_stamps_is_a_sentence(run, content):
    path = Path("metrics/experiments/budget.json")
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match="^metrics/experiments/budget.json holds no stamps"):
        banner()


def stage(deps: dict[str, str], *outs: str) -> dict:
    return {
        "deps": [{"path": path, "md5": md5} for path, md5 in deps.items()],
        "outs": [{"path": path, "md5": "x"} for path in outs],
    }


LOCK = {
    "stages": {
        "code": stage({"stages": "c"}, "data/code"),
        "clips": stage({"data/code/clips.json": "1"}, "data/clips.parquet"),
        "frames": stage({"data/code/frames.json": "2", "data/clips.parquet": "x"}, "data/frames"),
        "classifier@a": stage(
            {"data/code/classifier.json": "3", "data/frames": "x"}, "data/predictions/a.parquet"
        ),
        "filter": stage(
            {"data/code/filter.json": "4", "data/predictions/a.parquet": "x"}, "data/filter/a"
        ),
        "report": stage({"data/code/report.json": "5", "data/predictions": "x"}, "docs/results.md"),
    }
}


def test_code_is_that_of_the_stages_upstream():
    of_classifier = {
        "data/code/classifier.json": "3",
        "data/code/clips.json": "1",
        "data/code/frames.json": "2",
    }
    assert stamps.code_in_lock(LOCK, ["classifier@a"]) == of_classifier
    # The report reads the folder in which the predictions lie.
    of_report = of_classifier | {"data/code/report.json": "5"}
    assert stamps.code_in_lock(LOCK, ["report"]) == of_report


def test_embedded_models_count_by_their_files_and_not_by_the_code_that_trained_them(workspace):
    weights = Path("models/tiny/vit/model.safetensors")
    weights.parent.mkdir(parents=True)
    weights.write_text("1")
    stages = {
        "pretrain": stage({"data/code/pretrain.json": "1"}, "models/tiny/vit"),
        "features": stage({"data/code/features.json": "2", "models/tiny/vit": "x"}, "data/f"),
    }
    code = stamps.code_in_lock({"stages": stages}, ["features"])
    assert code == {
        "data/code/features.json": "2",
        str(weights): hashlib.md5(b"1").hexdigest(),
    }


def test_contents_are_digests_as_dvc_has_them(run):
    assert stamps.contents(["data/code/none.json", str(AUDIO)]) == {
        str(AUDIO): hashlib.md5(b"{}").hexdigest(),
        "data/code/none.json": None,
    }
