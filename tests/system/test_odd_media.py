"""Broken and odd media through the stages that open files.

Every file has a row and a reason; none stops or hangs the run.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import audio, clips, frames
from tests.support.closure import ROOT
from tests.support.media_files import sine, write_video
from tests.support.odd_media import GOOD, KINDS
from tests.support.privileges import drop_overrides
from tests.support.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("any_clip_set")]

NAMES = [
    "with space",
    "quo'te\"s",
    "new\nline",
    "%03d",
    "-leading",
    "ünï★ 声",
    "tab\tand\x1b[31mred",
    "semi;colon|pipe,comma",
    "$(touch owned)",
    "=1+1",
    "<b>bold<b>",
    "\\frac{1}{0}",
    "*?[x]",
    "~",
    "concat:a",
    "dots..",
    "x" * 251,
]


def run_stages() -> dict[str, dict[str, dict]]:
    """Run `clips`, `frames` and `audio`; return their rows by stage and clip_id.

    Checks that counts add up and that nothing stays running.
    """
    before = psutil.Process().children(recursive=True)
    with pytest.MonkeyPatch.context() as patch:
        # What becomes of files, whatever else an experiment would need.
        patch.setattr(clips, "require_splits", lambda clips, p: None)
        for stage in (clips, frames, audio):
            stage.main(stage_run.StageRun(stage.__name__.split(".")[1], "", 2))
    tables = {"clips": pq.read_table("data/clips.parquet").to_pylist()}
    for stage in ("frames", "audio"):
        tables[stage] = shards.read_index(Path("data", stage)).to_pylist()
    entering = len(tables["clips"])
    for stage, rows in tables.items():
        counts = json.loads(Path(f"metrics/{stage}.json").read_text())["clips"]
        assert counts["in"] == len(rows) == entering
        assert counts["in"] == counts["ok"] + sum(counts["refused"].values())
        entering = counts["ok"]
        assert all((row["reason"] == "") == (row["status"] == "ok") for row in rows)
        assert all(row["reason"].isprintable() for row in rows)

    new = set(psutil.Process().children(recursive=True)) - set(before)
    commands = [" ".join(process.cmdline()) for process in new]
    servers = ("forkserver", "resource_tracker")  # multiprocessing's own, which stay
    assert not [command for command in commands if not any(name in command for name in servers)]
    return {stage: by_clip(rows) for stage, rows in tables.items()}


def by_clip(rows: list[dict]) -> dict[str, dict]:
    return {row["clip_id"]: row for row in rows}


def unique(path: Path, number: int) -> Path:
    """Give a file other bytes than any other: a box at its end that players skip."""
    with open(path, "ab") as file:
        file.write((12).to_bytes(4, "big") + b"free" + number.to_bytes(4, "big"))
    return path


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """The rows of a file of each kind, by stage and kind."""
    folder = tmp_path_factory.mktemp("kinds")
    place = folder / "media/training/odd"
    place.mkdir(parents=True)
    for number, (write, *_) in enumerate(KINDS.values()):
        write(place / f"{number}.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITEM_STORE", str(folder / "items"))
        patch.chdir(folder)
        settings = {"root": "media", "max_failed_fraction": 1.0, "source_pattern": "^(.*)$"}
        Workspace(folder).set(clips=settings)
        tables = run_stages()
    by_kind = {}
    for stage, rows in tables.items():
        by_kind[stage] = {kind: rows.get(f"odd/{n}") for n, kind in enumerate(KINDS)}
    return by_kind


def test_there_are_many_kinds():
    assert len(KINDS) >= 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_ends_as_it_should(kinds, kind):
    rows = [kinds[stage][kind] for stage in ("clips", "frames", "audio")]
    assert tuple(row and row["status"] for row in rows) == KINDS[kind][1:]


def test_sound_around_the_threshold_differs_by_its_level(kinds):
    assert -50 < kinds["audio"]["just above silence"]["rms_dbfs"] < -49.8
    assert -50.2 < kinds["audio"]["just below silence"]["rms_dbfs"] < -50


def test_a_file_that_breaks_off_says_where(kinds):
    reason = kinds["frames"]["cut after 40 %"]["reason"]
    assert reason == "the file breaks off: 21 of 72 frames are there"


def test_names_are_only_names(workspace):
    place = workspace.folder / "media/training/odd"
    place.mkdir(parents=True)
    GOOD(workspace.folder / "good.mp4")
    for number, name in enumerate(NAMES):
        unique(Path(shutil.copy(workspace.folder / "good.mp4", place / f"{name}.mp4")), number)
    workspace.set(clips={"root": "media", "source_pattern": "(?s)^(.*)$"})
    rows = run_stages()["audio"]
    assert sorted(rows) == sorted(f"odd/{name}" for name in NAMES)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert not list(workspace.folder.rglob("owned"))


def test_actions_with_odd_names_are_kept_apart(workspace):
    actions = ["new\nline", "<script>", "=1+1", "a b", "..a", "-rf", "ü" * 30]
    for number, action in enumerate(actions):
        folder = workspace.folder / "media/training" / action
        folder.mkdir(parents=True)
        GOOD(folder / "a.mp4")
        unique(folder / "a.mp4", number)
    settings = {"root": "media", "source_pattern": "(?s)^(.*)$", "validation_fraction": 0.01}
    workspace.set(clips=settings)
    rows = run_stages()["audio"].values()
    assert sorted(row["action"] for row in rows if row["status"] == "ok") == sorted(actions)
    read = {row["clip_id"] for row in shards.iter_rows(Path("data/audio"), ["flac"])}
    assert read == {f"{action}/a" for action in actions}


def test_an_action_whose_name_is_too_long_is_a_sentence(workspace):
    folder = workspace.folder / "media/training" / ("ü" * 120)
    folder.mkdir(parents=True)
    (folder / "a.mp4").write_text("x")
    workspace.set(clips={"root": "media"})
    with pytest.raises(UserError, match="name of this action is too long"):
        clips.main(stage_run.StageRun("clips", "", 1))


@pytest.fixture
def tree(workspace):
    """A root with a good clip, a secret outside, and what links and special files can do."""
    place = workspace.folder / "media/training/odd"
    place.mkdir(parents=True)
    write_video(place / "good_1.mp4", 72, "24", "-c:a", "aac", sound=sine(300, 3, -9))
    write_video(place / "other_1.mp4", 60, "24")
    write_video(workspace.folder / "secret.mp4", 80, "24")
    (place / "away_1.mp4").symlink_to(workspace.folder / "secret.mp4")
    (place / "inside_1.mp4").symlink_to("good_1.mp4")
    (place / "loop_1.mp4").symlink_to("loop_1.mp4")
    (place / "broken_1.mp4").symlink_to("nowhere.mp4")
    (place / "round_1").symlink_to(place.parent)
    os.mkfifo(place / "pipe_1.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(place)
        server.bind("socket_1.mp4")
        os.chdir(workspace.folder)
    (place / "device_1.mp4").symlink_to("/dev/zero")
    workspace.set(clips={"root": "media", "max_failed_fraction": 1.0})
    return workspace


def test_links_and_special_files_are_refused_at_once(tree):
    rows = run_stages()["clips"]
    ends = {name.split("/")[1]: (row["status"], row["reason"]) for name, row in rows.items()}
    outside = ("outside_root", "a link leads out of clips.root; clips.links = all follows it")
    assert ends == {
        "good_1": ("ok", ""),
        "other_1": ("ok", ""),
        "inside_1": (
            "duplicate_content",
            "the same bytes stand in another split or earlier in this one",
        ),
        "away_1": outside,
        "device_1": outside,
        "loop_1": ("unreadable", "Too many levels of symbolic links"),
        "broken_1": ("missing", "No such file or directory"),
        "round_1": ("unreadable", "no regular file"),
        "pipe_1": ("unreadable", "no regular file"),
        "socket_1": ("unreadable", "No such device or address"),
    }


def test_links_are_followed_where_params_say_so(tree):
    tree.set(clips={"links": "all"})
    rows = run_stages()["clips"]
    assert rows["odd/away_1"]["status"] == "ok"
    assert rows["odd/device_1"]["status"] == "unreadable"


def test_a_list_cannot_leave_the_root_through_a_link(tree):
    (tree.folder / "media/list.csv").write_text("odd/away_1.mp4,odd\nodd/good_1.mp4,odd\n")
    tree.set(clips={"training_list": "list.csv"})
    clips.main(stage_run.StageRun("clips", "", 1))
    rows = by_clip(pq.read_table("data/clips.parquet").to_pylist())
    assert rows["odd/away_1"]["status"] == "outside_root"
    assert rows["odd/away_1"]["content_hash"] is None
    assert rows["odd/good_1"]["status"] == "ok"


def test_a_linked_folder_of_clips_is_a_sentence(tree):
    (tree.folder / "media/training/linked").symlink_to("odd")
    with pytest.raises(UserError, match="training/linked: a link to a folder is not followed"):
        clips.main(stage_run.StageRun("clips", "", 1))


def clips_without_overrides(folder: Path) -> str:
    """Run `clips` where modes apply; return its exit code and what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "stages.clips"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        preexec_fn=drop_overrides,
    )
    return f"{done.returncode} {done.stderr}"


def test_what_may_not_be_read_is_refused_or_a_sentence(tree):
    place = tree.folder / "media/training/odd"
    (place / "good_1.mp4").chmod(0)
    output = clips_without_overrides(tree.folder)
    assert "at least two actions" in output  # said after the table is written
    assert "Traceback" not in output
    rows = by_clip(pq.read_table("data/clips.parquet").to_pylist())
    assert rows["odd/good_1"]["status"] == "unreadable"
    assert rows["odd/good_1"]["reason"] == "Permission denied"
    closed = tree.folder / "media/training/closed"
    closed.mkdir(mode=0)
    output = clips_without_overrides(tree.folder)
    closed.chmod(0o700)
    assert output.startswith("1 ")
    assert "training/closed: the folder cannot be read (Permission denied)" in output
    assert "Traceback" not in output


def test_the_same_video_on_both_sides_is_refused_on_the_learning_side(tree):
    media = tree.folder / "media"
    (media / "validation/even").mkdir(parents=True)
    (media / "training/even").mkdir()
    write_video(media / "training/even/own_1.mp4", 60)
    shutil.copy(media / "training/odd/good_1.mp4", media / "validation/even/other_5.mp4")
    rows = run_stages()["clips"]
    assert rows["even/other_5"]["status"] == "ok"
    assert rows["odd/good_1"]["status"] == "duplicate_content"


def test_extra_odd_media(workspace, extra_media):
    """Files that others collected: no crash, no hang, a row for each."""
    place = workspace.folder / "media/training/odd"
    place.mkdir(parents=True)
    files = sorted(path for path in (extra_media / "odd").rglob("*") if path.is_file())
    for number, path in enumerate(files):
        shutil.copyfile(path, place / f"{number}{path.suffix}")
    workspace.set(clips={"root": "media", "max_failed_fraction": 1.0, "source_pattern": "^(.*)$"})
    tables = run_stages()
    assert len(tables["clips"]) == len(files) > 0
    for rows in tables.values():
        statuses = {row["status"] for row in rows.values()}
        assert not statuses & {"timeout", "worker_died"}
