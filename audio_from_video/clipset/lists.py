"""Lists of clips: a CSV or Parquet file with a row per clip, which may be a part of a longer file.

    path        the file, relative to clips.root
    action      its action; empty for unlabelled clips
    start_s     where the clip begins in the file, from its first shown frame, and
    end_s       where it ends, s; both empty: the clip is the whole file
    split       training, validation, test or unlabelled; empty: decided by source
    source_id   the video it was cut from; empty: found in the file's name (clips.source_pattern)

Only `path` and `action` must be there.  Other columns are left alone.
"""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.runtime.remote import RemoteFile

SPLITS = ("training", "validation", "test", "unlabelled")
REQUIRED = ("path", "action")


@dataclass(frozen=True)
class ListedClip:
    """A row of a list; '' and None stand for empty cells."""

    path: str
    action: str
    start_s: float | None = None
    end_s: float | None = None
    split: str = ""
    source_id: str = ""

    @property
    def part(self) -> str:
        """What tells a part from others of its file: `@<start>-<end>`, '' for a whole file."""
        if self.start_s is None or self.end_s is None:
            return ""
        return f"@{_seconds(self.start_s)}-{_seconds(self.end_s)}"


def _seconds(value: float) -> str:
    """Seconds to the microsecond, without trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


class Complaints:
    """What is wrong with rows, by kind: how many there are, and the first of them."""

    def __init__(self) -> None:
        self._places: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, place: str) -> None:
        """Note a row; kind: what is said of all of its kind, such as `have no path`."""
        self._places[kind].append(place)

    def sentences(self) -> list[str]:
        """Return a sentence for each kind."""
        return [
            f"{len(places)} rows {kind}, such as {printable(places[0])}"
            for kind, places in self._places.items()
        ]


def read(path: Path | RemoteFile) -> tuple[list[ListedClip], list[str]]:
    """Return the clips of a list, in its order, and sentences on rows that were left out.

    A row that stands there twice counts once.  Raises UserError where the list is missing or no
    table, lacks a column, or has cells that make no sense: how many rows, and the first of them.
    """
    if not path.is_file():
        raise UserError(
            f"the clip list {path} does not exist (clips.clip_list is relative to clips.root, or "
            "an absolute path)"
        )
    rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    wrong = Complaints()
    left_out = Complaints()
    clips: dict[ListedClip, None] = {}
    for number, row in rows:
        clip = _clip(row, f"row {number}", wrong)
        if clip is None:
            continue
        if clip in clips:
            left_out.add("stand there twice and count once", f"row {number} ({clip.path})")
        clips[clip] = None
    if wrong.sentences():
        raise UserError(f"the clip list {path}: " + "; ".join(wrong.sentences()))
    if not clips:
        raise UserError(f"the clip list {path} has no rows")
    return list(clips), left_out.sentences()


def write(path: Path, clips: Iterable[ListedClip]) -> int:
    """Write a list as CSV and return the number of its clips."""
    count = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(ListedClip)])
        writer.writeheader()
        for clip in clips:
            writer.writerow(asdict(clip))
            count += 1
    return count


def _read_csv(path: Path | RemoteFile) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a CSV file, each with its line."""
    content = io.BytesIO(path.read_bytes())
    lines = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline="")
    reader = csv.DictReader(lines, strict=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
        present = list(reader.fieldnames or [])
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file: {error}") from None
    _require_columns(path, present)
    return rows


def _read_parquet(path: Path | RemoteFile) -> list[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet file, each with its number."""
    try:
        table = pq.read_table(pa.BufferReader(path.read_bytes()), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise UserError(f"{path} is no Parquet file: {cause}") from None
    _require_columns(path, table.column_names)
    return list(enumerate(table.to_pylist(), start=1))


def _require_columns(path: Path | RemoteFile, present: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in present]
    if missing:
        raise UserError(
            f"the clip list {path} lacks the column {', '.join(missing)}; it has "
            f"{printable(', '.join(present)) or 'none'}, and may have "
            "path, action, start_s, end_s, split, source_id"
        )


def _clip(row: dict[str, Any], place: str, wrong: Complaints) -> ListedClip | None:
    """The clip of a row; None where the row makes no sense, which goes to `wrong`."""
    path = _text(row, "path")
    action = _text(row, "action")
    split = _text(row, "split")
    if not path:
        wrong.add("have no path", place)
        return None
    place = f"{place} ({path})"
    if "\0" in path or Path(path).is_absolute() or ".." in Path(path).parts:
        wrong.add("have a path that leads out of clips.root", place)
        return None
    if split and split not in SPLITS:
        wrong.add(f"have a split other than {', '.join(SPLITS)}", f"{place}: {split!r}")
        return None
    if not action and split not in ("", "unlabelled"):
        wrong.add("have no action, though they are not unlabelled", place)
        return None
    try:
        start_s = _time_s(row, "start_s")
        end_s = _time_s(row, "end_s")
    except ValueError as error:
        wrong.add("have a time that is no number of seconds from 0 on", f"{place}: {error}")
        return None
    if (start_s is None) != (end_s is None):
        wrong.add("have only one of start_s and end_s", place)
        return None
    if start_s is not None and end_s is not None and end_s <= start_s:
        wrong.add("end before they begin", f"{place}: {start_s:g} to {end_s:g} s")
        return None
    if split == "unlabelled":
        action = ""
    # Without `./` and doubled slashes.
    path = PurePosixPath(path).as_posix()
    return ListedClip(path, action, start_s, end_s, split, _text(row, "source_id"))


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def _time_s(row: dict[str, Any], name: str) -> float | None:
    """A time in seconds, None for an empty cell; raises ValueError."""
    text = _text(row, name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} = {text!r}")
    return value
