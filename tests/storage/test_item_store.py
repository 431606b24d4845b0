"""Items are computed once per content and version; damage is noticed; an interrupted run goes on where it was."""

import os
import sqlite3
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import item_store, shards
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.item_store import BATCH, ItemStore
from tests.support.shard_rows import index_row
from tools import stored_items

SCHEMA = pa.schema(
    [
        ("values", shards.tensor(pa.float32(), 2)),
        ("blob", pa.binary()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)


def compute(payloads):
    for payload in payloads:
        yield {
            "values": np.full(2, payload, np.float32),
            "blob": bytes([payload % 256]),
            "status": "ok",
            "reason": "",
        }


def fill(version: str = "v1", count: int = 10, function=compute) -> tuple[list, dict]:
    """The payloads that had to be computed, and the failures."""
    computed = []

    def noted(payloads):
        yield from function(computed.append(payload) or payload for payload in payloads)

    with ItemStore("stage", version, SCHEMA) as store:
        failures = store.fill([(f"key {i}", i) for i in range(count)], noted)
    return computed, failures


@pytest.fixture(autouse=True)
def place(workspace):
    return workspace


def test_only_what_is_missing_is_computed():
    assert fill(count=8)[0] == list(range(8))
    assert fill(count=10)[0] == [8, 9]
    assert fill(count=10)[0] == []
    with ItemStore("stage", "v1", SCHEMA) as store:
        row = store.get("key 9")
        assert (
            row["values"].tolist() == [9, 9]
            and row["values"].dtype == np.float32
            and row["blob"] == b"\t"
        )
        assert store.get("key 10") is None


def test_parameters_there_and_back_compute_nothing_the_second_time():
    versions = [digest("frames", 1, {"fps": fps}) for fps in (6.0, 8.0, 6.0)]
    assert [len(fill(version)[0]) for version in versions] == [10, 10, 0]
    assert versions[0] == versions[2] != versions[1]


def test_digest_tells_types_and_order_apart():
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert len({digest(1), digest(1.0), digest("1"), digest([1]), digest(None), digest(1, 1)}) == 6
    assert (
        digest("frames", 1) == "9e66e7f515dbef975714f3a4f58e910b"
    )  # another one would make every stored item unknown


def damage(path, key: str, column: str) -> None:
    with sqlite3.connect(path) as database:
        value = bytearray(
            database.execute(f"SELECT {column} FROM items WHERE key = ?", (key,)).fetchone()[0]
        )
        value[len(value) // 2] ^= 1
        database.execute(f"UPDATE items SET {column} = ? WHERE key = ?", (bytes(value), key))
    database.close()


@pytest.mark.parametrize("column", ["value", "checksum"])
def test_a_damaged_item_is_computed_anew(column):
    fill()
    with ItemStore("stage", "v1", SCHEMA) as store:
        path = store.path
    damage(path, "key 4", column)
    with ItemStore("stage", "v1", SCHEMA) as store:
        assert store.get("key 4") is None and store.damaged == 1
    assert fill()[0] == [4]
    assert fill()[0] == []


def test_an_interrupted_run_goes_on_where_it_was():
    def interrupted(payloads):
        for row in compute(payloads):
            if row["values"][0] == 2 * BATCH + 5:
                raise KeyboardInterrupt
            yield row

    with pytest.raises(KeyboardInterrupt):
        fill(count=3 * BATCH, function=interrupted)
    computed, _ = fill(count=3 * BATCH)
    assert computed == list(range(2 * BATCH, 3 * BATCH))  # whole batches are kept


def test_failures_are_told_and_tried_again():
    def flaky(payloads):
        for row in compute(payloads):
            yield Failure("timeout", "took too long") if row["values"][0] == 3 else row

    computed, failures = fill(function=flaky)
    assert failures == {"key 3": Failure("timeout", "took too long")} and len(computed) == 10
    assert fill()[0] == [3]


def test_two_clips_of_one_content_share_an_item():
    with ItemStore("stage", "v1", SCHEMA) as store:
        store.fill([("same", 1), ("same", 1), ("other", 2)], compute)
        assert store.get("same")["blob"] == b"\x01"


class Stage:
    """Packs clips through ClipItems as a stage does."""

    COLUMNS = pa.schema([("values", shards.tensor(pa.float32(), 2))])

    def __init__(self, clips: list[dict], version: str = "v1", function=compute):
        self.run = stage_run.StageRun("stage", None, 1)
        with ClipItems("stage", version, self.COLUMNS, [pa.field("level", pa.float32())]) as items:
            items.fill(
                self.run,
                clips,
                [(clip["clip_id"], clip["number"]) for clip in clips],
                lambda todo: ({**row, "level": 1.5} for row in function(todo)),
            )
            self.index = items.pack(stage_run.Path("data/stage"), clips)


def clips(count: int) -> list[dict]:
    return [
        index_row(f"a/s_{i:02d}", "training", number=i, input_key=f"content {i}")
        for i in range(count)
    ]


def test_growth_equals_a_run_from_scratch(workspace, monkeypatch):
    Stage(clips(10))
    grown = Stage(clips(13))
    assert (grown.run.log["computed"], grown.run.log["reused"]) == (3, 10)
    grown_bytes = {
        path.name: path.read_bytes()
        for path in (workspace.folder / "data/stage").rglob("*.parquet")
    }
    monkeypatch.setenv("ITEM_STORE", str(workspace.folder / "fresh"))
    fresh = Stage(clips(13))
    assert (fresh.run.log["computed"], fresh.run.log["reused"]) == (13, 0)
    assert grown_bytes == {
        path.name: path.read_bytes()
        for path in (workspace.folder / "data/stage").rglob("*.parquet")
    }


def test_payloads_of_other_clips_are_refused_and_nothing_is_stored_under_their_keys(workspace):
    run = stage_run.StageRun("stage", "", 1)
    swapped = [(clip["clip_id"], clip["number"]) for clip in clips(3)]
    swapped[1], swapped[2] = swapped[2], swapped[1]
    for payloads, there in ((swapped, "the clip a/s_02"), (swapped[:1], "no more clips")):
        with (
            ClipItems("stage", "v1", Stage.COLUMNS) as items,
            pytest.raises(UserError) as caught,
        ):
            items.fill(run, clips(3), payloads, compute)
        assert (
            "the clips of stage and what is read for them do not hold the same clips in the same "
            f"order: where the first has the clip a/s_01, the second has {there}"
        ) in str(caught.value)
    assert fill()[0] == list(range(10))


def test_a_stage_that_fills_twice_logs_the_sums(workspace):
    run = stage_run.StageRun("stage", "", 1)

    def slowly(payloads):
        for row in compute(payloads):
            time.sleep(0.05)
            yield row

    def read_slowly(some):
        for i in some:
            time.sleep(0.1)
            yield f"key {i}", i

    with ItemStore("stage", "v1", SCHEMA) as store:
        run.fill(store, read_slowly(range(2)), 2, slowly)
        run.fill(store, read_slowly(range(4)), 4, slowly)
    damage(store.path, "key 1", "value")
    with ItemStore("stage", "v1", SCHEMA) as store:
        run.fill(store, read_slowly(range(1, 2)), 1, slowly)
    run.write_log(0)
    assert (run.log["computed"], run.log["reused"], run.log["damaged_items"]) == (5, 2, 1)
    assert 0.7 <= run.log["reading_s"] < 0.9
    assert 0.25 <= run.log["computing_s"] < 0.6


def test_the_version_of_items_names_the_libraries_that_make_them(monkeypatch):
    releases = {"av": "18.1.0", "torch": "2.13.0"}
    monkeypatch.setattr(item_store.metadata, "version", releases.__getitem__)

    def version() -> str:
        return item_store.version("frames", 1, {"fps": 6.0}, libraries=("torch", "av"))

    before = version()
    assert before == item_store.version("frames", 1, {"fps": 6.0}, libraries=("av", "torch"))
    releases["torch"] = "2.13.0+cpu"
    assert version() == before
    releases["av"] = "18.2.0"
    assert version() != before
    monkeypatch.undo()
    with pytest.raises(UserError, match="the library none-such is not installed: run `pip"):
        item_store.version("frames", 1, libraries=("none-such",))


def test_keys_chain_from_content_and_version():
    one, two = Stage(clips(2)).index, Stage(clips(2), "v2").index
    assert one[0]["item_key"] == digest("content 0", "v1") and one[0]["level"] == 1.5
    assert len({row["item_key"] for row in one + two}) == 4


def test_a_failed_clip_has_a_row_without_key():
    def flaky(payloads):
        for row in compute(payloads):
            yield (
                {"status": "ok", **row}
                if row["values"][0] != 1
                else {**row, "status": "unreadable", "reason": "no decoder"}
            )

    index = Stage(clips(3), function=flaky).index
    assert [(row["status"], row["item_key"] is None) for row in index] == [
        ("ok", False),
        ("unreadable", True),
        ("ok", False),
    ]
    assert [
        row["clip_id"] for row in shards.iter_rows(stage_run.Path("data/stage"), ["values"])
    ] == [
        "a/s_00",
        "a/s_02",
    ]


def test_prune_deletes_what_current_outputs_do_not_use(monkeypatch, capsys):
    Stage(clips(3), "old")
    Stage(clips(3), "new")
    monkeypatch.setattr(sys, "argv", ["item_store"])
    stored_items.main()
    listed = capsys.readouterr().out
    assert "in use    stage/new" in listed and "unused    stage/old" in listed
    monkeypatch.setattr(sys, "argv", ["item_store", "--prune"])
    stored_items.main()
    assert {path.name for path in (item_store.folder() / "stage").iterdir()} == {"new.sqlite"}
    assert Stage(clips(3), "new").run.log["computed"] == 0


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
    monkeypatch.setattr(sys, "argv", ["item_store", "--prune"])
    stored_items.main()
    assert sorted(path.name for path in store.rglob("*") if path.is_file()) == ["new.safetensors"]
    assert capsys.readouterr().out.count("deleted") == 3


def test_a_file_that_is_no_database_is_set_aside(capsys):
    fill()
    with ItemStore("stage", "v1", SCHEMA) as store:
        path = store.path
    path.write_bytes(b"no database" * 100)
    assert fill()[0] == list(range(10)) and fill()[0] == []
    assert (
        "was damaged (file is not a database) and is set aside as v1.damaged: its items are computed anew"
        in capsys.readouterr().err
    )


def test_damage_within_the_database_is_a_sentence_and_the_next_run_computes_anew():
    fill(count=2000)
    with ItemStore("stage", "v1", SCHEMA) as store:
        path = store.path
    data = bytearray(path.read_bytes())
    data[8192 : len(data) - 4096] = b"\xff" * (len(data) - 12_288)
    path.write_bytes(data)
    with pytest.raises(
        UserError, match="was damaged .* and is set aside as v1.damaged; run the same command again"
    ):
        fill(count=2000)
    assert len(fill(count=2000)[0]) == 2000


def test_damaged_items_are_told(workspace, capsys):
    Stage(clips(5))
    damage(item_store.folder() / "stage/v1.sqlite", "content 3", "value")
    assert Stage(clips(5)).run.log["damaged_items"] == 1
    assert (
        "stage: 1 stored items were damaged (wrong checksum); they were computed anew"
        in capsys.readouterr().err
    )
