"""Which clips are learned from, chosen by and tested on, and which test clips lack their audio."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow as pa
from pydantic import Field, field_validator

from audio_from_video.clipset import discovery
from audio_from_video.runtime import params
from audio_from_video.runtime.digests import digest

MISSING_DRAWS = 10  # as many seeds get draws of their own


class SplitParams(params.Section):
    root: str
    seed: int
    validation_fraction: float = Field(gt=0, lt=1)
    source_pattern: str
    test_list: str

    @field_validator("source_pattern")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            if re.compile(value).groups != 1:
                raise ValueError("must have exactly one group, which is the source id")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        return value


def split(clips: list[dict], p: SplitParams) -> None:
    """Add clip_id, source_id and split; no source and no content may stand on two sides.

    Test is the validation folder, or what `clips.test_list` names.  Validation: per action, the sources of the training
    folder in an order drawn by hash, up to `clips.validation_fraction` of them; with one source only, none.
    """
    pattern = re.compile(p.source_pattern)
    test_names = set(discovery.read_list(Path(p.root) / p.test_list)) if p.test_list else None
    sources: dict[str, set[str]] = defaultdict(set)
    for clip in clips:
        match = pattern.match(clip["stem"])
        clip["source_id"] = match.group(1) if match else clip["stem"]
        clip["clip_id"] = f"{clip['action'] or 'unlabelled'}/{clip['stem']}"
        clip["split"] = discovery.FOLDERS[clip["folder"]]
        if test_names is not None and clip["folder"] != "unlabelled":
            if clip["path"].split("/", 1)[1] in test_names:
                clip["split"] = "test"
            elif clip["split"] == "test":
                refuse(
                    clip,
                    "not_in_test_list",
                    f"in the validation folder, but not named by {p.test_list}",
                )
        if clip["split"] == "training" and clip["status"] == "ok":
            sources[clip["action"]].add(clip["source_id"])
    held_out = set()
    for names in sources.values():
        drawn = sorted(names, key=lambda name: digest(p.seed, name))
        held_out.update(
            drawn[: max(1, round(p.validation_fraction * len(drawn))) if len(drawn) > 1 else 0]
        )
    for clip in clips:
        if clip["split"] == "training" and clip["source_id"] in held_out:
            clip["split"] = "validation"
    _separate(clips)
    trained = {
        clip["action"] for clip in clips if clip["split"] == "training" and clip["status"] == "ok"
    }
    for clip in clips:
        if clip["action"] and clip["action"] not in trained:
            refuse(
                clip,
                "action_not_trained",
                "no training clip of this action is left, so no classifier could name it",
            )


def _separate(clips: list[dict]) -> None:
    """Refuse clips whose source or content also stands in test or, for training and unlabelled ones, in validation."""
    duplicate_ids = {
        clip_id for clip_id, n in Counter(clip["clip_id"] for clip in clips).items() if n > 1
    }
    seen: dict[str, set] = {"source_id": set(), "content_hash": set()}
    for side in ("test", "validation", "training", "unlabelled"):
        members = [clip for clip in clips if clip["split"] == side]
        for clip in members:
            if clip["clip_id"] in duplicate_ids:
                refuse(clip, "duplicate_id", "another file has the same action and stem")
            elif clip["content_hash"] in seen["content_hash"]:
                refuse(
                    clip,
                    "duplicate_content",
                    "the same bytes stand in another split or earlier in this one",
                )
            elif clip["source_id"] in seen["source_id"]:
                refuse(
                    clip,
                    "source_in_other_split",
                    f"source {clip['source_id']} also stands in test or validation",
                )
            elif clip["content_hash"]:
                seen["content_hash"].add(clip["content_hash"])
        if side in ("test", "validation"):
            seen["source_id"] |= {clip["source_id"] for clip in members if clip["status"] == "ok"}


def refuse(clip: dict, status: str, reason: str) -> None:
    if clip["status"] == "ok":
        clip |= {"status": status, "reason": reason}


def draw_missing(clips: list[dict], seed: int) -> pa.Table:
    """Which test clips lack their audio at a missing rate r: those whose `order`, uniform in 0..1, is below r.

    Columns draw (int32; each seed of a row uses one), clip_id (string), order (float64); drawn by hash, so that the draw of a
    clip does not depend on the others, and higher rates miss what lower ones miss.
    """
    rows = [
        {
            "draw": draw,
            "clip_id": clip["clip_id"],
            "order": int(digest("missing", seed, draw, clip["clip_id"])[:8], 16) / 2**32,
        }
        for draw in range(MISSING_DRAWS)
        for clip in clips
        if clip["split"] == "test" and clip["status"] == "ok"
    ]
    return pa.Table.from_pylist(
        rows,
        schema=pa.schema([("draw", pa.int32()), ("clip_id", pa.string()), ("order", pa.float64())]),
    )
