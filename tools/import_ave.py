"""Turn the annotations of AVE (audio-visual events) into a list of clips.

    python -m tools.import_ave AVE_Dataset/ --out list.csv

The folder holds trainSet.txt, valSet.txt and testSet.txt, whose lines are
Category&VideoID&Quality&StartTime&EndTime.  A clip is the part of a 10 s file in which the event is
seen and heard; --whole takes the whole files.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

COLUMNS = ["Category", "VideoID", "Quality", "StartTime", "EndTime"]
FILES = {"trainSet.txt": "training", "valSet.txt": "validation", "testSet.txt": "test"}


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per event."""
    for name, split in FILES.items():
        file = arguments.folder / name
        for place, row in annotations.rows(file, COLUMNS, COLUMNS, delimiter="&"):
            if row["Category"] == "Category":
                continue
            video = row["VideoID"]
            start_s = annotations.seconds(row["StartTime"])
            end_s = annotations.seconds(row["EndTime"])
            if end_s <= start_s:
                left_out.add("last no time and are left out", f"{place} ({video})")
                continue
            path = annotations.path_of(arguments.pattern, id=video)
            event = ListedClip(path, row["Category"], start_s, end_s, split, video)
            yield replace(event, start_s=None, end_s=None) if arguments.whole else event


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("folder", type=Path, help="folder with the three lists")
    command.add_argument("--whole", action="store_true", help="whole files, not the events")
    annotations.add_pattern(command, "AVE/{id}.mp4", "{id}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
