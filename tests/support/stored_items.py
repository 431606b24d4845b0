"""A stage that stores items without computing much, for tests of the item store."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from audio_from_video.runtime.stage_run import StageRun
from audio_from_video.storage import shards
from audio_from_video.storage.clip_items import ClipItems
from tests.support.shard_rows import index_row

OUTPUT = Path("data/stage")
COLUMNS = pa.schema([("values", shards.tensor(pa.float32(), 2))])
LEVEL = pa.field("level", pa.float32())


def compute(payloads: Iterable[int]) -> Iterator[dict]:
    """Yield a row per number."""
    for number in payloads:
        yield {
            "values": np.full(2, number, np.float32),
            "blob": bytes([number % 256]),
            "level": 1.5,
            "status": "ok",
            "reason": "",
        }


def clips(count: int) -> list[dict]:
    """Clips of one action, each with a number as its content."""
    return [
        index_row(f"a/s_{i:02d}", "training", number=i, input_key=f"content {i}")
        for i in range(count)
    ]


def pack_clips(
    some_clips: list[dict], version: str = "v1", function: Callable = compute
) -> tuple[StageRun, list[dict]]:
    """Fill and pack clips as a stage does; return the run and the index rows."""
    run = StageRun("stage", "", 1)
    payloads = [(clip["clip_id"], clip["number"]) for clip in some_clips]
    with ClipItems("stage", version, COLUMNS, [LEVEL]) as items:
        items.fill(run, some_clips, payloads, function)
        return run, items.pack(OUTPUT, some_clips)


def damage(path: Path, key: str, column: str) -> None:
    """Flip a bit in an entry of a store's file."""
    with sqlite3.connect(path) as database:
        query = f"SELECT {column} FROM items WHERE key = ?"
        value = bytearray(database.execute(query, (key,)).fetchone()[0])
        value[len(value) // 2] ^= 1
        update = f"UPDATE items SET {column} = ? WHERE key = ?"
        database.execute(update, (bytes(value), key))
    database.close()
