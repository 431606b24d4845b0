"""What the importers of published annotations share (tools/import_*.py).

An importer turns annotation files into a list of clips (clipset/lists.py).  It opens no video and
no network.  `clips` says which rows match no file.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from audio_from_video.clipset import lists
from audio_from_video.clipset.lists import Complaints, ListedClip
from audio_from_video.runtime.errors import UserError, printable

# What publishers call the splits.
SPLITS = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "validate": "validation",
    "validation": "validation",
    "test": "test",
}

# Makes clips of the command's arguments; rows that cannot be clips go to the complaints.
Import = Callable[[argparse.Namespace, Complaints], Iterable[ListedClip]]


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a command line with the options that all importers have."""
    command = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("--out", type=Path, required=True, help="the list to write (.csv)")
    return command


def add_pattern(command: argparse.ArgumentParser, default: str, fields: str) -> None:
    """Add the option that says how the media files are called."""
    command.add_argument(
        "--pattern",
        default=default,
        help=f"path of a file below clips.root, with {fields} (default: %(default)s); files whose "
        "name has {start} are taken as cut already",
    )


def run(command: argparse.ArgumentParser, make_clips: Import) -> None:
    """Run an importer: write the list, and say what it holds and what was left out."""
    arguments = command.parse_args()
    left_out = Complaints()
    try:
        clips = list(make_clips(arguments, left_out))
        for sentence in left_out.sentences():
            print(sentence, file=sys.stderr)
        if not clips:
            raise UserError("no row of the annotations makes a clip; nothing is written")
        count = lists.write(arguments.out, clips)
    except UserError as error:
        sys.exit(f"error: {printable(str(error))}")
    except OSError as error:
        sys.exit(f"error: {error.filename}: {error.strerror}")
    actions = {clip.action for clip in clips if clip.action}
    print(f"{arguments.out}: {count} clips of {len(actions)} actions")


def rows(
    path: Path, columns: Iterable[str] = (), names: list[str] | None = None, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of an annotation file, each with its place for messages.

    columns: that must be there.  names: of the columns of a file without a header line.
    Raises UserError where the file is no such table.
    """
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file, names)
        if delimiter != ",":
            # Such a file has commas and quotes in its cells (AVE).
            reader = csv.DictReader(file, names, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        missing = [name for name in columns if name not in (reader.fieldnames or [])]
        if missing:
            raise UserError(
                f"{path} lacks the column {', '.join(missing)}; it has "
                f"{', '.join(reader.fieldnames or []) or 'none'}"
            )
        for row in reader:
            if any(row.get(name) is None for name in columns):
                raise UserError(f"{path}, line {reader.line_num}: it has fewer columns than others")
            yield f"{path.name} line {reader.line_num}", row


def names_in(path: Path) -> list[str]:
    """Return the lines of a file of names, without what follows a comma or tab (an index)."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    names = [line.replace("\t", ",").split(",")[0].strip() for line in lines]
    return [name for name in names if name]


def seconds(text: str) -> float:
    """Return a time in seconds: a number, or hours:minutes:seconds; raises ValueError."""
    total = 0.0
    for part in text.strip().split(":"):
        total = 60 * total + float(part)
    return total


def path_of(pattern: str, **values: object) -> str:
    """Return the path that a pattern names; raises UserError where it asks for something else."""
    try:
        return pattern.format(**values)
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(f"{{{name}}}" for name in values)
        raise UserError(f"--pattern {pattern!r}: {error}; it may have {known}") from None


def part_of(pattern: str, start_s: float, end_s: float) -> tuple[float | None, float | None]:
    """Return start and end of a clip in its file; None where its file is cut already."""
    if "{start" in pattern:
        return None, None
    return start_s, end_s
