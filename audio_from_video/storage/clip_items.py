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
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from audio_from_video.storage.alignment import aligned
from audio_from_video.storage.item_store import ItemStore

IDENTITY = ("clip_id", "split", "action", "source_id")


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
        status = [pa.field("status", pa.string()), pa.field("reason", pa.string())]
        self._store = ItemStore(stage, version, pa.schema([*columns, *self.facts, *status]))
        self._failures: dict[str, Failure] = {}

    def __enter__(self) -> "ClipItems":
        self._store.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._store.__exit__(*error)

    def fill(
        self,
        stage: stage_run.StageRun,
        clips: list[dict],
        payloads: Iterable[tuple[str, Any]],
        compute: Callable[[Iterator[Any]], Iterator[dict | Failure]],
    ) -> None:
        """Compute and store the items that are missing.

        payloads: pairs (clip_id, payload) in the order of `clips`.  compute: see `ItemStore.fill`.
        Raises UserError where the payloads are not those of `clips`: an item stored under another
        clip's key would stay there unnoticed.
        """
        keys = ((clip["clip_id"], clip["input_key"]) for clip in clips)
        names = (f"the clips of {stage.name}", "what is read for them")
        tasks = (task for _, task in aligned(names, (keys, payloads)))
        self._failures = stage.fill(self._store, tasks, len(clips), compute)

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
    ) -> list[dict]:
        """Write the output directory and return its index rows.

        columns: of the shards, where they are not those of the items.  finish: last, cheap step on
        a stored row; it may refuse the clip or add columns.  finished_by: parameters of `finish`
        that the item_key is to depend on.  check: called with the whole index before the output
        appears; it raises where too much failed.
        """
        index: list[dict] = []

        def rows() -> Iterator[dict]:
            """Yield the rows of the shards; the index grows as they pass."""
            for clip in clips:
                row = finish(self.row(clip))
                ok = row["status"] == "ok"
                identity = {name: clip[name] for name in IDENTITY}
                key = digest(clip["input_key"], self.version, *finished_by) if ok else None
                entry = {
                    **identity,
                    "item_key": key,
                    "status": row["status"],
                    "reason": row["reason"],
                }
                for field in self.facts:
                    entry[field.name] = row.get(field.name)
                index.append(entry)
                if ok:
                    yield {**row, **identity}
            check(index)

        shards.write(directory, columns or self.columns, rows(), index, self.version, self.facts)
        return index
