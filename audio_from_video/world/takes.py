"""The motion of a clip of the embedded sample data set: its events in time, and where things are between them."""

from dataclasses import dataclass

import numpy as np

from audio_from_video.world.actions import ACTIONS

CLIP_S = 3.0


@dataclass(frozen=True)
class Take:
    """The motion of one clip."""

    events_s: np.ndarray  # [n], when it sounds
    ends_s: np.ndarray  # [n], when a stream ends (streams only; else the next event)
    places: np.ndarray  # [n, 2], where a bubble bursts, -1..1
    distractor: np.ndarray  # [5], colour hue, size, course
    shake_phase: np.ndarray  # [4, 2]

    def turns(self, t: float) -> float:
        """Events passed until `t`, growing linearly between two events."""
        e = np.concatenate(
            [
                [2 * self.events_s[0] - self.events_s[1]],
                self.events_s,
                [2 * self.events_s[-1] - self.events_s[-2]],
            ]
        )
        i = int(np.clip(np.searchsorted(e, t, "right") - 1, 0, len(e) - 2))
        return i + (t - e[i]) / (e[i + 1] - e[i])

    def swing(self, t: float) -> float:
        """-1..1, to and fro, turning at every event."""
        return float(np.cos(np.pi * self.turns(t)))

    def lift(self, t: float, hand: int | None = None) -> float:
        """0..1, height above what is struck: 0 at every event (of this hand, 0 or 1), high between two of them."""
        events = self.events_s if hand is None else self.events_s[hand::2]
        before, after = events[events <= t], events[events > t]
        since = t - before[-1] if len(before) else np.inf
        until = after[0] - t if len(after) else np.inf
        gap = since + until
        if not np.isfinite(gap):
            return float(np.clip(min(since, until) / 0.3, 0, 1))
        u = since / gap
        return float(4 * u * (1 - u) * min(1.0, gap / 0.45))

    def level(self, t: float) -> float:
        """0..1, strength of a stream: on from an event to its end, 60 ms edges."""
        rise = np.clip((t - self.events_s) / 0.06, 0, 1)
        fall = np.clip((self.ends_s - t) / 0.06, 0, 1)
        return float(np.max(np.minimum(rise, fall)))

    def bubbles(self, t: float) -> list[tuple[np.ndarray, float]]:
        """Bubbles in sight: position (-1..1, -1..1) and size 0..1; one grows for 0.25 s and bursts at its event."""
        ahead = self.events_s - t
        near = (ahead > 0) & (ahead < 0.25)
        return [(p, 1 - a / 0.25) for p, a in zip(self.places[near], ahead[near], strict=True)]


def draw_take(rng: np.random.Generator, action: str, tempo: float) -> Take:
    """The motion of an action at a tempo, 0..1 within its range.

    Events lie between 0.15 s and the clip's end, in jittered steps; a stream lasts part of its step; struck things may rest.
    """
    low, high = ACTIONS[action].tempo_hz
    step_s = 1 / (low + (high - low) * np.clip(tempo + rng.normal(0, 0.1), 0, 1))
    count = int(CLIP_S / step_s) + 3
    events = rng.uniform(0.15, 0.15 + min(step_s, 0.6)) + np.cumsum(
        step_s * np.r_[0, rng.uniform(0.85, 1.15, count)]
    )
    streaming = ACTIONS[action].staging in ("pour", "spray")
    ends = events + np.diff(np.r_[events, events[-1] + step_s]) * (
        rng.uniform(0.45, 0.7, count + 1) if streaming else 1
    )
    kept = events < (CLIP_S - 0.4 if streaming else CLIP_S - 0.08)
    if ACTIONS[action].staging in ("strike", "drum") and rng.random() < 0.5:  # a rest
        rest = rng.uniform(0.4, 2.2)
        kept &= (events < rest) | (events > rest + 1)
    kept[:2] = True
    return Take(
        events_s=events[kept],
        ends_s=np.minimum(ends[kept], CLIP_S + 1),
        places=rng.uniform(-0.8, 0.8, (int(kept.sum()), 2)),
        distractor=rng.uniform(0, 1, 5),
        shake_phase=rng.uniform(0, 2 * np.pi, (4, 2)),
    )
