"""Expensive per-clip results, kept outside the repository so that only what changed is computed.

DVC runs a whole stage again when its input grows; the stage then finds all unchanged items here.
There is one SQLite file per stage and version (`version`): an old version is dropped by deleting a
file (tools/stored_items.py).  The key of an item is the key of what it was computed from.  Values
are Arrow tables of one row with a checksum.  Only the parent process writes.
"""

import errno
import hashlib
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa

from audio_from_video.runtime import kernels
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards

BATCH = 64  # items per transaction


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

    Rows are dicts as in `shards.to_rows`.  damaged: entries whose checksum did not fit; they are
    computed anew.
    """

    def __init__(self, stage: str, version: str, schema: pa.Schema):
        self.path = folder() / stage / f"{version}.sqlite"
        self.schema = schema
        self.damaged = 0

    def __enter__(self) -> "ItemStore":
        try:
            self._connect()
        except sqlite3.OperationalError:
            # The disk is full, read-only or locked: nothing that another file would mend.
            raise
        except sqlite3.DatabaseError as error:
            print(f"{self._set_aside(error)}: its items are computed anew", file=sys.stderr)
            self._connect()
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def _connect(self) -> None:
        make_folder(self.path.parent)
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value BLOB, checksum BLOB)"
        )

    def _set_aside(self, error: Exception) -> str:
        """Rename the damaged file, so that a new one takes its place; return a sentence on it."""
        self._database.close()
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        # Its write-ahead log belongs to the old file.
        for rest in self.path.parent.glob(f"{self.path.name}-*"):
            rest.unlink()
        return f"the item store {self.path} was damaged ({error}) and is set aside as {aside.name}"

    @contextmanager
    def _noticing_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            raise UserError(
                f"{self._set_aside(error)}; run the same command again: it computes these items "
                "anew"
            ) from None

    def get(self, key: str) -> dict | None:
        """Return the stored row, or None where there is none or its checksum does not fit."""
        value = self._value(key)
        if value is None:
            return None
        return shards.to_rows(pa.ipc.open_stream(value).read_all())[0]

    def _value(self, key: str) -> bytes | None:
        with self._noticing_damage():
            entry = self._database.execute(
                "SELECT value, checksum FROM items WHERE key = ?", (key,)
            ).fetchone()
        if entry is None:
            return None
        value, checksum = entry
        if _checksum(value) != checksum:
            self.damaged += 1
            return None
        return value

    def __getitem__(self, key: str) -> dict:
        """Return the stored row; for after `fill`, when it must be there."""
        row = self.get(key)
        if row is None:
            raise RuntimeError(f"{self.path}: the item {key} vanished while the stage ran")
        return row

    def put(self, rows: list[tuple[str, dict]]) -> None:
        """Store (key, row) pairs in one transaction."""
        entries = []
        for key, row in rows:
            value = self._encode(row)
            entries.append((key, value, _checksum(value)))
        with self._noticing_damage(), self._database:
            self._database.executemany("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", entries)

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
                if self._value(key) is None:
                    waiting.append(key)
                    yield payload

        for row in compute(missing()):
            key = waiting.popleft()
            if isinstance(row, Failure):
                failures[key] = row
                continue
            batch.append((key, row))
            if len(batch) == BATCH:
                self.put(batch)
                batch = []
        self.put(batch)
        return failures

    def _encode(self, row: dict) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema) as writer:
            writer.write_table(shards.to_table([row], self.schema))
        return sink.getvalue().to_pybytes()


def _checksum(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=8).digest()
