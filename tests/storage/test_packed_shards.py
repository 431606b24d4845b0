"""What an output holds is not stored twice: the item store links shards, and reads items there."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audio_from_video.runtime.errors import DamagedStore
from audio_from_video.runtime.stage_run import StageRun
from audio_from_video.storage import item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems
from tests.support.stored_items import COLUMNS, LEVEL, OUTPUT, clips, compute, pack_clips

pytestmark = pytest.mark.usefixtures("workspace")


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(shards, "MEAN_ROWS_PER_SHARD", 8)
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 4)


def store_files(suffix: str) -> list[Path]:
    return sorted((item_store.folder() / "stage/v1").glob(f"*{suffix}"))


def inodes() -> dict[int, Path]:
    return {path.stat().st_ino: path for path in shards.shard_paths(OUTPUT)}


def output_bytes() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in OUTPUT.rglob("*.parquet")}


def fill_and_pack(
    count: int, least: float = 0.0, packed_by: tuple | None = None
) -> tuple[StageRun, list[dict]]:
    """Pack clips of which those with smaller numbers than `least` are refused."""
    some = clips(count)

    def finish(row: dict) -> dict:
        if row["status"] == "ok" and row["values"][0] < least:
            return row | {"status": "small", "reason": "too small"}
        return row

    run = StageRun("stage", "", 1)
    with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as items:
        items.fill(run, some, [(clip["clip_id"], clip["number"]) for clip in some], compute)
        by = (least,) if packed_by is None else packed_by
        return run, items.pack(OUTPUT, some, finish=finish, packed_by=by)


def test_the_store_shares_the_files_of_the_output_and_holds_no_items_beside():
    pack_clips(clips(60))
    linked = store_files(".parquet")
    assert len(linked) > 3
    assert {path.stat().st_ino for path in linked} == set(inodes())
    assert store_files(".items") == []
    assert not [
        path for path in (item_store.folder() / "stage/v1").iterdir() if path.suffix == ".tmp"
    ]


def test_items_are_read_from_the_shards():
    pack_clips(clips(60))
    with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as items:
        assert items.missing(clips(62)) == {"a/s_60", "a/s_61"}
        for clip in clips(60):
            row = items.row(clip)
            assert row["values"].dtype == np.float32
            assert row["values"].tolist() == [clip["number"]] * 2
            assert (row["level"], row["status"], row["reason"]) == (1.5, "ok", "")
            assert set(row) == {"values", "level", "status", "reason"}


def test_only_the_shards_of_new_clips_are_written():
    some = clips(60)
    pack_clips(some[:30] + some[31:])
    before = inodes()
    grown, _ = pack_clips(some)
    assert grown.log["computed"] == 1
    new = set(inodes()) - set(before)
    assert 1 <= len(new) <= 2 < len(before)
    # What the new shard took the place of is gone from the store, too.
    assert {path.stat().st_ino for path in store_files(".parquet")} == set(inodes())


def test_a_clip_that_left_the_output_keeps_its_item():
    pack_clips(clips(20))
    pack_clips(clips(12))
    again, _ = pack_clips(clips(20))
    assert again.log["computed"] == 0


def test_without_links_items_stay_and_the_bytes_are_the_same(workspace, monkeypatch):
    pack_clips(clips(20))
    linked = output_bytes()

    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setenv("ITEM_STORE", str(workspace.folder / "elsewhere"))
    pack_clips(clips(20))
    assert output_bytes() == linked
    assert store_files(".parquet") == store_files(".facts") == []
    again, _ = pack_clips(clips(20))
    assert again.log["computed"] == 0
    assert output_bytes() == linked


def test_refused_items_stay_and_count_again_under_another_limit():
    _, index = fill_and_pack(30, least=7.0)
    assert [row["status"] for row in index] == ["small"] * 7 + ["ok"] * 23
    assert len(store_files(".items")) == 1
    run, index = fill_and_pack(30, least=3.0)
    assert run.log["computed"] == 0
    assert [row["status"] for row in index] == ["small"] * 3 + ["ok"] * 27
    assert [row["clip_id"] for row in shards.iter_rows(OUTPUT, [])] == [
        row["clip_id"] for row in index[3:]
    ]
    run, index = fill_and_pack(30, least=7.0)
    assert run.log["computed"] == 0
    assert [row["status"] for row in index] == ["small"] * 7 + ["ok"] * 23


def test_facts_of_linked_shards_are_those_that_were_packed():
    def refusing(payloads) -> Iterator[dict]:
        for row in compute(payloads):
            refused = row["values"][0] == 4
            yield row | {"status": "unreadable", "reason": "no decoder"} if refused else row

    _, first = pack_clips(clips(30), function=refusing)
    run, second = pack_clips(clips(30), function=refusing)
    assert run.log["computed"] == 0
    assert second == first
    assert first[4]["reason"] == "no decoder" and first[4]["item_key"] is None


def test_another_code_of_the_stage_packs_anew(workspace):
    pack_clips(clips(30))
    before = inodes()
    layout.CODE.mkdir(parents=True)
    (layout.CODE / "stage.json").write_text('{"stages/stage.py": "changed"}')
    run, _ = pack_clips(clips(30))
    assert run.log["computed"] == 0
    assert not set(inodes()) & set(before)


def test_a_damaged_shard_is_told_and_computed_anew():
    pack_clips(clips(30))
    before = output_bytes()
    path = shards.shard_paths(OUTPUT)[1]
    lost = {row["clip_id"] for row in shards.iter_rows(OUTPUT, [])}
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedStore, match="were damaged and are set aside"):
        pack_clips(clips(30))
    run, _ = pack_clips(clips(30))
    assert 0 < run.log["computed"] < len(lost)
    assert output_bytes() == before


def test_a_store_that_another_run_packs_meanwhile_still_reads_its_items(monkeypatch):
    some = clips(20)
    with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as early:
        run = StageRun("stage", "", 1)
        early.fill(run, some, [(clip["clip_id"], clip["number"]) for clip in some], compute)
        pack_clips(some)
        assert store_files(".items") == []
        assert [early.row(clip)["values"][0] for clip in some] == list(range(20))
    with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as early:
        early.missing(some)
        pack_clips(clips(25))
        index = early.pack(OUTPUT, some)
        assert [row["status"] for row in index] == ["ok"] * 20


def test_items_that_somebody_deletes_meanwhile_are_computed_anew():
    pack_clips(clips(20))
    with ClipItems("stage", "v1", COLUMNS, [LEVEL]) as items:
        items.missing(clips(20))
        for suffix in (".facts", ".parquet"):
            for path in store_files(suffix):
                path.unlink()
        with pytest.raises(DamagedStore, match="were deleted while it was read"):
            items.row(clips(20)[0])
    run, _ = pack_clips(clips(20))
    assert run.log["computed"] == 20


def test_items_of_failed_workers_are_not_kept_as_whole():
    from audio_from_video.runtime.worker import Failure

    def failing(payloads) -> Iterator[dict | Failure]:
        for row in compute(payloads):
            yield Failure("timeout", "slow") if row["values"][0] == 1 else row

    _, index = pack_clips(clips(20), function=failing)
    assert index[1]["status"] == "timeout"
    again, index = pack_clips(clips(20))
    assert again.log["computed"] == 1
    assert [row["status"] for row in index] == ["ok"] * 20
