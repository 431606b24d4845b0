"""Turn the annotations of Moments in Time, version 1 or 2, into a list of clips.

    python -m tools.import_moments trainingSet.csv validationSet.csv --out list.csv
    python -m tools.import_moments trainingSet.csv validationSet.csv \
        --categories moments_categories.txt --out list.csv

The files have no header line: <label>/<file>, label, positive answers, negative answers.  The
validation set is the test set.  --categories: only clips of these classes, such as the 305 of
version 2 among the 339 of version 1.  --min-agreement: only clips with as many more positive than
negative answers.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

COLUMNS = ["file", "label", "positive", "negative"]


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per row of the chosen classes."""
    wanted = set(annotations.names_in(arguments.categories)) if arguments.categories else None
    files = {"training": arguments.training, "validation": arguments.validation}
    for folder, file in files.items():
        split = "test" if folder == "validation" else "training"
        for place, row in annotations.rows(file, COLUMNS, COLUMNS):
            if "/" not in row["file"]:
                continue  # a header line
            if wanted is not None and row["label"] not in wanted:
                left_out.add(f"have a class that {arguments.categories} does not name", place)
                continue
            if int(row["positive"]) - int(row["negative"]) < arguments.min_agreement:
                left_out.add("have too little agreement", place)
                continue
            # The source is in the file's name: clips.source_pattern.
            path = annotations.path_of(arguments.pattern, folder=folder, file=row["file"])
            yield ListedClip(path, row["label"], split=split)


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("training", type=Path, help="trainingSet.csv")
    command.add_argument("validation", type=Path, help="validationSet.csv")
    command.add_argument("--categories", type=Path, help="moments_categories.txt")
    command.add_argument("--min-agreement", type=int, default=0, help="default: %(default)s")
    annotations.add_pattern(command, "{folder}/{file}", "{folder} and {file}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
