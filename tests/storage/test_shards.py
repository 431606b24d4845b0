"""Parquet directories: what goes in comes out, whatever the names, and never half-written."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards
from tests.support.shard_rows import SCHEMA, full_row, index_row

PARTITIONS = ds.partitioning(
    pa.schema([("split", pa.string()), ("action", pa.string())]), flavor="hive"
)
ACTIONS = [
    "playing+music",
    "waving hands",
    "50%",
    "a/b",
    "a%2Fb",
    "ünï=★",
    "split=test",
    "'quoted\"",
    "_under",
    ".dot",
    "null",
]


def some_rows(actions=ACTIONS) -> list[dict]:
    labelled = [
        full_row(f"{action}/{split}_{i}", split)
        for action in actions
        for split in ("training", "test")
        for i in range(2)
    ]
    rows = labelled + [full_row(f"unlabelled/u_{i}", "unlabelled") for i in range(3)]
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def assert_same(found: dict, row: dict) -> None:
    assert found["clip_id"] == row["clip_id"]
    assert (
        np.array_equal(found["features"], row["features"]) and found["features"].dtype == np.float16
    )
    assert (found["jpegs"], found["note"], found["level"]) == (
        row["jpegs"],
        row["note"],
        row["level"],
    )


COLUMNS = ["features", "jpegs", "note", "level"]


def test_rows_come_back_in_order_with_odd_actions_and_without_action(tmp_path):
    rows = some_rows()
    shards.write(tmp_path / "out", SCHEMA, iter(rows), rows, "v1")
    found = list(shards.iter_rows(tmp_path / "out", COLUMNS))
    assert len(found) == len(rows) == 4 * len(ACTIONS) + 3
    for one, other in zip(found, rows, strict=True):
        assert_same(one, other)
    assert [row["clip_id"] for row in shards.iter_rows(tmp_path / "out", ["note"], ("test",))] == [
        row["clip_id"] for row in rows if row["split"] == "test"
    ]
    assert shards.item_version(tmp_path / "out") == "v1"
    assert shards.tensor_shape(tmp_path / "out", "features") == (3, 4)
    assert shards.read_columns(tmp_path / "out", ["features"])["features"].shape == (
        len(rows),
        3,
        4,
    )


def test_pyarrow_dataset_reads_split_and_action(tmp_path):
    rows = some_rows()
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "v1")
    table = ds.dataset(tmp_path / "out", partitioning=PARTITIONS).to_table(
        columns=["clip_id", "split", "action", "level"]
    )
    found = {row["clip_id"]: (row["split"], row["action"]) for row in table.to_pylist()}
    assert found == {row["clip_id"]: (row["split"], row["action"]) for row in rows}
    music = ds.dataset(tmp_path / "out", partitioning=PARTITIONS).to_table(
        filter=ds.field("action") == "playing+music"
    )
    assert len(music) == 4


def test_folders_are_named_as_pyarrow_names_them():
    for action in [None, *ACTIONS, *(chr(code) for code in range(1, 0x250)), "日本", "\U0001f3b5"]:
        value = ds.field("action").is_null() if action is None else ds.field("action") == action
        assert (
            shards.partition("training", action)
            == PARTITIONS.format((ds.field("split") == "training") & value)[0]
        )


def test_index_holds_every_clip_and_refused_ones_have_no_row(tmp_path):
    rows = [full_row("a/s_1", "training"), full_row("a/s_2", "training")]
    index = [rows[0], index_row("a/s_3", "training", "unreadable", level=None), rows[1]]
    shards.write(tmp_path / "out", SCHEMA, rows, index, "v1", [pa.field("level", pa.float32())])
    table = shards.read_index(tmp_path / "out").to_pylist()
    assert [(row["clip_id"], row["status"], row["level"]) for row in table] == [
        ("a/s_1", "ok", 0.5),
        ("a/s_3", "unreadable", None),
        ("a/s_2", "ok", 0.5),
    ]
    assert [row["clip_id"] for row in shards.ok_rows(tmp_path / "out")] == ["a/s_1", "a/s_2"]
    assert [row["input_key"] for row in shards.inputs(tmp_path / "out")] == [
        "key of a/s_1",
        "key of a/s_2",
    ]


def test_a_failure_half_way_leaves_the_old_directory(tmp_path):
    rows = some_rows(["a", "b"])
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "old")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")}

    def failing():
        yield from rows[:5]
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        shards.write(tmp_path / "out", SCHEMA, failing(), rows, "new")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.parquet")} == before
    with pytest.raises(RuntimeError):
        shards.write(tmp_path / "fresh", SCHEMA, failing(), rows, "new")
    with pytest.raises(UserError, match="is missing: run `dvc repro`"):
        shards.read_index(tmp_path / "fresh")


def test_extras_appear_with_the_directory_and_readers_skip_them(tmp_path):
    rows = some_rows(["a", "b"])
    shards.write(tmp_path / "plain", SCHEMA, rows, rows, "v1")

    def extras(folder):
        assert folder.parent == tmp_path and folder.name != "out"  # not there yet
        assert not (folder / shards.INDEX).exists()  # which is written last
        shards.write_table(pa.table({"caption": ["x", "y"]}), folder / "_captions.parquet")
        (folder / "_labels.bin").write_bytes(b"labels")

    shards.write(tmp_path / "out", SCHEMA, rows, rows, "v1", extras=extras)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "_captions.parquet",
        "_labels.bin",
        shards.INDEX,
    }
    assert (
        pq.read_table(out / "_captions.parquet")["caption"].to_pylist() == ["x", "y"]
        and (out / "_labels.bin").read_bytes() == b"labels"
    )
    for one, other in zip(shards.iter_rows(out, COLUMNS), rows, strict=True):
        assert_same(one, other)
    assert shards.read_columns(out, ["note"])["clip_id"] == [row["clip_id"] for row in rows]
    assert shards.ok_rows(out) == shards.ok_rows(tmp_path / "plain")
    dataset = ds.dataset(out, partitioning=PARTITIONS)
    assert len(dataset.files) == 5 and dataset.to_table(columns=["clip_id"]).num_rows == len(rows)
    plain = {
        path.relative_to(tmp_path / "plain"): path.read_bytes()
        for path in (tmp_path / "plain").rglob("*.parquet")
    }
    assert {
        path.relative_to(out): path.read_bytes()
        for path in out.rglob("*.parquet")
        if path.name != "_captions.parquet"
    } == plain
    shards.write(out, SCHEMA, rows, rows, "v1")  # without extras the old ones are gone
    assert [path.name for path in out.iterdir() if path.is_file()] == [shards.INDEX]


def test_extras_that_fail_leave_the_old_directory(tmp_path):
    rows = some_rows(["a"])
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "old")

    def failing(folder):
        (folder / "_half").write_bytes(b"x")
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        shards.write(tmp_path / "out", SCHEMA, rows[:1], rows[:1], "new", extras=failing)
    assert shards.item_version(tmp_path / "out") == "old" and len(
        list(shards.iter_rows(tmp_path / "out", ["note"]))
    ) == len(rows)
    assert not (tmp_path / "out" / "_half").exists()


def test_rewriting_leaves_nothing_of_the_old_content(tmp_path):
    rows = some_rows(["a", "b"])
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "old")
    fewer = [row for row in rows if row["action"] == "b"]
    shards.write(tmp_path / "out", SCHEMA, fewer, fewer, "new")
    assert {row["clip_id"] for row in shards.iter_rows(tmp_path / "out", ["note"])} == {
        row["clip_id"] for row in fewer
    }
    assert len(list((tmp_path / "out").rglob("part-*.parquet"))) == 2


def test_same_rows_same_bytes(tmp_path):
    rows = some_rows()
    for name in ("one", "two"):
        shards.write(tmp_path / name, SCHEMA, iter(rows), rows, "v")
    one, two = (
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*.parquet")
        }
        for name in ("one", "two")
    )
    assert one == two and len(one) == 2 * len(ACTIONS) + 2


def test_groups_and_shards_are_bounded_and_rows_are_consumed_as_a_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(shards, "MOST_ROWS_PER_SHARD", 10)
    monkeypatch.setattr(shards, "MEAN_ROWS_PER_SHARD", 10**9)
    rows = [full_row(f"a/s_{i:02d}", "training") for i in range(23)]
    largest = 0
    real = shards.to_table

    def watched(some, schema):
        nonlocal largest
        largest = max(largest, len(some))
        return real(some, schema)

    monkeypatch.setattr(shards, "to_table", watched)
    shards.write(tmp_path / "out", SCHEMA, iter(rows), rows, "v")
    files = shards.shard_paths(tmp_path / "out")
    assert largest == 4
    assert [pq.ParquetFile(path).metadata.num_rows for path in files] == [10, 10, 3]
    assert [pq.ParquetFile(path).metadata.num_row_groups for path in files] == [3, 3, 1]
    assert [row["clip_id"] for row in shards.iter_rows(tmp_path / "out", ["note"])] == [
        row["clip_id"] for row in rows
    ]


def test_a_clip_that_is_added_changes_its_own_shard_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MEAN_ROWS_PER_SHARD", 8)
    names = [f"a/s_{i:03d}" for i in range(200)]
    for output, members in (("all", names), ("without", names[:77] + names[78:])):
        rows = [full_row(name, "training") for name in members]
        shards.write(tmp_path / output, SCHEMA, rows, rows, "v")
    contents = {}
    for output in ("all", "without"):
        paths = shards.shard_paths(tmp_path / output)
        contents[output] = [path.read_bytes() for path in paths]
    assert 10 < len(contents["all"]) < 60
    changed = [content for content in contents["all"] if content not in contents["without"]]
    # The clip's own shard, or the two that it parts.
    assert 1 <= len(changed) <= 2


def test_rows_of_named_clips_are_read_without_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(shards, "MEAN_ROWS_PER_SHARD", 16)
    rows = [full_row(f"a/s_{i:03d}", "training") for i in range(90)]
    shards.write(tmp_path / "out", SCHEMA, rows, rows, "v")
    wanted = {row["clip_id"] for row in rows[5::17]}
    read = []
    real = shards.to_rows

    def watched(table):
        read.append(table.num_rows)
        return real(table)

    monkeypatch.setattr(shards, "to_rows", watched)
    found = list(shards.iter_rows(tmp_path / "out", ["features"], clip_ids=wanted))
    assert [row["clip_id"] for row in found] == [
        r["clip_id"] for r in rows if r["clip_id"] in wanted
    ]
    by_name = {row["clip_id"]: row for row in rows}
    for row in found:
        assert np.array_equal(row["features"], by_name[row["clip_id"]]["features"])
    assert sum(read) == len(wanted)
    assert list(shards.iter_rows(tmp_path / "out", ["features"], clip_ids=set())) == []


def test_joined_streams_keep_what_all_have(tmp_path):
    rows = some_rows(["a", "b"])
    others = [row for i, row in enumerate(rows) if i % 3]
    shards.write(tmp_path / "one", SCHEMA, rows, rows, "v")
    shards.write(tmp_path / "two", SCHEMA, others, others, "v")
    pairs = list(shards.iter_joined([tmp_path / "one", tmp_path / "two"], ["features"]))
    assert [one["clip_id"] for one, _ in pairs] == [row["clip_id"] for row in others]
    assert all(
        one["clip_id"] == two["clip_id"] and np.array_equal(one["features"], two["features"])
        for one, two in pairs
    )


def test_directories_in_different_orders_are_not_joined(tmp_path):
    rows = some_rows(["a"])
    shards.write(tmp_path / "one", SCHEMA, rows, rows, "v")
    swapped = [*rows[:-2], rows[-1], rows[-2]]
    shards.write(tmp_path / "two", SCHEMA, swapped, swapped, "v")
    with pytest.raises(UserError) as caught:
        list(shards.iter_joined([tmp_path / "one", tmp_path / "two"], ["features"]))
    for part in (f"{tmp_path}/one and {tmp_path}/two", f"has the clip {rows[-2]['clip_id']}"):
        assert part in str(caught.value)


def test_table_and_rows_are_inverse():
    rows = some_rows(["a"])
    for one, other in zip(
        shards.to_rows(shards.to_table(rows, pa.schema([("clip_id", pa.string()), *SCHEMA]))),
        rows,
        strict=True,
    ):
        assert_same(one, other)
    empty = shards.to_table([], SCHEMA)
    assert (
        len(empty) == 0
        and shards.to_rows(empty) == []
        and shards.as_array(empty["features"]).shape == (0, 3, 4)
    )


def test_other_schema_version_and_empty_output_are_sentences(tmp_path, monkeypatch):
    shards.write(tmp_path / "out", SCHEMA, [], [index_row("a/s_1", "training", "unreadable")], "v")
    with pytest.raises(UserError, match="holds no clip"):
        shards.tensor_shape(tmp_path / "out", "features")
    assert list(shards.iter_rows(tmp_path / "out", ["note"])) == []
    monkeypatch.setattr(shards, "SCHEMA_VERSION", "2")
    with pytest.raises(UserError, match="schema version 1, this code reads 2"):
        shards.read_index(tmp_path / "out")


def test_single_tables_are_atomic_and_versioned(tmp_path):
    table = pa.table({"x": [1, 2]}).replace_schema_metadata({"actions": json.dumps(["a"])})
    shards.write_table(table, tmp_path / "new" / "t.parquet")
    found = pq.read_table(tmp_path / "new" / "t.parquet")
    assert (
        found["x"].to_pylist() == [1, 2]
        and found.schema.metadata[b"schema_version"] == b"1"
        and b"actions" in found.schema.metadata
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["t.parquet"]


def write_clips(*contents: str) -> None:
    """The table of clips, which have these contents."""
    rows = [
        index_row(f"a/s_{i}", "test") | {"content_hash": content}
        for i, content in enumerate(contents)
    ]
    shards.write_table(shards.with_clip_set(pa.Table.from_pylist(rows)), layout.CLIPS)


def test_outputs_of_another_data_set_are_a_sentence(workspace):
    directory, path = workspace.folder / "out", workspace.folder / "t.parquet"
    write_clips("1", "2")
    rows = some_rows(["a"])
    shards.write(directory, SCHEMA, rows, rows, "v")
    shards.write_table(pa.table({"x": [1]}), path)
    assert len(shards.read_index(directory)) == len(rows)
    assert len(shards.read_table(path)) == 1

    write_clips("1", "3")
    for output, read in (
        (directory, lambda: shards.read_index(directory)),
        (directory, lambda: next(shards.iter_rows(directory, ["note"]))),
        (path, lambda: shards.read_table(path, ["x"])),
    ):
        with pytest.raises(UserError) as caught:
            read()
        expected = f"{output} is of another data set than data/clips.parquet: run `dvc repro`"
        assert str(caught.value).startswith(expected)

    write_clips("1", "2")
    assert len(shards.read_table(path)) == 1


def test_a_data_set_is_its_clips_with_contents_splits_actions_and_sources():
    def digest(**changes) -> str | None:
        row = index_row("a/s_1", "test", "ok") | {"content_hash": "1", "reason": ""} | changes
        return shards.clip_set(shards.with_clip_set(pa.Table.from_pylist([row])).schema)

    assert digest() == digest(reason="of no matter", item_key="2")
    changes = (
        {"content_hash": "2"},
        {"split": "validation"},
        {"action": "b"},
        {"source_id": "t"},
        {"status": "unreadable"},
    )
    digests = {digest(**change) for change in changes}
    assert len(digests | {digest()}) == 1 + len(changes)


def test_files_that_name_no_data_set_are_read(workspace):
    """As before there was a table of clips, or from elsewhere."""
    path = workspace.folder / "t.parquet"
    shards.write_table(pa.table({"x": [1]}), path)
    assert shards.current_clip_set() is None
    write_clips("1")
    assert len(shards.read_table(path)) == 1
