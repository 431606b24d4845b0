"""Turn VGGSound's annotations into a list of clips (docs/data_sets.md).

    python -m tools.import_vggsound vggsound.csv --out list.csv

vggsound.csv has no header line: YouTube id, start in seconds, label, train or test.  Clips last
10 s.  Files of whole YouTube videos: --pattern "{id}.mp4".
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

COLUMNS = ["id", "start", "label", "split"]
CLIP_S = 10


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per row."""
    pattern = arguments.pattern
    for place, row in annotations.rows(arguments.annotations, COLUMNS, COLUMNS):
        if row["split"] not in annotations.SPLITS or not row["start"].isdigit():
            left_out.add("are no annotation of a clip and left out", place)
            continue
        start = int(row["start"])
        path = annotations.path_of(pattern, id=row["id"], start=start, label=row["label"])
        start_s, end_s = annotations.part_of(pattern, start, start + CLIP_S)
        split = annotations.SPLITS[row["split"]]
        yield ListedClip(path, row["label"], start_s, end_s, split, row["id"])


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("annotations", type=Path, help="vggsound.csv")
    annotations.add_pattern(command, "{id}_{start:06d}.mp4", "{id}, {start} and {label}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
