"""Expensive per-clip results, kept outside the repository so that only what changed is computed.

DVC reruns a whole stage when its input grows; the stage then finds all unchanged items here.  One SQLite file per stage
and version (`version` hashes the stage's parameters, its code version and its models' revisions): an old version is
dropped by deleting a file.  The key of an item is the key of what it was computed from; values are one-row Arrow tables
with a checksum.  Only the parent process writes.

    python -m stages.common.item_store            list what is stored
    python -m stages.common.item_store --prune    delete the versions that the current outputs do not use, and what killed runs
                                                  left a day ago or earlier: checkpoints, files of training rows, damaged files
"""

import argparse
import hashlib
import json
import os
import shutil
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs
import pyarrow as pa

from stages.common import shards
from stages.common.errors import UserError
from stages.common.parallel import Failure

BATCH = 64  # items per transaction
LEFT_S = 86_400.0  # what nobody has touched for so long belongs to no run


def folder() -> Path:
    """The store's folder: the environment's ITEM_STORE, else `audio-from-video/items` under the user's cache directory."""
    return Path(
        os.environ.get("ITEM_STORE") or platformdirs.user_cache_dir("audio-from-video") + "/items"
    )


def digest(*parts: Any) -> str:
    """Hex digest (128 bit BLAKE2b) of JSON-able parts; the same on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class ItemStore:
    """The stored items of one stage and version, as a context manager; rows are as in `shards.to_rows`."""

    def __init__(self, stage: str, version: str, schema: pa.Schema):
        self.path = folder() / stage / f"{version}.sqlite"
        self.schema = schema
        self.damaged = 0  # entries whose checksum did not fit; they are computed anew

    def __enter__(self) -> "ItemStore":
        try:
            self._connect()
        except (
            sqlite3.OperationalError
        ):  # full, read-only, locked: nothing that another file would mend
            raise
        except sqlite3.DatabaseError as error:
            print(f"{self._set_aside(error)}: its items are computed anew", file=sys.stderr)
            self._connect()
        return self

    def _connect(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, timeout=60)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS items (key TEXT PRIMARY KEY, value BLOB, checksum BLOB)"
        )

    def _set_aside(self, error: Exception) -> str:
        """Rename the store's damaged file, so that a new one takes its place; says so."""
        self._database.close()
        aside = self.path.with_suffix(".damaged")
        os.replace(self.path, aside)
        for rest in self.path.parent.glob(
            f"{self.path.name}-*"
        ):  # its write-ahead log belongs to the old file
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
                f"{self._set_aside(error)}; run the same command again: it computes these items anew"
            ) from None

    def __exit__(self, *_):
        self._database.close()

    def get(self, key: str) -> dict | None:
        """The stored row, or None where there is none or its checksum does not fit."""
        value = self._value(key)
        return None if value is None else shards.to_rows(pa.ipc.open_stream(value).read_all())[0]

    def _value(self, key: str) -> bytes | None:
        with self._noticing_damage():
            found = self._database.execute(
                "SELECT value, checksum FROM items WHERE key = ?", (key,)
            ).fetchone()
        if found is None:
            return None
        value, checksum = found
        if _checksum(value) != checksum:
            self.damaged += 1
            return None
        return value

    def __getitem__(self, key: str) -> dict:
        """The stored row; for after `fill`, when it must be there."""
        row = self.get(key)
        if row is None:
            raise RuntimeError(f"{self.path}: the item {key} vanished while the stage ran")
        return row

    def put(self, rows: list[tuple[str, dict]]) -> None:
        """Store (key, row) pairs in one transaction."""
        values = [(key, self._encode(row)) for key, row in rows]
        with self._noticing_damage(), self._database:
            self._database.executemany(
                "INSERT OR REPLACE INTO items VALUES (?, ?, ?)",
                [(key, v, _checksum(v)) for key, v in values],
            )

    def fill(
        self,
        tasks: Iterable[tuple[str, Any]],
        compute: Callable[[Iterator[Any]], Iterator[dict | Failure]],
        progress: Callable[[Iterable[Any]], Iterator[Any]] = iter,
    ) -> dict[str, Failure]:
        """Compute and store what is missing of `tasks`, pairs of (key, payload).

        `compute` maps an iterator of payloads to their rows, in order.  Returns the failures by key: a time-out or a
        dead worker may be the machine's fault, so they are not stored and are tried again by the next run.
        """
        waiting: deque[str] = deque()
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


def versions_in_use(data: Path = Path("data")) -> set[str]:
    """The item versions that the outputs below `data` were packed from."""
    return {shards.item_version(index.parent) for index in data.rglob(shards.INDEX)}


def leftovers() -> list[Path]:
    """What runs that were killed left behind in the store's folder."""
    found = [
        path
        for pattern in ("checkpoints/*", "scratch/*", "*/*.damaged")
        for path in folder().glob(pattern)
    ]
    return sorted(path for path in found if time.time() - path.stat().st_mtime > LEFT_S)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete the versions that the current outputs do not use",
    )
    prune = parser.parse_args().prune
    used = versions_in_use()
    for path in sorted(folder().glob("*/*.sqlite")):
        state = "in use" if path.stem in used else "deleted" if prune else "unused"
        print(
            f"{path.stat().st_size / 2**20:10.1f} MiB  {state:8s}  {path.parent.name}/{path.stem}"
        )
        if state == "deleted":
            for part in path.parent.glob(path.name + "*"):
                part.unlink()
    for path in leftovers():
        print(f"{'deleted' if prune else 'left':>26s}  {path.parent.name}/{path.name}")
        if prune:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
