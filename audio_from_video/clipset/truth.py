"""The only door to data/truth.parquet: what is true of rendered clips."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards

TRUTH = pa.schema(
    [
        ("clip_id", pa.string()),
        ("split", pa.string()),
        ("action", pa.string()),
        ("sound_kind", pa.string()),
        ("audible", pa.bool_()),
        ("sound_belongs", pa.bool_()),
        ("audio_labels", pa.list_(pa.string())),
        ("event_times_s", pa.list_(pa.float32())),
        ("clean_sound", pa.binary()),
    ]
)


def pass_truth_on(source: Path, target: Path) -> None:
    """Copy the truth of rendered clips, or write a table without rows where the root has none."""
    if not source.is_file():
        return shards.write_table(TRUTH.empty_table(), target)
    try:
        schema = pq.read_schema(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{source} is no Parquet file ({str(error).splitlines()[0]}): remove it, or restore what `sample` wrote"
        ) from None
    if missing := [field.name for field in TRUTH if field not in list(schema)]:
        names = ", ".join(missing)
        raise UserError(
            f"{source} lacks the columns {names}, or has them with other types: remove it, or restore what `sample` wrote"
        )
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)
