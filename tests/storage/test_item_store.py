"""Items are computed once per content and version; damage is noticed; a killed run goes on."""

import errno
import fcntl
import mmap
import os
import sqlite3
import time

import numpy as np
import platformdirs
import pyarrow as pa
import pytest

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import DamagedStore, UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import item_store
from audio_from_video.storage.chunk_files import Chunk, DamagedChunk
from audio_from_video.storage.item_store import BATCH, ItemStore
from tests.support.stored_items import COLUMNS, LEVEL, compute, damage_value

STATUS = [pa.field("status", pa.string()), pa.field("reason", pa.string())]
SCHEMA = pa.schema([*COLUMNS, pa.field("blob", pa.binary()), LEVEL, *STATUS])


def fill(version: str = "v1", count: int = 10, function=compute) -> tuple[list, dict]:
    """The payloads that had to be computed, and the failures."""
    computed = []

    def passed_on(payloads):
        for payload in payloads:
            computed.append(payload)
            yield payload

    def counting(payloads):
        return function(passed_on(payloads))

    with ItemStore("stage", version, SCHEMA) as store:
        failures = store.fill([(f"key {i}", i) for i in range(count)], counting)
    return computed, failures


@pytest.fixture(autouse=True)
def place(workspace):
    return workspace


def test_only_what_is_missing_is_computed():
    assert fill(count=8)[0] == list(range(8))
    assert fill(count=10)[0] == [8, 9]
    assert fill(count=10)[0] == []
    with ItemStore("stage", "v1", SCHEMA) as store:
        row = store["key 9"]
        assert row["values"].tolist() == [9, 9]
        assert row["values"].dtype == np.float32
        assert row["blob"] == b"\t"
        assert "key 10" not in store


def test_parameters_there_and_back_compute_nothing_the_second_time():
    versions = [digest("frames", 1, {"fps": fps}) for fps in (6.0, 8.0, 6.0)]
    assert [len(fill(version)[0]) for version in versions] == [10, 10, 0]
    assert versions[0] == versions[2] != versions[1]


def test_digest_tells_types_and_order_apart():
    assert digest({"b": 1, "a": 2}) == digest({"a": 2, "b": 1})
    assert len({digest(1), digest(1.0), digest("1"), digest([1]), digest(None), digest(1, 1)}) == 6
    # Another digest would make every stored item unknown.
    assert digest("frames", 1) == "9e66e7f515dbef975714f3a4f58e910b"


def test_a_damaged_value_is_noticed_when_it_is_read_and_its_file_is_computed_anew():
    fill(count=BATCH + 10)
    with ItemStore("stage", "v1", SCHEMA) as store:
        damage_value("key 4", store.path)
        assert store["key 5"]["blob"] == b"\x05"
        with pytest.raises(DamagedStore, match="1 files of the item store .* set aside"):
            store["key 4"]
    assert fill(count=BATCH + 10)[0] == list(range(BATCH))
    assert fill(count=BATCH + 10)[0] == []


def test_a_full_store_is_checked_by_its_keys_alone(monkeypatch):
    fill()
    monkeypatch.setattr(Chunk, "value", lambda self, key: pytest.fail("a value is read"))
    assert fill()[0] == []


def test_files_of_several_writers_are_one_store():
    with ItemStore("stage", "v1", SCHEMA) as one, ItemStore("stage", "v1", SCHEMA) as other:
        for store, keys in ((one, [0, 1]), (other, [2, 3]), (one, [4]), (other, [4])):
            store.fill([(f"key {i}", i) for i in keys], compute)
    assert fill(count=6)[0] == [5]


def test_a_crash_while_writing_leaves_no_item_and_no_file(monkeypatch):
    def crash(descriptor: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(OSError, match="no space"):
        fill()
    assert list((item_store.folder() / "stage/v1").iterdir()) == []


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
        assert store["same"]["blob"] == b"\x01"


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
    run.write_log(0)
    assert (run.log["computed"], run.log["reused"]) == (4, 2)
    assert 0.6 <= run.log["reading_s"] < 0.8
    assert 0.2 <= run.log["computing_s"] < 0.6


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


@pytest.mark.parametrize("offset", [-1, -20, -30])
def test_a_file_with_damaged_contents_is_set_aside(offset, capsys):
    """The last bytes are the digest of the table of contents, its length, and the table."""
    fill()
    (path,) = (item_store.folder() / "stage/v1").iterdir()
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    assert fill()[0] == list(range(10)) and fill()[0] == []
    assert "1 files of the item store" in capsys.readouterr().err
    assert path.with_suffix(".damaged").exists()


@pytest.mark.parametrize("size", [0, 10, 24, 1000])
def test_a_file_that_was_cut_off_is_set_aside(size):
    fill()
    (path,) = (item_store.folder() / "stage/v1").iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert fill()[0] == list(range(10))


def test_any_flipped_byte_is_noticed():
    fill(count=2)
    (path,) = (item_store.folder() / "stage/v1").iterdir()
    sound = path.read_bytes()
    for place in range(0, len(sound), 7):
        content = bytearray(sound)
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(DamagedChunk):
            chunk = Chunk(path)
            for key in chunk.keys:
                chunk.value(key)


def test_the_store_needs_no_locks_and_no_shared_memory(monkeypatch):
    """As on a network file system that refuses both."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    for module, name in ((fcntl, "flock"), (fcntl, "lockf"), (fcntl, "fcntl"), (os, "link")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(mmap, "mmap", refuse)
    monkeypatch.setattr(sqlite3, "connect", refuse)
    assert len(fill()[0]) == 10 and fill()[0] == []


def test_a_user_without_home_is_told_the_way_out(monkeypatch):
    def no_home(_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("ITEM_STORE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", no_home)
    with pytest.raises(UserError, match="could not determine the home directory.*ITEM_STORE"):
        item_store.folder()


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ITEM_STORE", str(tmp_path / "file/items"))
    with pytest.raises(UserError, match="cannot be made .*ITEM_STORE"):
        ItemStore("stage", "version", SCHEMA).__enter__()
