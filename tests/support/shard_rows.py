"""Rows as stages write them to Parquet directories: index columns, and values of no meaning."""

import numpy as np
import pyarrow as pa

from audio_from_video.storage import shards

SCHEMA = pa.schema(
    [
        ("features", shards.tensor(pa.float16(), 3, 4)),
        ("jpegs", pa.list_(pa.binary())),
        ("note", pa.string()),
        ("level", pa.float32()),
    ]
)


def index_row(clip_id: str, split: str, status: str = "ok", **columns) -> dict:
    """Return the index columns of a clip, and `columns`.

    Action and source are read off `clip_id`, "<action>/<source>_<number>"; unlabelled clips have
    no action, and clips whose status is not "ok" no item.
    """
    action, name = clip_id.rsplit("/", 1)
    is_ok = status == "ok"
    return {
        "clip_id": clip_id,
        "split": split,
        "action": None if split == "unlabelled" else action,
        "source_id": name.rsplit("_", 1)[0],
        "item_key": f"key of {clip_id}" if is_ok else None,
        "status": status,
        "reason": "" if is_ok else "because",
        **columns,
    }


def full_row(clip_id: str, split: str, seed: int = 0) -> dict:
    """Return a row of SCHEMA with its index columns; the values depend on clip and seed."""
    rng = np.random.default_rng([seed, *clip_id.encode()])
    return {
        **index_row(clip_id, split),
        "features": rng.normal(size=(3, 4)).astype(np.float16),
        "jpegs": [rng.bytes(20), b"", rng.bytes(3)],
        "note": "ünï",
        "level": 0.5,
    }
