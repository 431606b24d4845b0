"""Do the frames that a threshold on motion chooses show events?  And what does it look like?"""

from math import comb

import numpy as np

from audio_from_video.clipset import truth

NEAR = 1  # steps between a chosen frame and the one that shows an event
STRIPS = 5  # clips in the figure


def event_steps(times_s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """By clip, in the order of `times_s` ([T] per clip): the steps whose frames show its true
    events.

    Events after the clip's end are left out; clips of which nothing is known, or without events,
    have none.
    """
    events_s = truth.event_times_s()
    no_events = np.array([])
    return {
        clip_id: shown_at(events_s.get(clip_id, no_events), grid)
        for clip_id, grid in times_s.items()
    }


def shown_at(events_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """The step of the frame on screen at each event: the last one not after it; each is on screen for times_s[1]."""
    inside = events_s[(events_s >= 0) & (events_s < times_s[-1] + times_s[1])]
    return np.searchsorted(times_s, inside, side="right") - 1


def hits(chosen: np.ndarray, events: list[np.ndarray], tolerance: int = NEAR) -> dict[str, float]:
    """Recall of events and precision of chosen frames, within `tolerance` steps, of clips that have
    events; {} without any.

    chosen: bool [N, T]; events: steps [n] per clip.  The `_random` ones are expected of as many
    frames of the same clip drawn without replacement: of T frames q are near an event, so k frames
    miss it with probability C(T-q, k) / C(T, k).
    """
    steps, found = chosen.shape[1], np.zeros(6)
    for mask, shown in zip(chosen, events, strict=True):
        near = np.abs(shown[:, None] - np.arange(steps)) <= tolerance  # [n, T]
        k, by_event, by_frame = int(mask.sum()), near.sum(1), near.any(0)
        if not len(shown):
            continue
        missed = sum(comb(steps - int(q), k) for q in by_event) / comb(steps, k)
        found += [
            len(shown),
            (near & mask).any(1).sum(),
            len(shown) - missed,
            k,
            (by_frame & mask).sum(),
            k * by_frame.mean(),
        ]
    if not found[0]:
        return {}
    names = ("event_recall", "event_recall_random", "chosen_near_event", "chosen_near_event_random")
    return dict(zip(names, (found[[1, 2, 4, 5]] / found[[0, 0, 3, 3]]).tolist(), strict=True))
