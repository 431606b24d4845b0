"""Export a stage's output for other tools: arrays as pickle-free .npz, images and sound as files.

    python -m tools.export data/video_features/rgb rgb.npz   one array per clip, <action>/<video id>
    python -m tools.export data/frames frames/               <action>/<video id>/00.jpg, 01.jpg, ...
    python -m tools.export data/audio sound/                 <action>/<video id>.flac
    python -m tools.export data/audio sound/ --format mp3    the same in another format of ffmpeg's

Clips without action label stand under `unlabelled`.  `--split` and `--column` choose; nothing is
held in memory.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import LABELLED, UNLABELLED
from audio_from_video.storage import shards

# Columns of media and the endings of their files.
MEDIA = {"jpegs": "jpg", "flac": "flac"}


def export_arrays(source: Path, target: Path, column: str, splits: list[str] | None) -> int:
    """Write a tensor column as .npz and return the number of clips.

    numpy.load reads the file with allow_pickle=False.  splits: None for all.
    """
    count = 0
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for row in shards.iter_rows(source, [column], splits):
            array = np.ascontiguousarray(row[column])
            with archive.open(f"{row['clip_id']}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
            count += 1
    return count


def export_media(
    source: Path, target: Path, column: str, splits: list[str] | None, sound_format: str = "flac"
) -> int:
    """Write JPEG frames or sound as files and return the number of clips.

    splits: None for all.  sound_format: one that ffmpeg writes, such as wav or mp3.

    Raises:
        UserError: ffmpeg cannot write the format.
    """
    count = 0
    for row in shards.iter_rows(source, [column], splits):
        path = target / row["clip_id"]
        if column == "jpegs":
            path.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(row[column]):
                (path / f"{i:02d}.jpg").write_bytes(image)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            sound = row[column]
            if sound_format != "flac":
                sound = convert_sound(sound, sound_format)
            path.with_name(f"{path.name}.{sound_format}").write_bytes(sound)
        count += 1
    return count


def convert_sound(flac: bytes, sound_format: str) -> bytes:
    """Return FLAC bytes in another format that ffmpeg writes.

    Raises:
        UserError: ffmpeg cannot write the format.
    """
    stream = ffmpeg.input("pipe:", format="flac").output("pipe:", format=sound_format)
    program = imageio_ffmpeg.get_ffmpeg_exe()
    try:
        converted, _ = stream.run(program, input=flac, capture_stdout=True, capture_stderr=True)
    except ffmpeg.Error as error:
        message = error.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise UserError(f"ffmpeg cannot write sound as '{sound_format}': {message}") from None
    return converted


def choose_column(source: Path, name: str | None) -> tuple[str, bool]:
    """Return the column to export and whether it holds arrays.

    name: of the column, None for the first one that can be exported.

    Raises:
        UserError: the output holds no clip or no such column.
    """
    paths = shards.shard_paths(source)
    if not paths:
        raise UserError(f"{source} holds no clip")
    schema = pq.read_schema(paths[0])
    arrays = [field.name for field in schema if isinstance(field.type, pa.FixedShapeTensorType)]
    usable = [column for column in schema.names if column in MEDIA] + arrays
    column = name or usable[0]
    if column not in usable:
        raise UserError(f"{source} has no column '{column}' to export; it has {', '.join(usable)}")
    return column, column in arrays


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, help="output of a per-clip stage, such as data/frames")
    parser.add_argument("target", type=Path, help="an .npz file, or a folder for images and sound")
    parser.add_argument("--column", help="which column (default: images or sound, else `features`)")
    parser.add_argument(
        "--split",
        action="append",
        choices=[*LABELLED, UNLABELLED],
        help="only this split; may be repeated",
    )
    parser.add_argument("--format", default="flac", help="of sound: flac, wav, mp3, ogg, ...")
    arguments = parser.parse_args()
    source = arguments.source
    target = arguments.target
    try:
        column, holds_arrays = choose_column(source, arguments.column)
        if holds_arrays:
            count = export_arrays(source, target, column, arguments.split)
        else:
            count = export_media(source, target, column, arguments.split, arguments.format)
    except (UserError, OSError) as error:
        sys.exit(f"export: error: {error}")
    print(f"{count} clips, column {column}, to {target}")


if __name__ == "__main__":
    main()
