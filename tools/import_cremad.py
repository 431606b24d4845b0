"""Turn the file names of CREMA-D into a list of clips.

    python -m tools.import_cremad SentenceFilenames.csv --out list.csv

SentenceFilenames.csv has the columns Stimulus_Number and Filename, such as 1001_DFA_ANG_XX: actor,
sentence, emotion, intensity.  The emotion is the action.  The actor is the source, so that `clips`
keeps each actor on one side of every split; there are no published splits, and it draws them.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.clipset import annotations
from audio_from_video.clipset.lists import Complaints, ListedClip

EMOTIONS = {
    "ANG": "anger",
    "DIS": "disgust",
    "FEA": "fear",
    "HAP": "happiness",
    "NEU": "neutral",
    "SAD": "sadness",
}


def clips(arguments: argparse.Namespace, left_out: Complaints) -> Iterator[ListedClip]:
    """Yield a clip per file name."""
    for place, row in annotations.rows(arguments.annotations, ["Filename"]):
        words = row["Filename"].split("_")
        if len(words) != 4 or words[2] not in EMOTIONS:
            left_out.add("name no emotion and are left out", f"{place} ({row['Filename']})")
            continue
        path = annotations.path_of(arguments.pattern, file=row["Filename"])
        yield ListedClip(path, EMOTIONS[words[2]], source_id=words[0])


def main() -> None:
    """Run the command."""
    command = annotations.parser(__doc__)
    command.add_argument("annotations", type=Path, help="SentenceFilenames.csv")
    annotations.add_pattern(command, "VideoFlash/{file}.flv", "{file}")
    annotations.run(command, clips)


if __name__ == "__main__":
    main()
