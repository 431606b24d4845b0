"""One clip's way through all stages: status and reason in each, with the decoder's own message.

    python -m tools.explain CLIP_ID        the id, the file's path, or a part of either

Reads data/clips.parquet, the index of every per-clip output and the tables that have a row per
clip, as the last run left them.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout, shards

PIPELINE = Path("dvc.yaml")
CLIP_FACTS = (
    "path",
    "split",
    "source_id",
    "duration_s",
    "fps",
    "width_px",
    "height_px",
    "has_audio",
)
INDEX_NAMES = [field.name for field in shards.INDEX_FIELDS]
NAMES_IN_MESSAGE = 5


def find_clip(text: str) -> dict:
    """Return the clip's row in data/clips.parquet.

    text: its id, its path, or a part of either that names one clip only.

    Raises:
        UserError: nothing has run yet, or the text names no clip or several.
    """
    if not layout.CLIPS.is_file():
        raise UserError(f"{layout.CLIPS} is missing: run `dvc repro` first")
    clips = shards.read_table(layout.CLIPS).to_pylist()
    for clip in clips:
        if text in (clip["clip_id"], clip["path"]):
            return clip
    similar = [clip for clip in clips if text in clip["clip_id"] or text in clip["path"]]
    if not similar:
        raise UserError(f"no clip among {len(clips)} has {text!r} in its id or path")
    if len(similar) > 1:
        names = [printable(clip["clip_id"]) for clip in similar[:NAMES_IN_MESSAGE]]
        if len(similar) > NAMES_IN_MESSAGE:
            names.append("...")
        raise UserError(
            f"{len(similar)} clips have {text!r} in their id or path: {', '.join(names)}"
        )
    return similar[0]


def existing_outputs() -> list[Path]:
    """Return what the stages after `clips` wrote below data/, in the order of dvc.yaml.

    Outputs of `foreach` items come by name.
    """
    stages = YAML(typ="safe").load(PIPELINE)["stages"]
    paths = []
    for name, stage in stages.items():
        if name in ("sample", "clips"):
            continue
        for output in stage.get("do", stage).get("outs", []):
            # An output with options is a mapping from its path to them.
            pattern = output if isinstance(output, str) else next(iter(output))
            if pattern.startswith(f"{layout.DATA}/"):
                paths += sorted(Path().glob(pattern.replace("${key}", "*")))
    return paths


def row_of(output: Path, clip_id: str) -> dict[str, Any] | None:
    """Return a clip's row in the index of an output or in a table, without arrays and lists.

    It is None where the clip has none, {} where the output is not about clips.
    """
    path = output / shards.INDEX if output.is_dir() else output
    if not path.is_file() or path.suffix != ".parquet":
        return {}
    schema = pq.read_schema(path)
    if "clip_id" not in schema.names:
        return {}
    columns = [field.name for field in schema if is_plain(field.type)]
    clip_filter = [("clip_id", "=", clip_id)]
    table = pq.read_table(path, columns=columns, filters=clip_filter, partitioning=None)
    rows = table.to_pylist()
    return rows[0] if rows else None


def is_plain(column_type: pa.DataType) -> bool:
    """Return whether a column holds single values that people can read."""
    return not str(column_type).startswith(("list", "fixed", "extension", "binary"))


def account(clip: dict) -> list[str]:
    """Return the lines of the account: the clip's facts, then a line per stage."""
    facts = [f"{name} {clip[name]}" for name in CLIP_FACTS if clip[name] is not None]
    lines = [
        f"{clip['clip_id']}: {', '.join(facts)}",
        stage_line("clips", clip["status"], clip["reason"]),
    ]
    for output in existing_outputs():
        name = str(output.relative_to(layout.DATA)).removesuffix(".parquet")
        row = row_of(output, clip["clip_id"])
        if row is None:
            lines.append(stage_line(name, "-", "did not get here"))
        elif "status" in row:
            lines.append(stage_line(name, row["status"], row["reason"] or own_facts(row)))
        elif row:
            lines.append(stage_line(name, "", own_facts(row, with_gaps=True)))
    return [printable(line).rstrip() for line in lines]


def stage_line(name: str, status: str, text: str) -> str:
    """Return a stage's line: its name, the clip's status there and what there is to say of it."""
    return f"{name:32s} {status:24s} {text}"


def own_facts(row: dict[str, Any], with_gaps: bool = False) -> str:
    """Return what a row holds beside the columns that every index has.

    with_gaps: also the columns without a value.
    """
    facts = []
    for key, value in row.items():
        if key in INDEX_NAMES or (value is None and not with_gaps):
            continue
        facts.append(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(facts)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.explain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "clip", help="the clip's id, its path below clips.root, or a part of either"
    )
    text = parser.parse_args().clip
    try:
        print("\n".join(account(find_clip(text))))
    except UserError as error:
        sys.exit(f"explain: error: {error}")


if __name__ == "__main__":
    main()
