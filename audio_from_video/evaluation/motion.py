"""Do the frames that a threshold on motion chooses show events?"""

from math import comb

import numpy as np

from audio_from_video.clipset import truth

NEAR_STEPS = 1  # between a chosen frame and the one that shows an event


def event_steps(times_s: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the steps [n] whose frames show true events, by clip_id in the order of `times_s`.

    times_s: the times [T] of each clip's frames.  Events after the clip's end are left out.  Clips
    without events, or of which nothing is known, have n = 0.
    """
    events_s = truth.event_times_s()
    no_events = np.array([])
    return {
        clip_id: steps_at(events_s.get(clip_id, no_events), grid)
        for clip_id, grid in times_s.items()
    }


def steps_at(events_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return the step of the frame on screen at each event that the clip holds.

    That is the last frame not after the event; each is on screen for times_s[1].
    """
    end_s = times_s[-1] + times_s[1]
    inside = events_s[(events_s >= 0) & (events_s < end_s)]
    return np.searchsorted(times_s, inside, side="right") - 1


def event_agreement(
    chosen: np.ndarray, events: list[np.ndarray], tolerance: int = NEAR_STEPS
) -> dict[str, float]:
    """Return recall of events and precision of chosen frames, over all clips that have events.

    chosen: bool [N, T].  events: steps [n] of each clip.  A frame shows an event that is at most
    `tolerance` steps away.  Without any event the result is {}.

    The `_random` figures are expected of as many frames of the same clip, drawn without
    replacement: of T frames q are near an event, so k frames miss it with probability
    C(T-q, k) / C(T, k).
    """
    steps = chosen.shape[1]
    event_count = 0
    recalled = 0
    recalled_at_random = 0.0
    frame_count = 0
    frames_near = 0
    frames_near_at_random = 0.0
    for mask, clip_events in zip(chosen, events, strict=True):
        if not len(clip_events):
            continue
        near = np.abs(clip_events[:, None] - np.arange(steps)) <= tolerance  # [n, T]
        near_any = near.any(0)
        k = int(mask.sum())
        missing_draws = sum(comb(steps - int(q), k) for q in near.sum(1))
        missed_at_random = missing_draws / comb(steps, k)

        event_count += len(clip_events)
        recalled += int((near & mask).any(1).sum())
        recalled_at_random += len(clip_events) - missed_at_random
        frame_count += k
        frames_near += int((near_any & mask).sum())
        frames_near_at_random += float(k * near_any.mean())
    if not event_count:
        return {}
    return {
        "event_recall": recalled / event_count,
        "event_recall_random": recalled_at_random / event_count,
        "chosen_near_event": frames_near / frame_count,
        "chosen_near_event_random": frames_near_at_random / frame_count,
    }
