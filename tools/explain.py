"""One clip's way through all stages: status and reason in each, with the decoder's own message.

    python -m tools.explain CLIP_ID        the id, the file's path, or a part of either

Reads data/clips.parquet, the index of every per-clip output and the tables that have a row per clip, as the last run left them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout, shards

DATA = layout.DATA
FACTS = ("path", "split", "source_id", "duration_s", "fps", "width_px", "height_px", "has_audio")


def find(wanted: str) -> dict:
    """The clip's row in data/clips.parquet; a part of its id or path will do where it names one clip only."""
    if not (DATA / "clips.parquet").is_file():
        raise UserError("data/clips.parquet is missing: run `dvc repro` first")
    clips = shards.read_table(DATA / "clips.parquet").to_pylist()
    same = [clip for clip in clips if wanted in (clip["clip_id"], clip["path"])]
    found = same or [clip for clip in clips if wanted in clip["clip_id"] or wanted in clip["path"]]
    if not found:
        raise UserError(f"no clip among {len(clips)} has {wanted!r} in its id or path")
    if len(found) > 1 and not same:
        names = ", ".join(printable(clip["clip_id"]) for clip in found[:5])
        raise UserError(
            f"{len(found)} clips have {wanted!r} in their id or path: {names}{', ...' if len(found) > 5 else ''}"
        )
    return found[0]


def outputs() -> list[Path]:
    """What the stages after `clips` write, in the order of dvc.yaml, as far as it is there; `foreach` items by name."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    outs = [
        out
        for name, stage in stages.items()
        if name not in ("sample", "clips")
        for out in stage.get("do", stage).get("outs", [])
    ]
    named = [out if isinstance(out, str) else next(iter(out)) for out in outs]
    wanted = [pattern.replace("${key}", "*") for pattern in named if pattern.startswith("data/")]
    return [path for pattern in wanted for path in sorted(Path().glob(pattern))]


def row_of(output: Path, clip_id: str) -> dict[str, Any] | None:
    """A clip's row in the index of an output or in a table; None where it has none, {} where the output is not about clips."""
    path = output / shards.INDEX if output.is_dir() else output
    if (
        not path.is_file()
        or path.suffix != ".parquet"
        or "clip_id" not in (schema := pq.read_schema(path)).names
    ):
        return {}
    plain = [
        name
        for name in schema.names
        if not str(schema.field(name).type).startswith(("list", "fixed", "extension", "binary"))
    ]
    rows = pq.read_table(
        path, columns=plain, filters=[("clip_id", "=", clip_id)], partitioning=None
    ).to_pylist()
    return rows[0] if rows else None


def lines(clip: dict) -> list[str]:
    """The account: a line per stage."""
    told = [
        f"{clip['clip_id']}: "
        + ", ".join(f"{name} {clip[name]}" for name in FACTS if clip[name] is not None)
    ]
    told.append(f"{'clips':32s} {clip['status']:24s} {clip['reason']}")
    for output in outputs():
        row = row_of(output, clip["clip_id"])
        name = str(output.relative_to(DATA)).removesuffix(".parquet")
        if row is None:
            told.append(f"{name:32s} -{'':23s} did not get here")
        elif "status" in row:
            facts = {
                key: value
                for key, value in row.items()
                if key not in (*schema_names(), "status", "reason") and value is not None
            }
            told.append(f"{name:32s} {row['status']:24s} {row['reason'] or _words(facts)}")
        elif row:
            told.append(
                f"{name:32s} {'':24s} {_words({key: value for key, value in row.items() if key not in schema_names()})}"
            )
    return [printable(line).rstrip() for line in told]


def schema_names() -> list[str]:
    return [field.name for field in shards.INDEX_FIELDS]


def _words(facts: dict) -> str:
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in facts.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "clip", help="the clip's id, its path below clips.root, or a part of either"
    )
    try:
        print("\n".join(lines(find(parser.parse_args().clip))))
    except UserError as error:
        sys.exit(f"explain: error: {error}")


if __name__ == "__main__":
    main()
