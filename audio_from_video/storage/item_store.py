"""Expensive per-clip results, kept outside the repository so that only what changed is computed.

DVC runs a whole stage again when its input grows; the stage then finds all unchanged items here.
There is a folder per stage and version (`version`): an old version is dropped by deleting a folder
(tools/stored_items.py).  The key of an item is the key of what it was computed from.  Values are
Arrow tables of one row, BATCH of them in a file that is written once (chunk_files.py): the store
works on network file systems, and several machines may fill it at the same time.  Once an output
holds items, hard links to its shards take the place of these files (packed_shards.py).
"""

import errno
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa

from audio_from_video.runtime import kernels
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import DamagedStore, UserError
from audio_from_video.runtime.remote import Unreachable
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import chunk_files, packed_shards, shards
from audio_from_video.storage.chunk_files import Chunk, DamagedChunk
from audio_from_video.storage.packed_shards import DamagedShard, PackedShard

BATCH = 64  # items per file
DAMAGED = ".damaged"  # suffix of files that were set aside


def folder() -> Path:
    """Return the store's folder.

    The environment's ITEM_STORE, else `audio-from-video/items` in the user's cache directory.
    Raises UserError where the user has neither.
    """
    named = os.environ.get("ITEM_STORE")
    if named:
        return Path(named)
    try:
        return Path(platformdirs.user_cache_dir("audio-from-video")) / "items"
    except RuntimeError as error:
        raise UserError(
            f"the item store has no place ({error}): name a folder that can be written by the "
            "environment variable ITEM_STORE"
        ) from None


def make_folder(path: Path) -> None:
    """Make a folder of the store.

    Raises UserError where the store's place cannot be written; a full disk stays an OSError.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(
            f"the item store's folder {path} cannot be made ({error.strerror}): name one that can "
            "be written by the environment variable ITEM_STORE"
        ) from None


def version(stage: str, code_version: int, *parts: Any, libraries: Iterable[str]) -> str:
    """Return the version of a stage's items: a digest of all that an item depends on but its key.

    code_version: raised by hand when the stage's own code gives other items.  parts: parameters
    and revisions of models (JSON-able).  libraries: distributions whose code makes the items'
    bytes, as pip names them; another release of one of them makes other items, and so do other
    numeric kernels.
    """
    releases = {name: _release(name) for name in sorted(libraries)}
    return digest(stage, code_version, releases, kernels.chosen(), *parts)


def _release(library: str) -> str:
    """A library's release; builds for other processors ("+cpu", "+cu130") are the same release."""
    try:
        return metadata.version(library).partition("+")[0]
    except metadata.PackageNotFoundError:
        raise UserError(
            f"the library {library} is not installed: run `pip install -r requirements.txt`"
        ) from None


class ItemStore:
    """The stored items of one stage and version, as a context manager.

    Rows are dicts as in `shards.to_rows`.  Only keys are read at the start, so that a full store
    costs little; a value's digest is checked when the value is read.
    """

    def __init__(self, stage: str, version: str, schema: pa.Schema):
        self.path = folder() / stage / version
        self.schema = schema
        self._file_of: dict[str, Path] = {}  # by key
        self._shards: dict[str, PackedShard] = {}  # by the shard's key
        self._packed: dict[str, tuple[PackedShard, int]] = {}  # shard and row of its facts, by key
        self._chunk: Chunk | None = (
            None  # the file that was read last: the next item is likely in it
        )

    def __enter__(self) -> "ItemStore":
        make_folder(self.path)
        self._scan()
        return self

    def _scan(self) -> None:
        """Read which keys there are; set damaged files aside."""
        self._file_of.clear()
        self._shards.clear()
        self._packed.clear()
        damaged = []
        for path in sorted(self.path.glob(f"*{packed_shards.FACTS_SUFFIX}")):
            try:
                self._add(PackedShard(path))
            except DamagedShard:
                damaged.append(path)
        for path in sorted(self.path.glob(f"*{chunk_files.SUFFIX}")):
            try:
                chunk = Chunk(path)
            except DamagedChunk:
                damaged.append(path)
                continue
            self._file_of |= dict.fromkeys(chunk.keys, path)
            chunk.close()
        if damaged:
            print(self._set_aside(damaged), file=sys.stderr)

    def _add(self, shard: PackedShard) -> None:
        self._shards[shard.key] = shard
        for key, row in shard.whole_items().items():
            self._packed[key] = (shard, row)

    def __exit__(self, *_: object) -> None:
        if self._chunk is not None:
            self._chunk.close()

    def _set_aside(self, paths: list[Path]) -> str:
        """Rename damaged files, so that their items are missing; return a sentence on them."""
        for path in paths:
            # Another run may have done so.
            with suppress(FileNotFoundError):
                os.replace(path, path.with_suffix(DAMAGED))
        return (
            f"{len(paths)} files of the item store {self.path} were damaged and are set aside as "
            f"*{DAMAGED}: their items are computed anew"
        )

    def __contains__(self, key: str) -> bool:
        return key in self._file_of or key in self._packed

    def __getitem__(self, key: str) -> dict:
        """Return the stored row of a key that is there.

        Raises DamagedStore where a value's digest is wrong; all damaged files are set aside then.
        """
        try:
            try:
                return self._row(key)
            except FileNotFoundError:
                # Another run has packed the item meanwhile.
                self._scan()
                if key not in self:
                    raise DamagedStore(
                        f"files of the item store {self.path} were deleted while it was read: "
                        "their items are computed anew"
                    ) from None
                return self._row(key)
        except (DamagedChunk, DamagedShard):
            raise DamagedStore(self.set_damaged_aside()) from None

    def set_damaged_aside(self) -> str:
        """Read all files, rename the damaged ones, and return a sentence on them."""
        return self._set_aside(self._damaged_files())

    def _row(self, key: str) -> dict:
        if key not in self._file_of:
            shard, facts_row = self._packed[key]
            row = shard.item(facts_row)
            return {name: row[name] for name in self.schema.names if name in row}
        return shards.to_rows(pa.ipc.open_stream(self._value(key)).read_all())[0]

    def _value(self, key: str) -> bytes:
        path = self._file_of[key]
        if self._chunk is None or self._chunk.path != path:
            if self._chunk is not None:
                self._chunk.close()
            self._chunk = Chunk(path)
        return self._chunk.value(key)

    def _damaged_files(self) -> list[Path]:
        """Return the files with damaged values; all of them are read."""
        damaged = []
        for path in sorted(set(self._file_of.values())):
            try:
                chunk = Chunk(path)
                for key in chunk.keys:
                    chunk.value(key)
                chunk.close()
            except DamagedChunk:
                damaged.append(path)
        for shard in self._shards.values():
            try:
                shard.require_sound()
            except (DamagedShard, FileNotFoundError):
                damaged += [shard.facts_path, shard.path]
        return damaged

    def put(self, rows: list[tuple[str, dict]]) -> None:
        """Store (key, row) pairs, in one file."""
        values = {key: self._encode(row) for key, row in rows}
        path = chunk_files.write(self.path, values)
        self._file_of |= dict.fromkeys(values, path)

    def packed(self, shard_key: str) -> PackedShard | None:
        """Return a shard that was packed before; None where it is not there."""
        return self._shards.get(shard_key)

    def keep(
        self, shard_key: str, path: Path, digest: str, facts: list[dict], fields: list[pa.Field]
    ) -> None:
        """Hold a shard of an output by link, where that can be (see packed_shards.keep)."""
        shard = packed_shards.keep(self.path, shard_key, path, digest, facts, fields)
        if shard:
            self._add(shard)

    def tidy(self, shard_keys: list[str]) -> None:
        """Delete what packed shards hold, once the output of these shards is there.

        That is files of items, and earlier shards whose items stand in these.
        """
        current = {key: self._shards[key] for key in shard_keys if key in self._shards}
        items = {item for shard in current.values() for item in shard.whole_items()}
        for key, shard in list(self._shards.items()):
            shard.forget_rows()
            if key not in current and items.issuperset(shard.whole_items()):
                shard.remove()
                del self._shards[key]
        self._packed.clear()
        for shard in self._shards.values():
            self._add(shard)
        self._drop_packed_items()

    def _drop_packed_items(self) -> None:
        """Delete the files of items that are packed; what else is in them moves to new files."""
        keys_of: dict[Path, list[str]] = {}
        for key, path in self._file_of.items():
            keys_of.setdefault(path, []).append(key)
        with_packed = [
            path for path, keys in keys_of.items() if any(key in self._packed for key in keys)
        ]
        values: dict[str, bytes] = {}
        emptied: list[Path] = []
        for path in with_packed:
            for key in keys_of[path]:
                if key in self._packed:
                    del self._file_of[key]
                else:
                    values[key] = self._value(key)
            emptied.append(path)
            if len(values) >= BATCH:
                self._move(values, emptied)
                values = {}
                emptied = []
        self._move(values, emptied)

    def _move(self, values: dict[str, bytes], emptied: list[Path]) -> None:
        """Write values to a new file, and delete the files that they stood in."""
        if values:
            path = chunk_files.write(self.path, values)
            self._file_of |= dict.fromkeys(values, path)
            # The same values may make the same file.
            emptied = [old for old in emptied if old != path]
        for old in emptied:
            old.unlink(missing_ok=True)

    def fill(
        self,
        tasks: Iterable[tuple[str, Any]],
        compute: Callable[[Iterator[Any]], Iterator[dict | Failure]],
        progress: Callable[[Iterable[Any]], Iterator[Any]] = iter,
    ) -> dict[str, Failure]:
        """Compute and store what is missing of `tasks`, pairs of (key, payload).

        compute: maps an iterator of payloads to their rows, in order.  progress: what the tasks
        pass through.  Returns the failures by key: a time-out or a dead worker may be the
        machine's fault, so they are not stored and are tried again by the next run.
        """
        waiting: deque[str] = deque()  # keys of payloads that `compute` has taken
        failures: dict[str, Failure] = {}
        batch: list[tuple[str, dict]] = []

        def missing() -> Iterator[Any]:
            for key, payload in progress(tasks):
                if key not in self:
                    waiting.append(key)
                    yield payload

        try:
            for row in compute(missing()):
                key = waiting.popleft()
                if isinstance(row, Failure):
                    failures[key] = row
                    continue
                batch.append((key, row))
                if len(batch) == BATCH:
                    self.put(batch)
                    batch = []
        except Unreachable:  # no fault of what was computed
            if batch:
                self.put(batch)
            raise
        if batch:
            self.put(batch)
        return failures

    def _encode(self, row: dict) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(shards.to_table([row], self.schema))
        return sink.getvalue().to_pybytes()
