"""Streams of clips that must run side by side: pairs of (clip_id, payload), compared clip by clip.

Outputs are written in one shared order, so that streams of them can be joined without holding any
of them in memory.  That order is checked here: a clip that got another clip's features or sound
would not be noticed later.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any

from audio_from_video.runtime.errors import UserError

ENDED = (None, None)  # what stands for a stream that has no more clips


def aligned(
    names: Sequence[str], streams: Sequence[Iterable[tuple[str, Any]]]
) -> Iterator[tuple[str, tuple]]:
    """Yield (clip_id, payloads) of streams that hold the same clips in the same order.

    names: of the streams, for the error message.  streams: each yields pairs (clip_id, payload).
    `payloads` has an entry per stream.  Raises UserError at the first place where the streams
    differ; it names two of them and the clips that met there.
    """
    for pairs in zip_longest(*streams, fillvalue=ENDED):
        clip_ids = [clip_id for clip_id, _ in pairs]
        if len(set(clip_ids)) > 1:
            raise UserError(_difference(names, clip_ids))
        yield clip_ids[0], tuple(payload for _, payload in pairs)


def _difference(names: Sequence[str], clip_ids: list[str | None]) -> str:
    """Sentence about the first stream whose clip is not that of stream 0."""
    other = next(i for i, clip_id in enumerate(clip_ids) if clip_id != clip_ids[0])
    return (
        f"{names[0]} and {names[other]} do not hold the same clips in the same order: where the "
        f"first has {_clip(clip_ids[0])}, the second has {_clip(clip_ids[other])}; "
        "delete these outputs and run `dvc repro`"
    )


def _clip(clip_id: str | None) -> str:
    return "no more clips" if clip_id is None else f"the clip {clip_id}"
