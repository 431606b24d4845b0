"""From clips to a stage's output directory by way of the item store: fill it, then pack.

    with ClipItems("frames", version, columns, facts) as items:
        items.fill(stage, clips, payloads, compute)   # computes only what the store lacks
        index = items.pack(layout.FRAMES, clips)      # writes shards and index

`clips` are dicts with clip_id, split, action, source_id and input_key, in the order of the output.
input_key is the key of what the item is computed from: the content hash of the file, or the
`item_key` of the stage before.  The output's own item_key is digest(input_key, version): keys
chain, and a change upstream reaches everything after it.

A parameter that only the last step of `pack` uses is no part of the version: another value then
costs nothing.  Later stages that key their items by the result need it in the item_key
(`finished_by`).

Shards whose clips are packed as before are not written again: the item store links them into the
output (packed_shards.py).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest, file_digest
from audio_from_video.runtime.errors import DamagedStore
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import layout, shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.item_store import ItemStore
from audio_from_video.storage.packed_shards import DamagedShard

IDENTITY = ("clip_id", "split", "action", "source_id")
STATUS = (pa.field("status", pa.string()), pa.field("reason", pa.string()))


class ClipItems:
    """A stage's per-clip items of one version, as a context manager.

    version: see `item_store.version`.  columns: what stands in the shards.  facts: what stands in
    the index beside status and reason.
    """

    def __init__(
        self, stage: str, version: str, columns: pa.Schema, facts: Iterable[pa.Field] = ()
    ):
        self.version = version
        self.columns = columns
        self.facts = list(facts)
        self._store = ItemStore(stage, version, pa.schema([*columns, *self.facts, *STATUS]))
        self._failures: dict[str, Failure] = {}
        self._code = ""

    def __enter__(self) -> "ClipItems":
        self._store.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.__exit__(*error)

    def missing(self, clips: list[dict]) -> set[str]:
        """Return the ids of the clips whose items are not stored: those to read payloads for."""
        return {clip["clip_id"] for clip in clips if clip["input_key"] not in self._store}

    def fill(
        self,
        stage: stage_run.StageRun,
        clips: list[dict],
        payloads: Iterable[tuple[str, Any]],
        compute: Callable[[Iterator[Any]], Iterator[dict | Failure]],
    ) -> None:
        """Compute and store the items that are missing.

        payloads: pairs (clip_id, payload) of the clips that are `missing`, in the order of `clips`;
        other clips may be among them.  compute: see `ItemStore.fill`.  Raises UserError where the
        payloads are not those of `clips`: an item stored under another clip's key would stay there
        unnoticed.
        """
        missing = self.missing(clips)
        keys = (
            (clip["clip_id"], clip["input_key"]) for clip in clips if clip["clip_id"] in missing
        )
        of_missing = (payload for payload in payloads if payload[0] in missing)
        names = (f"the clips of {stage.name}", "what is read for them")
        to_compute = aligned(names, (keys, of_missing))

        def tasks() -> Iterator[tuple[str, Any]]:
            """Yield all clips, as parts are dealt out among all of them."""
            for clip in clips:
                if clip["clip_id"] in missing:
                    _, task = next(to_compute)
                    yield task
                else:
                    yield clip["input_key"], None
            for _ in to_compute:  # says what was read for no clip
                pass

        self._code = _code_digest(stage.stage)
        self._failures = stage.fill(self._store, tasks(), len(clips), compute)

    def row(self, clip: dict) -> dict:
        """Return the item of a clip: columns, facts, status and reason.

        Only status and reason where its worker failed.
        """
        failure = self._failures.get(clip["input_key"])
        if failure:
            return {"status": failure.kind, "reason": failure.reason}
        return self._store[clip["input_key"]]

    def pack(
        self,
        directory: Path,
        clips: list[dict],
        columns: pa.Schema | None = None,
        finish: Callable[[dict], dict] = lambda row: row,
        finished_by: tuple = (),
        check: Callable[[list[dict]], None] = lambda index: None,
        packed_by: tuple = (),
    ) -> list[dict]:
        """Write the output directory and return its index rows.

        columns: of the shards, where they are not those of the items.  finish: last, cheap step on
        a stored row; it may refuse the clip or add columns.  finished_by: parameters of `finish`
        that the item_key is to depend on.  check: called with the whole index before the output
        appears; it raises where too much failed.  packed_by: what else `finish` depends on: shards
        that were packed by the same are linked, not written.
        """
        packing = _Packing(columns or self.columns, finish, (*finished_by, *packed_by))
        index: list[dict] = []
        shard_keys: list[str] = []

        def write_shards(folder: Path) -> dict[str, str]:
            """Write or link the shards; the index grows as they pass."""
            digests = {}
            for name, group in shards.by_shard(clips):
                members = list(group)
                shard_key = self._shard_key(members, packing)
                facts = self._link(shard_key, folder / name)
                if facts is None:
                    facts = self._write(shard_key, folder / name, members, packing)
                index.extend(self._entries(members, facts, finished_by))
                if (folder / name).is_file():
                    packed = self._store.packed(shard_key)
                    digests[name] = packed.digest if packed else file_digest(folder / name)
                    shard_keys.append(shard_key)
            check(index)
            return digests

        shards.write_directory(directory, write_shards, index, self.version, self.facts)
        self._store.tidy(shard_keys)
        return index

    def _shard_key(self, clips: list[dict], packing: "_Packing") -> str:
        """Return the digest of all that a shard of these clips is packed from."""
        members = [[clip["clip_id"], clip["input_key"]] for clip in clips]
        layout_of_shards = [shards.SCHEMA_VERSION, str(packing.columns), pa.__version__]
        return digest(members, layout_of_shards, self._code, *packing.parameters)

    def _link(self, shard_key: str, path: Path) -> list[dict] | None:
        """Link a shard that was packed before; return its clips' facts, None where there is none.

        Raises DamagedStore where it is damaged.
        """
        packed = self._store.packed(shard_key)
        if packed is None:
            return None
        try:
            packed.link_to(path)
        except DamagedShard:
            raise DamagedStore(self._store.set_damaged_aside()) from None
        except OSError:
            # Another run has removed it, or the output moved to a file system of its own.
            return None
        return packed.facts.to_pylist()

    def _write(
        self, shard_key: str, path: Path, clips: list[dict], packing: "_Packing"
    ) -> list[dict]:
        """Write a shard, have the store keep it, and return the facts of its clips."""
        facts: list[dict] = []

        def rows() -> Iterator[dict]:
            row_number = 0
            for clip in clips:
                stored = self.row(clip)
                row = packing.finish(stored)
                ok = row["status"] == "ok"
                entry = {
                    "item": clip["input_key"],
                    "row": row_number if ok else -1,
                    "whole": self._holds(row, stored),
                    "status": row["status"],
                    "reason": row["reason"],
                }
                for field in self.facts:
                    entry[field.name] = row.get(field.name)
                facts.append(entry)
                if ok:
                    row_number += 1
                    yield {**row, "clip_id": clip["clip_id"]}

        # A shard whose clips are all refused is not written.
        first = next(of_shard := rows(), None)
        if first is None:
            return facts
        written = shards.write_shard(path, packing.columns, chain([first], of_shard))
        if not any(clip["input_key"] in self._failures for clip in clips):
            self._store.keep(shard_key, path, written, facts, [*STATUS, *self.facts])
        return facts

    def _holds(self, row: dict, stored: dict) -> bool:
        """Return whether a stored item can be read from the row that it was packed as."""
        names = [*self.columns.names, *(field.name for field in (*self.facts, *STATUS))]
        if stored["status"] != "ok":
            names = [field.name for field in (*self.facts, *STATUS)]
        return all(name in row and row[name] is stored.get(name) for name in names)

    def _entries(self, clips: list[dict], facts: list[dict], finished_by: tuple) -> Iterator[dict]:
        """Yield the index rows of clips."""
        for clip, row in zip(clips, facts, strict=True):
            ok = row["status"] == "ok"
            yield {
                **{name: clip[name] for name in IDENTITY},
                "item_key": digest(clip["input_key"], self.version, *finished_by) if ok else None,
                **{field.name: row[field.name] for field in (*STATUS, *self.facts)},
            }


@dataclass(frozen=True)
class _Packing:
    """How items become rows of shards; parameters: what `finish` depends on."""

    columns: pa.Schema
    finish: Callable[[dict], dict]
    parameters: tuple


def _code_digest(stage: str) -> str:
    """Return the digest of a stage's code, after a change of which shards are packed anew."""
    path = layout.CODE / f"{stage}.json"
    return file_digest(path) if path.is_file() else ""
