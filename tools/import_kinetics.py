"""Turn Kinetics' annotations into a list of clips, such as that of Kinetics-Sounds.

    python -m tools.import_kinetics train.csv val.csv --classes kinetics_sounds.txt --out list.csv

The files have the columns label, youtube_id, time_start, time_end, split.  Kinetics-Sounds is the
part of Kinetics whose classes a file names, one a line: there are lists of 31, 32, 33 and 34
classes, so a table says which one it is of.  Without --classes all classes are taken.
By default the published validation set is the test set, as in most papers, and test rows are left
out; --test test takes val as validation and test as test set.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip
from audio_from_video.runtime.errors import UserError

COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split"]


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per row of the chosen classes."""
    wanted = set(annotations.names_in(arguments.classes)) if arguments.classes else None
    found = set()
    for file in arguments.annotations:
        for place, row in annotations.rows(file, COLUMNS):
            label = row["label"]
            if wanted is not None and label not in wanted:
                continue
            found.add(label)
            split = annotations.SPLITS.get(row["split"], "")
            if not split:
                left_out.add("have an unknown split and are left out", place)
                continue
            if arguments.test == "val" and split == "test":
                left_out.add("are of the published test set and left out", place)
                continue
            if arguments.test == "val" and split == "validation":
                split = "test"
            yield clip_of(row, split, arguments.pattern)
    unknown = sorted((wanted or set()) - found)
    if unknown:
        raise UserError(f"{arguments.classes} names {', '.join(unknown)}, which no row has")


def clip_of(row: dict[str, str], split: str, pattern: str) -> ListedClip:
    """Return the clip of a row."""
    start_s = annotations.seconds(row["time_start"])
    end_s = annotations.seconds(row["time_end"])
    source = row["youtube_id"]
    values = {"id": source, "label": row["label"], "start": int(start_s), "end": int(end_s)}
    path = annotations.path_of(pattern, **values)
    begin_s, stop_s = annotations.part_of(pattern, start_s, end_s)
    return ListedClip(path, row["label"], begin_s, stop_s, split, source)


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("annotations", type=Path, nargs="+", help="train.csv, val.csv, test.csv")
    command.add_argument("--classes", type=Path, help="file with a class per line")
    command.add_argument("--test", choices=("val", "test"), default="val", help="the test set")
    default = "{label}/{id}_{start:06d}_{end:06d}.mp4"
    annotations.add_pattern(command, default, "{id}, {label}, {start} and {end}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
