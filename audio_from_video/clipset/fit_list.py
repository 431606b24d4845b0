"""Lists of the clips that models are fitted on (`clips.fit_on`): files in git.

A CSV or Parquet file with a row per clip, as `python -m tools.fit_list` writes it:

    clip_id, content_hash, split, source_id

New clips then change no model: they are only passed through those that stand.  The splits of listed
sources are kept, and sources that are not listed are training clips until the list is made anew.
Test clips are listed for their split alone: no model learns from them.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError, printable

COLUMNS = ("clip_id", "content_hash", "split", "source_id")
FITTED_SPLITS = ("training", "unlabelled", "validation")
ADVICE = "`python -m tools.fit_list` lists the present clips, and all models are then fitted anew"


@dataclass(frozen=True)
class FitList:
    """A list: content_hash of each clip by clip_id, the split of each source, and a digest."""

    path: str
    contents: dict[str, str]
    splits: dict[str, str]
    digest: str


def read(path: str) -> FitList:
    """Read a list; raise UserError where it is missing, no table, or lacks a column."""
    if not Path(path).is_file():
        raise UserError(
            f"the list {path} does not exist (clips.fit_on is relative to the repository): "
            "`python -m tools.fit_list` writes one; '' fits on all clips"
        )
    try:
        table = pq.read_table(path) if path.endswith(".parquet") else _read_csv(path)
        rows = table.select(COLUMNS).to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise UserError(
            f"{path} is no list of clips to fit on ({str(error).splitlines()[0]}): it needs the "
            f"columns {', '.join(COLUMNS)}"
        ) from None
    ordered = sorted([row[name] for name in COLUMNS] for row in rows)
    contents = {row["clip_id"]: row["content_hash"] for row in rows}
    splits = {row["source_id"]: row["split"] for row in rows}
    return FitList(path, contents, splits, digest(ordered))


def _read_csv(path: str) -> pa.Table:
    """A CSV file with all columns as strings: digits may be names."""
    strings = dict.fromkeys(COLUMNS, pa.string())
    return pa.csv.read_csv(path, convert_options=pa.csv.ConvertOptions(column_types=strings))


def check(clips: list[dict], listed: FitList) -> None:
    """Raise UserError where a listed clip is gone, refused, or another file than it was."""
    contents = {clip["clip_id"]: clip["content_hash"] for clip in clips if clip["status"] == "ok"}
    changed = [name for name, content in listed.contents.items() if contents.get(name) != content]
    if changed:
        raise UserError(
            f"{len(changed)} of the {len(listed.contents)} clips in clips.fit_on = {listed.path} "
            f"are gone, refused or changed, such as {printable(changed[0])}: {ADVICE}"
        )


def fitted_clip_ids(clips: list[dict], listed: FitList | None) -> list[str]:
    """Return the clips that models are fitted on: all that are not test clips, or the listed."""
    names = []
    for clip in clips:
        is_listed = listed is None or clip["clip_id"] in listed.contents
        if clip["status"] == "ok" and clip["split"] in FITTED_SPLITS and is_listed:
            names.append(clip["clip_id"])
    return names
