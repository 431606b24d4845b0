"""Turn the annotations of EPIC-KITCHENS-100 or EPIC-SOUNDS into a list of clips.

    python -m tools.import_epic EPIC_100_train.csv EPIC_100_validation.csv \
        --label verb --classes EPIC_100_verb_classes.csv --out list.csv
    python -m tools.import_epic EPIC_Sounds_train.csv EPIC_Sounds_validation.csv \
        --label class --out list.csv

Clips are parts of the untrimmed videos, from start_timestamp to stop_timestamp.  A file whose name
has `validation` is the test set, as the labels of the published test sets are held back.
--label: verb or noun (their class numbers, by name where --classes gives id and key), class (of
EPIC-SOUNDS).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

COLUMNS = ["participant_id", "video_id", "start_timestamp", "stop_timestamp"]
LABEL_COLUMNS = {"verb": "verb_class", "noun": "noun_class", "class": "class"}


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per segment."""
    names: dict[str, str] = {}
    if arguments.classes:
        classes = annotations.rows(arguments.classes, ["id", "key"])
        names = {row["id"]: row["key"] for _, row in classes}
    label = LABEL_COLUMNS[arguments.label]
    for file in arguments.annotations:
        split = "test" if "validation" in file.name else "training"
        for place, row in annotations.rows(file, [*COLUMNS, label]):
            start_s = annotations.seconds(row["start_timestamp"])
            end_s = annotations.seconds(row["stop_timestamp"])
            if end_s <= start_s:
                left_out.add("end before they begin and are left out", place)
                continue
            action = names.get(row[label], row[label])
            if action.isdigit():
                action = f"{arguments.label} {action}"
            video = row["video_id"]
            path = annotations.path_of(
                arguments.pattern, participant=row["participant_id"], video=video
            )
            yield ListedClip(path, action, start_s, end_s, split, video)


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("annotations", type=Path, nargs="+", help="the CSV files")
    command.add_argument("--label", choices=tuple(LABEL_COLUMNS), required=True, help="the action")
    command.add_argument("--classes", type=Path, help="CSV with the columns id and key")
    default = "{participant}/videos/{video}.MP4"
    annotations.add_pattern(command, default, "{participant} and {video}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
