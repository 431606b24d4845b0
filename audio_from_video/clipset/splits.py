"""Splits: which clips are learned from, chosen by and tested on, and which lack their audio."""

import re
import sys
import unicodedata
from collections import Counter, defaultdict

import pyarrow as pa

from audio_from_video.clipset import discovery, roots
from audio_from_video.clipset.settings import SplitParams
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import printable

MISSING_DRAWS = 10  # as many seeds get draws of their own
# A clip that could stand in two splits stays in the first of these.
PRECEDENCE = ("test", "validation", "training", "unlabelled")
MISSING_SCHEMA = pa.schema(
    [("draw", pa.int32()), ("clip_id", pa.string()), ("order", pa.float64())]
)


def assign_splits(clips: list[dict], p: SplitParams, kept: dict[str, str] | None = None) -> None:
    """Add clip_id, source_id and split to every clip, in place, and refuse what would leak.

    Test is the validation folder, or what `clips.test_list` names.  Validation is a part of each
    action's sources of the training folder.  A list of clips may name test and validation clips;
    where it names none, they are a part of the sources, too.  No source and no content stands on
    two sides.

    kept: splits of sources that are not drawn anew; sources that it does not name are then drawn
    for nothing.
    """
    pattern = re.compile(p.source_pattern)
    for clip in clips:
        match = pattern.match(clip["stem"])
        clip["source_id"] = clip["source_id"] or (match.group(1) if match else clip["stem"])
        clip["clip_id"] = f"{clip['action'] or 'unlabelled'}/{clip['name']}"
    if p.clip_list:
        _apply_listed_splits(clips, p, kept)
    else:
        for clip in clips:
            clip["split"] = discovery.SPLIT_OF_FOLDER[clip["folder"]]
    if p.test_list:
        _apply_test_list(clips, p)
    if not any(clip["split"] == "validation" for clip in clips):
        training = [clip for clip in clips if clip["split"] == "training"]
        _move_sources(training, clips, "validation", p, kept)
    _refuse_leaks(clips)
    _refuse_untrained_actions(clips)


def _apply_listed_splits(clips: list[dict], p: SplitParams, kept: dict[str, str] | None) -> None:
    """Set the split that a clip's row names; without one, clips are training or unlabelled.

    Where no row names test clips, they are drawn of those without a split.
    """
    undecided = []
    for clip in clips:
        clip["split"] = clip["folder"]
        if not clip["action"]:
            clip["split"] = "unlabelled"
        elif not clip["split"]:
            clip["split"] = "training"
            undecided.append(clip)
    if not any(clip["split"] == "test" for clip in clips):
        _move_sources(undecided, clips, "test", p, kept)


def _apply_test_list(clips: list[dict], p: SplitParams) -> None:
    """Make what the list names the test split, and refuse other clips of the validation folder."""
    listed = discovery.read_list(roots.place(p.root, p.test_list))
    names = {unicodedata.normalize("NFC", name) for name in listed}
    unmatched = set(names)
    for clip in clips:
        if clip["folder"] == "unlabelled":
            continue
        _, name = unicodedata.normalize("NFC", clip["path"]).split("/", 1)
        unmatched.discard(name)
        if name in names:
            clip["split"] = "test"
        elif clip["split"] == "test":
            reason = f"in the validation folder, but not named by {p.test_list}"
            mark_refused(clip, "not_in_test_list", reason)
    if unmatched:
        print(
            f"clips: {len(unmatched)} of the {len(names)} names in {p.test_list} match no clip, "
            f"such as {printable(min(unmatched))}",
            file=sys.stderr,
        )


def _move_sources(
    candidates: list[dict],
    clips: list[dict],
    split: str,
    p: SplitParams,
    kept: dict[str, str] | None,
) -> None:
    """Move `validation_fraction` of each action's sources to a split, in the order of their hash.

    candidates: the clips that may be moved, in place.  Every action keeps a source.  Where splits
    are `kept`, the sources are those that had this split.
    """
    if kept is not None:
        for clip in candidates:
            if kept.get(clip["source_id"]) == split:
                clip["split"] = split
        return
    tested = {c["source_id"] for c in clips if c["split"] == "test" and c["status"] == "ok"}
    sources: dict[str, set[str]] = defaultdict(set)
    for clip in candidates:
        if clip["status"] == "ok" and clip["source_id"] not in tested:
            sources[clip["action"]].add(clip["source_id"])
    drawn: set[str] = set()
    for source_ids in sources.values():
        count = max(1, round(p.validation_fraction * len(source_ids)))
        # By hash, so that a data set that grows keeps most of its split.
        for source_id in sorted(source_ids, key=lambda source_id: digest(p.seed, source_id)):
            if len(drawn & source_ids) >= count:
                break
            # A source with several actions is drawn for all of them.
            own = [others for others in sources.values() if source_id in others]
            if all(others - drawn - {source_id} for others in own):
                drawn.add(source_id)
    for clip in candidates:
        if clip["source_id"] in drawn:
            clip["split"] = split


def _refuse_leaks(clips: list[dict]) -> None:
    """Refuse clips whose id, content or source also stands elsewhere.

    Of equal contents the first clip stays, in the order of PRECEDENCE.  Sources may not stand in
    test and elsewhere, nor in validation and training or unlabelled clips.
    """
    occurrences = Counter(clip["clip_id"] for clip in clips)
    seen_contents: set[tuple] = set()
    seen_sources: set[str] = set()
    for split in PRECEDENCE:
        # A clip that is refused already takes no other's place.
        members = [clip for clip in clips if clip["split"] == split and clip["status"] == "ok"]
        for clip in members:
            content = (clip["content_hash"], clip["start_s"], clip["end_s"])
            if occurrences[clip["clip_id"]] > 1:
                mark_refused(clip, "duplicate_id", "another file has the same action and stem")
            elif content in seen_contents:
                reason = "the same bytes stand in another split or earlier in this one"
                mark_refused(clip, "duplicate_content", reason)
            elif clip["source_id"] in seen_sources:
                reason = f"source {clip['source_id']} also stands in test or validation"
                mark_refused(clip, "source_in_other_split", reason)
            elif clip["content_hash"]:  # files that cannot be read have none
                seen_contents.add(content)
        if split in ("test", "validation"):
            seen_sources |= {clip["source_id"] for clip in members if clip["status"] == "ok"}


def _refuse_untrained_actions(clips: list[dict]) -> None:
    """Refuse clips of actions that no training clip shows: no classifier could name them."""
    trained = {
        clip["action"] for clip in clips if clip["split"] == "training" and clip["status"] == "ok"
    }
    reason = "no training clip of this action is left, so no classifier could name it"
    for clip in clips:
        if clip["action"] and clip["action"] not in trained:
            mark_refused(clip, "action_not_trained", reason)


def mark_refused(clip: dict, status: str, reason: str) -> None:
    """Set a clip's status and reason, unless it is refused already."""
    if clip["status"] == "ok":
        clip["status"] = status
        clip["reason"] = reason


def missing_audio_table(clips: list[dict], seed: int) -> pa.Table:
    """Return which test clips lack their audio at a missing rate: those whose `order` is below it.

    Columns draw (int32; each training seed uses one), clip_id (string) and order (float64, uniform
    in 0..1).  They are drawn by hash: the draw of a clip does not depend on the others, and higher
    rates miss what lower ones miss.
    """
    test_ids = [c["clip_id"] for c in clips if c["split"] == "test" and c["status"] == "ok"]
    rows = []
    for draw in range(MISSING_DRAWS):
        for clip_id in test_ids:
            leading_bits = int(digest("missing", seed, draw, clip_id)[:8], 16)
            rows.append({"draw": draw, "clip_id": clip_id, "order": leading_bits / 2**32})
    return pa.Table.from_pylist(rows, schema=MISSING_SCHEMA)
