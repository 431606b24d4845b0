"""The motion of a rendered clip: its events in time, and where things are between them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from audio_from_video.world.actions import ACTIONS

CLIP_S = 3.0
GROWTH_S = 0.25  # a bubble grows for as long before it bursts
EDGE_S = 0.06  # of a stream that starts or ends


@dataclass(frozen=True)
class Take:
    """The motion of one clip; n events."""

    events_s: np.ndarray  # [n], when it sounds
    ends_s: np.ndarray  # [n], when a stream ends (streams only; else the next event)
    places: np.ndarray  # [n, 2], where a bubble bursts, -1..1
    distractor: np.ndarray  # [5], 0..1: its hue, size, start, course and height
    shake_phase: np.ndarray  # [4, 2], radians

    @cached_property
    def _extended_s(self) -> np.ndarray:
        """The events with one more on either side, at the distance of the next two: [n + 2]."""
        first, second = self.events_s[:2]
        before_last, last = self.events_s[-2:]
        return np.concatenate([[2 * first - second], self.events_s, [2 * last - before_last]])

    def turns(self, t: float) -> float:
        """Return the number of events passed until `t`, growing linearly between two events."""
        events = self._extended_s
        i = min(max(int(events.searchsorted(t, "right")) - 1, 0), len(events) - 2)
        return i + (t - events[i]) / (events[i + 1] - events[i])

    def swing(self, t: float) -> float:
        """Return the place of what goes to and fro, -1..1; it turns at every event."""
        return float(np.cos(np.pi * self.turns(t)))

    def lift(self, t: float, hand: int | None = None) -> float:
        """Return the height above what is struck, 0..1: 0 at every event, high between two.

        hand: 0 or 1 for the hand that strikes at every second event; None where all events are its.
        """
        events = self.events_s if hand is None else self.events_s[hand::2]
        passed = int(events.searchsorted(t, "right"))
        since_s = t - events[passed - 1] if passed else np.inf
        until_s = events[passed] - t if passed < len(events) else np.inf
        gap_s = since_s + until_s
        if not np.isfinite(gap_s):
            return float(min(max(min(since_s, until_s) / 0.3, 0), 1))
        progress = since_s / gap_s
        return float(4 * progress * (1 - progress) * min(1.0, gap_s / 0.45))

    def level(self, t: float) -> float:
        """Return the strength of a stream, 0..1: on from an event to its end, with soft edges."""
        rise = (t - self.events_s) / EDGE_S
        fall = (self.ends_s - t) / EDGE_S
        return float(min(max(np.minimum(rise, fall).max(), 0), 1))

    def bubbles(self, t: float) -> list[tuple[np.ndarray, float]]:
        """Return the bubbles in sight: places [2], -1..1, and sizes, 0..1."""
        ahead_s = self.events_s - t
        near = (ahead_s > 0) & (ahead_s < GROWTH_S)
        sizes = [1 - remaining_s / GROWTH_S for remaining_s in ahead_s[near]]
        return list(zip(self.places[near], sizes, strict=True))


def draw_take(rng: np.random.Generator, action: str, tempo: float) -> Take:
    """Draw the motion of an action at a tempo, 0..1 within the action's range.

    Events lie between 0.15 s and the clip's end, in jittered steps.  A stream lasts part of its
    step.  Struck things may rest.
    """
    low_hz, high_hz = ACTIONS[action].tempo_hz
    staging = ACTIONS[action].staging
    streaming = staging in ("pour", "spray")

    relative_tempo = np.clip(tempo + rng.normal(0, 0.1), 0, 1)
    step_s = 1 / (low_hz + (high_hz - low_hz) * relative_tempo)
    count = int(CLIP_S / step_s) + 3
    start_s = rng.uniform(0.15, 0.15 + min(step_s, 0.6))
    steps = np.r_[0, rng.uniform(0.85, 1.15, count)]
    events_s = start_s + np.cumsum(step_s * steps)

    following_s = np.diff(np.r_[events_s, events_s[-1] + step_s])
    duty = rng.uniform(0.45, 0.7, count + 1) if streaming else 1
    ends_s = events_s + following_s * duty

    kept = events_s < (CLIP_S - 0.4 if streaming else CLIP_S - 0.08)
    if staging in ("strike", "drum") and rng.random() < 0.5:
        rest_s = rng.uniform(0.4, 2.2)
        kept &= (events_s < rest_s) | (events_s > rest_s + 1)
    kept[:2] = True
    return Take(
        events_s=events_s[kept],
        ends_s=np.minimum(ends_s[kept], CLIP_S + 1),
        places=rng.uniform(-0.8, 0.8, (int(kept.sum()), 2)),
        distractor=rng.uniform(0, 1, 5),
        shake_phase=rng.uniform(0, 2 * np.pi, (4, 2)),
    )
