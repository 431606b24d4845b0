"""Pruning deletes what no output uses and what killed runs left, and nothing else."""

import os
import sys
from pathlib import Path

import pytest

from audio_from_video.storage import item_store
from tests.support.stored_items import clips, pack_clips
from tools import stored_items

pytestmark = pytest.mark.usefixtures("workspace")


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["stored_items", *words])
    stored_items.main()


def test_prune_deletes_what_current_outputs_do_not_use(monkeypatch, capsys):
    pack_clips(clips(3), "old")
    pack_clips(clips(3), "new")
    run(monkeypatch)
    listed = capsys.readouterr().out
    assert "in use    stage/new" in listed
    assert "unused    stage/old" in listed

    run(monkeypatch, "--prune")
    assert {path.name for path in (item_store.folder() / "stage").iterdir()} == {"new"}
    again, _ = pack_clips(clips(3), "new")
    assert again.log["computed"] == 0


def test_prune_deletes_what_killed_runs_left_long_ago(monkeypatch, capsys):
    pack_clips(clips(3), "new")
    store = item_store.folder()
    old = (
        "checkpoints/old.safetensors",
        "scratch/tmp1/rows",
        "stage/new/x.damaged",
        "stage/new/.x.tmp",
        "stage/v.sqlite-wal",
    )
    for name in (*old, "checkpoints/new.safetensors", "stage/new/.y.tmp"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("x")
    for name in (*old, "scratch/tmp1"):
        os.utime(store / name, (0, 0))

    run(monkeypatch)
    assert capsys.readouterr().out.count("left  ") == 5
    run(monkeypatch, "--prune")
    assert capsys.readouterr().out.count("deleted") == 5
    items = {".items", ".facts", ".parquet"}
    left = sorted(path.name for path in store.rglob("*") if path.suffix not in items)
    assert left == [".y.tmp", "checkpoints", "new", "new.safetensors", "scratch", "stage"]
    again, _ = pack_clips(clips(3), "new")
    assert again.log["computed"] == 0


def test_bytes_are_listed_by_stage(monkeypatch, capsys):
    for version in ("old", "new"):
        pack_clips(clips(3), version)
    # The output is the new version's, so that the old one's shard is the store's alone.
    (own,) = (item_store.folder() / "stage/old").glob("*.parquet")
    os.truncate(own, 3 * stored_items.MIB)
    (shared,) = (item_store.folder() / "stage/new").glob("*.parquet")
    os.truncate(shared, 2 * stored_items.MIB)
    run(monkeypatch)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["3.0", "MiB", "0.0", "MiB", "shared", "unused", "stage/old"] in lines
    assert ["0.0", "MiB", "2.0", "MiB", "shared", "in", "use", "stage/new"] in lines
    assert ["3.0", "MiB", "2.0", "MiB", "shared", "stage", "stage"] in lines
    assert ["3.0", "MiB", "2.0", "MiB", "shared", "total"] in lines


def test_prune_by_age_and_size():
    day = stored_items.DAY_S
    used, old, older = (
        stored_items.Version(Path(f"stage/{name}"), name == "used", stored_items.GIB, last_use_s)
        for name, last_use_s in (("used", 0.0), ("old", 20 * day), ("older", 10 * day))
    )
    versions = [used, old, older]
    now_s = 30 * day
    assert stored_items.prunable(versions, 0, None, now_s) == [older, old]
    assert stored_items.prunable(versions, 15, None, now_s) == [older]
    assert stored_items.prunable(versions, 0, 2.5, now_s) == [older]
    assert stored_items.prunable(versions, 0, 3.0, now_s) == []
    assert stored_items.prunable(versions, 0, 0.0, now_s) == [older, old]
