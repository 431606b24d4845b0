"""Every clip is accounted for: counts of statuses, and when too many clips failed."""

from collections import Counter
from collections.abc import Iterable

from audio_from_video.runtime.errors import UserError


def status_counts(index: Iterable[dict]) -> dict:
    """Return {in, ok, refused: {status: clips}} of index rows; in = ok + refused, always."""
    counts = Counter(row["status"] for row in index)
    refused = {status: clips for status, clips in sorted(counts.items()) if status != "ok"}
    return {"in": sum(counts.values()), "ok": counts["ok"], "refused": refused}


def check_failed_fraction(
    index: list[dict], statuses: set[str], allowed: float, stage: str
) -> None:
    """Raise UserError where more than the `allowed` fraction of clips failed.

    statuses: those that count as failures, because they may be the machine's or the data set's
    fault; a silent clip, say, is none.
    """
    failed = [row for row in index if row["status"] in statuses]
    if len(failed) <= allowed * len(index):
        return
    first = failed[0]
    raise UserError(
        f"{len(failed)} of {len(index)} clips failed in {stage}, more than "
        f"clips.max_failed_fraction = {allowed:g} allows; "
        f"the first: {first['clip_id']}: {first['status']}: {first['reason']}"
    )
