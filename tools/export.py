"""Export a stage's output for other tools: arrays, images, sound, or a table as CSV.

    python -m tools.export data/video_features/rgb rgb.npz   one array per clip, <action>/<video id>
    python -m tools.export data/frames frames/               <action>/<video id>/00.jpg, 01.jpg, ...
    python -m tools.export data/audio sound/                 <action>/<video id>.flac
    python -m tools.export data/audio sound/ --format mp3    the same in another format of ffmpeg's
    python -m tools.export data/clips.parquet clips.csv      a table, its columns of single values

Scores of AudioSet's labels get the labels' names: as an array `labels` in an .npz, as the columns
of a CSV.  Here the scores that AST gives the clips' own sound:

    python -m tools.export data/audio_features scores.csv --column label_scores

Predictions of a condition become a row per clip: the predicted action, and the probability of each,
means over seeds.  Here those of the clips that have no label:

    python -m tools.export data/predictions/video_only.parquet answers.csv --split unlabelled

Clips without action label stand under `unlabelled`.  `--split` and `--column` choose.  Arrays are
free of pickle.
"""

import argparse
import csv
import difflib
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.audioset.labels import load_labels
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.runtime.vocabulary import LABELLED, UNLABELLED
from audio_from_video.storage import layout, predictions, shards
from tools.explain import is_plain

# Columns of media and the endings of their files.
MEDIA = {"jpegs": "jpg", "flac": "flac"}


def export_arrays(source: Path, target: Path, column: str, splits: list[str] | None) -> int:
    """Write a tensor column as .npz and return the number of clips.

    numpy.load reads the file with allow_pickle=False.  splits: None for all.
    Scores of labels come with an array `labels` of their names.
    """
    count = 0
    names = label_names(source, column)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        if names:
            with archive.open("labels.npy", "w") as entry:
                np.lib.format.write_array(entry, np.array(names), allow_pickle=False)
        for row in shards.iter_rows(source, [column], splits):
            array = np.ascontiguousarray(row[column])
            with archive.open(f"{row['clip_id']}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
            count += 1
    return count


def label_names(source: Path, column: str) -> list[str]:
    """Return the names of what a column's values stand for; [] where it holds no label scores."""
    names = [label.display_name for label in load_labels()]
    return names if shards.tensor_shape(source, column) == (len(names),) else []


def export_label_scores(source: Path, target: Path, column: str, splits: list[str] | None) -> int:
    """Write scores of labels as CSV, a column per label, and return the number of clips.

    splits: None for all.

    Raises:
        UserError: the column holds other arrays.
    """
    names = label_names(source, column)
    if not names:
        shape = list(shards.tensor_shape(source, column))
        raise UserError(
            f"{column} of {source} has arrays {shape} per clip, no scores of labels, and a CSV "
            "cannot hold them: name an .npz file"
        )
    rows = (
        [row["clip_id"], *row[column].tolist()]
        for row in shards.iter_rows(source, [column], splits)
    )
    return write_csv(target, ["clip_id", *names], rows)


def export_table(source: Path, target: Path, splits: list[str] | None) -> int:
    """Write the single values of a table as CSV and return the number of rows.

    Predictions become a row per clip.  splits: None for all.

    Raises:
        UserError: splits are asked for, and the table has none.
    """
    table = shards.read_table(source)
    if source.parent == layout.PREDICTIONS:
        table = answers_table(predictions.from_table(table))
    if splits and "split" not in table.column_names:
        raise UserError(f"{source} has no splits: leave out --split")
    columns = [field.name for field in table.schema if is_plain(field.type)]
    rows = (
        [row[name] for name in columns]
        for row in table.select(columns).to_pylist()
        if not splits or row["split"] in splits
    )
    return write_csv(target, columns, rows)


def answers_table(answers: predictions.Predictions) -> pa.Table:
    """Return a row per clip: its facts, the predicted action, the mean probability of each."""
    table = answers.clips.copy()
    table["predicted"] = answers.consensus().to_numpy()
    for i, action in enumerate(answers.actions):
        table[f"probability of {action}"] = answers.probabilities[:, :, i].mean(0)
    return pa.Table.from_pandas(table, preserve_index=False)


def write_csv(target: Path, header: list[str], rows: Iterable[list]) -> int:
    """Write a CSV file, floats in six digits, and return the number of rows below its header."""
    count = 0
    with open(target, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            values = [f"{value:.6g}" if isinstance(value, float) else value for value in row]
            writer.writerow(values)
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


def require_output(source: Path) -> None:
    """Raise UserError where a path is no output of a stage that can be exported."""
    is_table = source.is_file() and source.suffix == ".parquet"
    if is_table or (source / shards.INDEX).is_file():
        return
    outputs = sorted(str(path.parent) for path in layout.DATA.glob(f"**/{shards.INDEX}"))
    if not outputs:
        raise UserError(f"{source} is not there, and no other output: run `dvc repro` first")
    near = difflib.get_close_matches(str(source), outputs, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UserError(
        f"{source} is no output that can be exported; {hint}there are {', '.join(outputs)} and "
        f"tables (*.parquet) in {layout.DATA} and its folders"
    )


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
    column = name or next(iter(usable), "features")
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
    parser.add_argument("source", type=Path, help="output of a stage, such as data/frames")
    parser.add_argument(
        "target", type=Path, help="an .npz file, a folder for images and sound, or a .csv file"
    )
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
        require_output(source)
        if source.suffix == ".parquet":
            count = export_table(source, target, arguments.split)
            print(f"{count} rows to {target}")
            return
        column, holds_arrays = choose_column(source, arguments.column)
        if holds_arrays and target.suffix == ".csv":
            count = export_label_scores(source, target, column, arguments.split)
        elif holds_arrays:
            count = export_arrays(source, target, column, arguments.split)
        else:
            count = export_media(source, target, column, arguments.split, arguments.format)
    except (UserError, OSError) as error:
        sys.exit(f"export: error: {printable(str(error))}")
    print(f"{count} clips, column {column}, to {target}")


if __name__ == "__main__":
    main()
