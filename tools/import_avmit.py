"""Turn the annotations of AVMIT (audiovisual Moments in Time) into a list of clips.

    python -m tools.import_avmit video_ratings.csv test_set.csv --out list.csv

The clips are files of Moments in Time.  test_set.csv (filename, AVMIT_label, MIT_label,
video_location) is the test set.  Of video_ratings.csv (the same columns with r1, r2, r3) those
clips are training clips that at least --min-r1 of three raters rated 1, and whose label the test
set has.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

COLUMNS = ["filename", "AVMIT_label", "video_location"]


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield the test clips, then the training clips."""
    tested = set()
    labels = set()
    for _, row in annotations.rows(arguments.test_set, COLUMNS):
        tested.add(row["filename"])
        labels.add(row["AVMIT_label"])
        yield clip_of(row, "test", arguments.pattern)
    for place, row in annotations.rows(arguments.ratings, [*COLUMNS, "r1"]):
        if row["filename"] in tested:
            continue
        if row["AVMIT_label"] not in labels:
            left_out.add("have a label that the test set lacks", place)
        elif int(float(row["r1"])) < arguments.min_r1:
            left_out.add("have too few ratings of 1", place)
        else:
            yield clip_of(row, "training", arguments.pattern)


def clip_of(row: dict[str, str], split: str, pattern: str) -> ListedClip:
    """Return the clip of a row; its source is in the file's name (clips.source_pattern)."""
    path = annotations.path_of(pattern, folder=row["video_location"], file=row["filename"])
    return ListedClip(path, row["AVMIT_label"], split=split)


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("ratings", type=Path, help="video_ratings.csv")
    command.add_argument("test_set", type=Path, help="test_set.csv")
    command.add_argument("--min-r1", type=int, default=2, help="default: %(default)s")
    annotations.add_pattern(command, "{folder}/{file}", "{folder} and {file}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
