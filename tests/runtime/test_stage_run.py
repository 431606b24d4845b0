"""What surrounds every stage: command line, one-sentence errors, lock, metrics and log."""

import errno
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from audio_from_video.runtime import atomic, stage_run
from audio_from_video.runtime.errors import DamagedStore, UserError
from audio_from_video.storage import accounting
from tests.support.closure import ROOT
from tests.support.repository import hear_ctrl_c

STAGE = r'''"""Do what the test says."""
import os, time
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError

def main(stage):
    if stage.item == "fail":
        raise UserError("the file x is missing: make it")
    if stage.item == "escape":
        raise UserError("the file \x1b[31mred is missing:\n  make it")
    if stage.item == "slow":
        open("at work", "w").close()
        while not os.path.exists("go on"):
            time.sleep(0.05)
    stage.write_metrics({"workers": 1, "value": 1 / 3})

stage_run.main(main, __doc__, "thing", "kind", lambda: ["good", "slow", "fail", "escape"])
'''


def start(folder: Path, *words: str, **environment: str) -> subprocess.Popen:
    (folder / "thing.py").write_text(STAGE)
    return subprocess.Popen(
        [sys.executable, "thing.py", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment},
        preexec_fn=hear_ctrl_c,
    )


def finish(process: subprocess.Popen) -> tuple[int, str]:
    out, errors = process.communicate(timeout=60)
    return process.returncode, out + errors


def wait_until_it_works(folder: Path) -> None:
    while not (folder / "at work").exists():
        time.sleep(0.02)


def test_metrics_and_log(tmp_path):
    assert finish(start(tmp_path, "good", "--workers", "3"))[0] == 0
    assert json.loads((tmp_path / "metrics/thing/good.json").read_text()) == {
        "workers": 1,
        "value": 0.333333,
    }
    log = json.loads((tmp_path / "logs/thing/good.json").read_text())
    assert log["workers"] == 3 and log["seconds"] >= 0 and log["peak_memory_mib"] > 5


@pytest.mark.parametrize(
    "words, environment, sentence",
    [
        (["fail"], {}, "thing: error: the file x is missing: make it"),
        (["goood"], {}, "thing: error: 'goood' is not one of the kinds: good, slow, fail, escape"),
        (["escape"], {}, "thing: error: the file \\x1b[31mred is missing:\n  make it"),
        (["good", "--workers", "0"], {}, "thing: error: --workers 0: it must be at least 1"),
        (
            ["good"],
            {"WORKERS": "lots"},
            "thing: error: WORKERS='lots': it must be a whole number of at least 1",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_a_failing_exit(tmp_path, words, environment, sentence):
    code, output = finish(start(tmp_path, *words, **environment))
    assert code == 1 and output.strip() == sentence


def test_help_shows_the_docstring(tmp_path):
    code, output = finish(start(tmp_path, "--help"))
    assert (
        code == 0
        and "Do what the test says." in output
        and "--workers" in output
        and "python -m stages.thing" in output
    )


def test_a_second_run_of_the_same_item_waits(tmp_path):
    first = start(tmp_path, "slow")
    wait_until_it_works(tmp_path)
    second, other = start(tmp_path, "slow"), start(tmp_path, "good")
    assert "another run" not in finish(other)[1]
    assert "another run of this stage is still writing; waiting" in second.stderr.readline()
    (tmp_path / "go on").touch()
    assert "error" not in finish(second)[1]
    assert finish(first)[0] == second.returncode == 0


def test_a_file_system_without_locks_gets_a_lock_that_is_a_file(workspace, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with stage_run._lock("thing"):
        assert (workspace.folder / "logs/.thing.soft-lock").exists()
    assert not (workspace.folder / "logs/.thing.soft-lock").exists()


def test_stored_results_that_are_damaged_make_the_stage_run_once_more(workspace, capsys):
    runs = []

    def damaged_at_first(run: stage_run.StageRun) -> None:
        runs.append(run)
        if len(runs) == 1:
            raise DamagedStore("1 files were damaged")

    stage_run._run(damaged_at_first, stage_run.StageRun("thing", "", 1))
    assert len(runs) == 2 and "thing: 1 files were damaged" in capsys.readouterr().err


def test_interrupted_stage_says_that_it_can_go_on(tmp_path):
    import signal

    process = start(tmp_path, "slow")
    wait_until_it_works(tmp_path)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert (
        code == 1
        and "interrupted; finished items are stored" in output
        and "Traceback" not in output
    )


def test_status_counts_add_up():
    index = [{"status": status} for status in ("ok", "silent", "ok", "unreadable", "silent")]
    assert accounting.status_counts(index) == {
        "in": 5,
        "ok": 2,
        "refused": {"silent": 2, "unreadable": 1},
    }
    assert accounting.status_counts([]) == {"in": 0, "ok": 0, "refused": {}}


def test_failed_fraction_counts_only_its_statuses():
    index = [
        {"clip_id": f"a/{i}", "status": "silent" if i else "unreadable", "reason": "no header"}
        for i in range(10)
    ]
    accounting.check_failed_fraction(index, {"unreadable"}, 0.1, "frames")
    accounting.check_failed_fraction([], {"unreadable"}, 0.0, "frames")
    with pytest.raises(
        UserError,
        match="1 of 10 clips failed in frames, more than clips.max_failed_fraction = 0.09 .*"
        "a/0: unreadable: no header",
    ):
        accounting.check_failed_fraction(index, {"unreadable"}, 0.09, "frames")


def test_json_is_atomic_rounded_and_refuses_nan(tmp_path):
    path = tmp_path / "deep" / "x.json"
    atomic.write_json(path, {"ü": 0.12345678, "list": [1, {"y": 2.0000001}], 3: None})
    assert json.loads(path.read_text()) == {"ü": 0.123457, "list": [1, {"y": 2.0}], "3": None}
    with pytest.raises(ValueError, match="JSON compliant"):
        atomic.write_json(path, {"x": float("nan")})
    assert json.loads(path.read_text())["3"] is None
    assert [found.name for found in path.parent.glob("*.json")] == ["x.json"]


def test_progress_passes_items_on_and_times_them(capsys, workspace, monkeypatch):
    monkeypatch.setattr(stage_run, "LINE_INTERVAL_S", 0.0)
    stage = stage_run.StageRun("thing", None, 1)

    def slowly():
        for i in range(3):
            time.sleep(0.02)
            yield i

    assert list(stage.progress(slowly(), 3)) == [0, 1, 2]
    assert "thing: 100 %, 3 of 3" in capsys.readouterr().err
    stage.write_log(7)
    log = json.loads((workspace.folder / "logs/thing.json").read_text())
    assert 0.06 <= log["reading_s"] <= log["seconds"]


def test_a_long_stage_says_early_how_long_it_will_take(capsys, workspace, monkeypatch):
    monkeypatch.setattr(stage_run, "FIRST_LINE_S", 0.05)
    stage = stage_run.StageRun("thing", None, 1)

    def slowly():
        for i in range(8):
            time.sleep(0.02)
            yield i

    assert list(stage.progress(slowly(), 5000)) == list(range(8))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert re.fullmatch(r"thing: 0 %, [1-8] of 5000, [\d:]+ left, +[\d.]+clip/s", lines[0])
