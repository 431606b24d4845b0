"""Per-clip data as Parquet: a directory with an index and, per split and action, shards of rows.

    data/<stage>/split=<split>/action=<action>/part-00000.parquet   a row per clip with status `ok`
    data/<stage>/_index.parquet    a row per clip with status and reason; it is written last

Arrays are columns of Arrow's fixed-shape tensor type, media are bytes.  Rows pass through here as
dicts of Python values, with NumPy arrays for tensors.  `pyarrow.dataset` reads the shards; it skips
names that begin with `_`.  A directory appears at once or not at all.  The index holds the digests
of the shards, so that whoever reads through this module notices damage.

Every Parquet file says in its metadata of which data set it is: `clip_set`, a digest of the clips
in data/clips.parquet.  A stage that finds an output of another data set stops with a sentence.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audio_from_video.runtime.atomic import replace_directory
from audio_from_video.runtime.digests import digest, file_digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout
from audio_from_video.storage.alignment import aligned

SCHEMA_VERSION = "1"
INDEX = "_index.parquet"
NO_ACTION = "__HIVE_DEFAULT_PARTITION__"  # pyarrow's name of the folder of a null
ROWS_PER_GROUP = 64  # bounds what a reader holds: 64 clips of [18, 768] float16 are 1.7 MB
MEAN_ROWS_PER_SHARD = 256
MOST_ROWS_PER_SHARD = 1024
CLIP_SET = b"clip_set"  # the key in the metadata
INDEX_FIELDS = [
    pa.field("clip_id", pa.string()),
    pa.field("split", pa.string()),  # training, validation, test, unlabelled
    pa.field("action", pa.string()),  # null for unlabelled clips
    pa.field("source_id", pa.string()),  # the video the clip was cut from
    # what the clip's result was computed from and how; null where the clip was refused
    pa.field("item_key", pa.string()),
    pa.field("status", pa.string()),  # ok, or why the clip was refused
    pa.field("reason", pa.string()),  # detail for people, '' where ok
]


# Rows and tables


def tensor(dtype: pa.DataType, *shape: int) -> pa.DataType:
    """Return the column type of an array of fixed shape."""
    return pa.fixed_shape_tensor(dtype, shape)


def is_tensor(dtype: pa.DataType) -> bool:
    """Return whether a column of this type holds arrays of fixed shape."""
    return isinstance(dtype, pa.FixedShapeTensorType)


def to_table(rows: list[dict], schema: pa.Schema) -> pa.Table:
    """Return rows (dicts; NumPy arrays for tensor columns) as a table of `schema`."""
    columns = []
    for field in schema:
        values = [row[field.name] for row in rows]
        # from_numpy_ndarray refuses empty arrays.
        if is_tensor(field.type) and values:
            dtype = field.type.value_type.to_pandas_dtype()
            stacked = np.ascontiguousarray(np.stack(values), dtype=dtype)
            columns.append(pa.FixedShapeTensorArray.from_numpy_ndarray(stacked))
        else:
            columns.append(pa.array(values, field.type))
    return pa.table(columns, schema=schema)


def to_rows(table: pa.Table) -> list[dict]:
    """Return a table's rows as dicts: the inverse of `to_table`."""
    names = table.column_names
    columns = []
    for column in table.columns:
        values = as_array(column) if is_tensor(column.type) else column.to_pylist()
        columns.append(list(values))
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def as_array(column: pa.ChunkedArray) -> np.ndarray:
    """Return a tensor column as an array [rows, *shape]."""
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # what combine_chunks gives for an empty column
        return np.empty((0, *column.type.shape), column.type.value_type.to_pandas_dtype())
    return combined.to_numpy_ndarray()


# Data sets


def with_clip_set(clips: pa.Table) -> pa.Table:
    """Return the table of data/clips.parquet with the digest of its data set in the metadata.

    The digest is of the `ok` clips: their names, contents, splits, actions and sources.
    """
    columns = ["clip_id", "content_hash", "split", "action", "source_id", "status"]
    rows = clips.select(columns).to_pylist()
    ok = [list(row.values()) for row in rows if row["status"] == "ok"]
    metadata = clips.schema.metadata or {}
    return clips.replace_schema_metadata({**metadata, CLIP_SET: digest(ok)})


def current_clip_set() -> str | None:
    """Return the digest of the data set in data/clips.parquet; None without one."""
    if not layout.CLIPS.is_file():
        return None
    with undamaged(layout.CLIPS):
        return clip_set(pq.read_schema(layout.CLIPS))


def clip_set(schema: pa.Schema) -> str | None:
    """Return the digest of the data set that a file is of; None where it says nothing."""
    found = (schema.metadata or {}).get(CLIP_SET)
    return found.decode() if found else None


def _require_current_clip_set(path: Path, schema: pa.Schema) -> None:
    """Raise UserError where a file is of another data set than data/clips.parquet."""
    found = clip_set(schema)
    current = current_clip_set()
    if found and current and found != current:
        output = path.parent if path.name == INDEX else path
        raise UserError(
            f"{output} is of another data set than {layout.CLIPS}: run `dvc repro`, "
            "which makes anew what belongs to the present one"
        )


# Writing


def write_table(table: pa.Table, path: Path) -> None:
    """Write one Parquet file atomically, with schema version and data set in its metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {**(table.schema.metadata or {}), b"schema_version": SCHEMA_VERSION.encode()}
    current = current_clip_set()
    if current:
        # The table of clips brings its own.
        metadata.setdefault(CLIP_SET, current.encode())
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(
        table.replace_schema_metadata(metadata),
        temporary,
        compression="zstd",
        write_page_checksum=True,
    )
    os.replace(temporary, path)


def write(
    directory: Path,
    schema: pa.Schema,
    rows: Iterable[dict],
    index: list[dict],
    version: str,
    index_fields: Iterable[pa.Field] = (),
    extras: Callable[[Path], None] = lambda folder: None,
) -> None:
    """Write a stage's output directory.

    rows: the `ok` clips in the order of `index`, which is that of data/clips.parquet; with split,
    action, clip_id and the columns of `schema`.  index: a dict per clip with INDEX_FIELDS and the
    stage's own `index_fields`; it is read after `rows` have passed.  version: of the items that the
    rows come from.  extras: writes what else belongs into the directory, under names that begin
    with `_`.
    """

    def fill(folder: Path) -> dict[str, str]:
        digests = {}
        for name, group in by_shard(rows):
            digests[name] = write_shard(folder / name, schema, group)
        extras(folder)
        return digests

    write_directory(directory, fill, index, version, index_fields)


def write_directory(
    directory: Path,
    fill: Callable[[Path], dict[str, str]],
    index: list[dict],
    version: str,
    index_fields: Iterable[pa.Field] = (),
) -> None:
    """Write a stage's output directory, whose shards `fill` writes into a folder.

    fill: returns the digests of the shards by name, in the order of the index.  The rest: see
    `write`.
    """
    with replace_directory(directory) as folder:
        digests = fill(folder)
        metadata = {
            "schema_version": SCHEMA_VERSION,
            "item_version": version,
            "digests": json.dumps(digests),
        }
        index_schema = pa.schema([*INDEX_FIELDS, *index_fields], metadata)
        write_table(pa.Table.from_pylist(index, schema=index_schema), folder / INDEX)


def partition(split: str, action: str | None) -> str:
    """Return the folder of a split and action inside an output.

    Every special character of their names is encoded.
    """
    value = NO_ACTION if action is None else quote(action, safe="")
    return f"split={split}/action={value}"


def by_shard(rows: Iterable[dict]) -> Iterator[tuple[str, Iterator[dict]]]:
    """Yield (name, rows) of each shard; its rows are used up before the next one is begun.

    rows: dicts with split, action and clip_id, in the order of the index.  A shard ends behind a
    clip whose id says so, MEAN_ROWS_PER_SHARD clips on average: a clip that is added or removed
    changes its own shard, and the others keep their bytes.
    """
    return groupby(rows, key=_ShardNames().of)


class _ShardNames:
    """The names of shards, found row by row."""

    def __init__(self) -> None:
        self._partition = ""
        self._number = 0
        self._rows = 0
        self._ended = False

    def of(self, row: dict) -> str:
        """Return the name of the shard of the next row."""
        own = partition(row["split"], row["action"])
        if own != self._partition:
            self._partition = own
            self._number = 0
            self._rows = 0
        elif self._ended or self._rows == MOST_ROWS_PER_SHARD:
            self._number += 1
            self._rows = 0
        self._rows += 1
        self._ended = int(digest("shard", row["clip_id"])[:8], 16) % MEAN_ROWS_PER_SHARD == 0
        return f"{own}/part-{self._number:05d}.parquet"


def write_shard(path: Path, schema: pa.Schema, rows: Iterable[dict]) -> str:
    """Write rows with clip_id and the columns of `schema` to a shard; return the file's digest.

    Raises ValueError where it is there already: the rows were not in the order of the index.
    """
    if path.exists():
        raise ValueError(f"{path} is there already: rows must be sorted by split and action")
    stored = pa.schema([pa.field("clip_id", pa.string()), *schema])
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, stored, compression="zstd") as writer:
        for group in _chunks(rows, ROWS_PER_GROUP):
            writer.write_table(to_table(list(group), stored))
    return file_digest(path)


def _chunks(rows: Iterable[dict], size: int) -> Iterator[Iterator[dict]]:
    """Yield consecutive runs of at most `size` rows; each is used up before the next is begun."""
    iterator = iter(rows)
    for first in iterator:
        chunk = chain([first], islice(iterator, size - 1))
        yield chunk
        for _ in chunk:  # what the consumer left
            pass


# Reading


@contextmanager
def undamaged(path: Path | str) -> Iterator[None]:
    """Turn what Parquet or the disk says of a damaged file into a UserError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        output = "/".join(Path(path).parts[:2])
        cause = str(error).splitlines()[0]
        raise UserError(
            f"{path} is damaged ({cause}): delete {output}; "
            "`dvc repro` then brings it back or makes it anew (where DVC's cache has the damage, "
            "too, `dvc repro --force` of the stage does)"
        ) from None


def read_table(path: Path | str, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some columns of it.

    Raises UserError where its checksums are wrong, or where it is of another data set than
    data/clips.parquet.
    """
    with undamaged(path):
        table = read_file(path, columns)
    _require_current_clip_set(Path(path), table.schema)
    return table


def read_file(path: Path | str, columns: list[str] | None = None) -> pa.Table:
    """Return a Parquet file, or some columns of it, as it is.

    Not by `pq.read_table`, which imports pandas: that takes half a second of each stage's start.
    Raises pa.ArrowException where its checksums are wrong, or where it lacks a column.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if columns is None:
            return file.read()
        lacking = set(columns) - set(file.schema_arrow.names)
        if lacking:
            raise pa.ArrowInvalid(f"it has no column {', '.join(sorted(lacking))}")
        return file.read(columns).select(columns)


def read_index(directory: Path) -> pa.Table:
    """Return the index of a stage's output: all clips that reached the stage, INDEX_FIELDS first.

    Raises UserError where the output is missing or of another schema version.
    """
    path = Path(directory) / INDEX
    if not path.is_file():
        raise UserError(
            f"{path} is missing: run `dvc repro` so that the stage before this one writes it"
        )
    table = read_table(path)
    version = (table.schema.metadata or {}).get(b"schema_version", b"none").decode()
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this code reads {SCHEMA_VERSION}: "
            "rerun the stage that wrote it"
        )
    return table


def item_version(directory: Path) -> str:
    """Return the item version that an output was packed from (see item_store)."""
    return read_index(directory).schema.metadata[b"item_version"].decode()


def ok_rows(directory: Path) -> list[dict]:
    """Return the index rows of the clips with status `ok`, in the order of the shards."""
    return [row for row in read_index(directory).to_pylist() if row["status"] == "ok"]


def ok_clip_ids(directory: Path) -> set[str]:
    """Return the ids of the clips with status `ok`."""
    return {row["clip_id"] for row in ok_rows(directory)}


def inputs(directory: Path) -> list[dict]:
    """Return the `ok` clips of a stage's output as the next stage's input.

    Their item_key becomes their input_key.
    """
    return [row | {"input_key": row["item_key"]} for row in ok_rows(directory)]


def iter_rows(
    directory: Path,
    columns: list[str],
    splits: Iterable[str] | None = None,
    clip_ids: set[str] | None = None,
) -> Iterator[dict]:
    """Stream the rows of a stage's shards in the index's order: clip_id and `columns`.

    A row group is in memory at a time.  splits, clip_ids: all of them by default; where clips are
    named, shards and row groups without them are not read.
    """
    if clip_ids is not None:
        yield from _iter_named_rows(directory, ["clip_id", *columns], splits, clip_ids)
        return
    for path in sound_paths(directory, splits):
        batches = pq.ParquetFile(path).iter_batches(ROWS_PER_GROUP, columns=["clip_id", *columns])
        for batch in batches:
            yield from to_rows(pa.Table.from_batches([batch]))


def _iter_named_rows(
    directory: Path, columns: list[str], splits: Iterable[str] | None, clip_ids: set[str]
) -> Iterator[dict]:
    """Stream the rows of some clips (see `iter_rows`)."""
    if not clip_ids:
        return
    wanted = pa.array(clip_ids, pa.string())
    for path, written in shard_digests(directory, splits).items():
        with undamaged(path):
            names = read_file(path, ["clip_id"])["clip_id"]
        is_wanted = pc.is_in(names, wanted).to_numpy()
        if not is_wanted.any():
            continue
        _require_digest(path, written)
        with pq.ParquetFile(path) as file:
            start = 0
            for number in range(file.num_row_groups):
                end = start + file.metadata.row_group(number).num_rows
                mask = is_wanted[start:end]
                if mask.any():
                    group = file.read_row_group(number, columns=columns)
                    yield from to_rows(group.filter(pa.array(mask)))
                start = end


def iter_joined(
    directories: list[Path], columns: list[str], splits: Iterable[str] | None = None
) -> Iterator[tuple[dict, ...]]:
    """Stream the clips that stand in all `directories`, one row of each, in the shared order.

    Raises UserError where the directories hold these clips in different orders.
    """
    common = set.intersection(*(ok_clip_ids(path) for path in directories))

    def pairs(directory: Path) -> Iterator[tuple[str, dict]]:
        for row in iter_rows(directory, columns, splits):
            if row["clip_id"] in common:
                yield row["clip_id"], row

    names = [str(path) for path in directories]
    for _, rows in aligned(names, [pairs(path) for path in directories]):
        yield rows


def shard_paths(directory: Path, splits: Iterable[str] | None = None) -> list[Path]:
    """Return the shard files in the order in which `write` filled them."""
    return list(shard_digests(directory, splits))


def shard_digests(directory: Path, splits: Iterable[str] | None = None) -> dict[Path, str]:
    """Return the digests of the shard files, in the order in which `write` filled them."""
    digests = json.loads(read_index(directory).schema.metadata[b"digests"])
    folders = None if splits is None else {f"split={split}" for split in splits}
    return {
        Path(directory) / name: written
        for name, written in digests.items()
        if folders is None or name.split("/")[0] in folders
    }


def sound_paths(directory: Path, splits: Iterable[str] | None = None) -> Iterator[Path]:
    """Yield the shard files, each after a look at its digest; UserError where one is damaged.

    Parquet's own checksums leave its headers out.
    """
    for path, written in shard_digests(directory, splits).items():
        _require_digest(path, written)
        yield path


def _require_digest(path: Path, written: str) -> None:
    """Raise UserError where a file's bytes are not those that were written."""
    with undamaged(path):
        if file_digest(path) != written:
            raise OSError("its bytes are not those that were written")


def has_column(directory: Path, column: str) -> bool:
    """Return whether the shards of a directory have a column."""
    paths = shard_paths(directory)
    if not paths:
        return False
    with undamaged(paths[0]):
        return column in pq.read_schema(paths[0]).names


def tensor_shape(directory: Path, column: str) -> tuple[int, ...]:
    """Return the shape of a tensor column, from the first shard's schema.

    Raises UserError where the output holds no clip.
    """
    paths = shard_paths(directory)
    if not paths:
        raise UserError(
            f"{directory} holds no clip: "
            "see the metrics file of the stage that wrote it for why clips were refused"
        )
    return tuple(pq.read_schema(paths[0]).field(column).type.shape)


def read_columns(
    directory: Path, columns: list[str], splits: Iterable[str] | None = None
) -> dict[str, Any]:
    """Return clip_id and whole columns by name: arrays for tensors, lists else.

    All of them are in memory: for what is small.
    """
    names = ["clip_id", *columns]
    table = pa.concat_tables([read_table(path, names) for path in sound_paths(directory, splits)])
    values = {}
    for name in names:
        column = table[name]
        values[name] = as_array(column) if is_tensor(column.type) else column.to_pylist()
    return values
