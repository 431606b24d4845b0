"""Pruning deletes what no output uses and what killed runs left, and nothing else."""

import os
import sys

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
    assert {path.name for path in (item_store.folder() / "stage").iterdir()} == {"new.sqlite"}
    again, _ = pack_clips(clips(3), "new")
    assert again.log["computed"] == 0


def test_prune_deletes_what_killed_runs_left_long_ago(monkeypatch, capsys):
    store = item_store.folder()
    for name in (
        "checkpoints/old.safetensors",
        "checkpoints/new.safetensors",
        "scratch/tmp1/rows",
        "frames/v.damaged",
    ):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("x")
    for name in ("checkpoints/old.safetensors", "scratch/tmp1", "frames/v.damaged"):
        os.utime(store / name, (0, 0))

    run(monkeypatch)
    assert capsys.readouterr().out.count("left  ") == 3
    run(monkeypatch, "--prune")
    assert sorted(path.name for path in store.rglob("*") if path.is_file()) == ["new.safetensors"]
    assert capsys.readouterr().out.count("deleted") == 3
