"""The only door to data/truth.parquet: what is known of rendered clips because they were rendered.

Its rows may reach figures and the report alone, never a feature, a model or a decision.  Only
`evaluation`, `reporting` and the stages `sample`, `clips`, `dictionary` and `report` import this
module; tests/test_imports.py enforces it.  For data sets that were not rendered the table has no
rows.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.clipset import roots
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

TRUTH_SCHEMA = pa.schema(  # stages/sample.py, which renders the clips, describes the columns
    [
        ("clip_id", pa.string()),
        ("split", pa.string()),
        ("action", pa.string()),
        ("variant", pa.string()),
        ("sound_kind", pa.string()),
        ("audible", pa.bool_()),
        ("sound_belongs", pa.bool_()),
        ("audio_labels", pa.list_(pa.string())),
        ("event_times_s", pa.list_(pa.float32())),
        ("clean_sound", pa.binary()),
    ]
)


def pass_on(root_name: str) -> None:
    """Copy the truth of a data set's root to where the other functions of this module read it.

    Without `truth.parquet` in the root, a table without rows is written.
    Raises UserError where the root's file is no Parquet file, or lacks a column.
    """
    source = roots.place(root_name, "truth.parquet")
    if not source.is_file():
        shards.write_table(TRUTH_SCHEMA.empty_table(), layout.TRUTH)
        return
    advice = "remove it, or restore what `sample` wrote"
    content = source.read_bytes()
    try:
        present = list(pq.read_schema(pa.BufferReader(content)))
    except (pa.ArrowInvalid, OSError) as error:
        message = str(error).splitlines()[0]
        raise UserError(f"{source} is no Parquet file ({message}): {advice}") from None
    missing = [field.name for field in TRUTH_SCHEMA if field not in present]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"{source} lacks {names}, or has other types there: {advice}")
    # The bytes are copied, as this keeps the metadata that `sample` wrote.
    temporary = layout.TRUTH.with_name(f".{layout.TRUTH.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(layout.TRUTH)


def rows(columns: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return `columns` of every rendered clip, by clip_id; {} where nothing was rendered."""
    names = ["clip_id", *columns]
    table = shards.read_table(layout.TRUTH, names)
    return {row["clip_id"]: row for row in table.to_pylist()}


def actions() -> dict[str, str]:
    """Return the true action of every rendered clip, by clip_id; unlabelled clips have one, too."""
    return {clip_id: row["action"] for clip_id, row in rows(["action"]).items()}


def sound_belongs() -> dict[str, bool]:
    """Return, by clip_id, whether a rendered clip has its action's own sound, in time."""
    return {clip_id: row["sound_belongs"] for clip_id, row in rows(["sound_belongs"]).items()}


def event_times_s() -> dict[str, np.ndarray]:
    """Return the times [E] of the events of every rendered clip in seconds, by clip_id."""
    return {
        clip_id: np.array(row["event_times_s"] or [])
        for clip_id, row in rows(["event_times_s"]).items()
    }


def audible_labels() -> dict[str, list[str]]:
    """Return the AudioSet names of what sounds in every audible rendered clip, by clip_id."""
    return {
        clip_id: row["audio_labels"]
        for clip_id, row in rows(["audible", "audio_labels"]).items()
        if row["audible"]
    }


def own_sound_labels() -> list[tuple[str, list[str]]]:
    """Return (action, AudioSet names) of training clips with their action's own sound alone."""
    columns = rows(["split", "action", "sound_kind", "audio_labels"])
    return [
        (row["action"], row["audio_labels"])
        for row in columns.values()
        if row["split"] == "training" and row["sound_kind"] == "own"
    ]
