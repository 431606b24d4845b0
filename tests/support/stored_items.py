"""A stage that stores items without computing much, for tests of the item store."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from audio_from_video.runtime.stage_run import StageRun
from audio_from_video.storage import shards
from audio_from_video.storage.chunk_files import Chunk
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


def file_of(key: str, folder: Path) -> Path:
    """Return the file of a store's folder that holds a key."""
    for path in folder.glob("*.items"):
        if key in Chunk(path).keys:
            return path
    raise KeyError(key)


def damage_value(key: str, folder: Path) -> None:
    """Flip a bit in the middle of a stored value."""
    path = file_of(key, folder)
    content = bytearray(path.read_bytes())
    value = Chunk(path).value(key)
    content[content.index(value) + len(value) // 2] ^= 1
    path.write_bytes(content)
