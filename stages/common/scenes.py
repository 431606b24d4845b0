"""Scenes of the embedded sample data set: what a source looks like, how a take of it moves, and the picture at a moment.

A `Look` is what clips of one source share (place, palette, light, camera, the objects); a `Take` is one clip's motion,
from whose `events_s` the sound is made, too (`sounds`). Everything follows from the generators that are passed in.
"""

import colorsys
import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from stages.common.actions import ACTIONS
from stages.common.props import CLASSES, DRAW, UNITS, Canvas

CLIP_S = 3.0
PLACES = ("room", "kitchen", "shed", "street")
HUE_BINS = 24  # backgrounds of the data set take odd bins of the colour circle, those of pretraining even ones
NOUNS = {  # what captions call the main object: materials, colours and things, no word of an action or a sound
    "wood": "a brown wooden board", "bamboo": "a yellow bamboo board", "stone": "a grey stone block",
    "copper": "a brown copper plate", "brass": "a yellow brass plate", "steel": "a grey steel plate",
    "handsaw": "a grey toothed blade", "hacksaw": "a red metal frame", "file": "a grey flat bar", "block": "a red paper brick",
    "water": "a pot of blue water", "soup": "a pot of orange soup", "milk": "a pot of white milk",
    "fish": "a pan of blue fish", "carrot": "a pan of orange vegetables", "egg": "a pan of white egg",
}  # fmt: skip
STAGED = {
    "strike": "a mallet above {noun}", "rub": "{noun} on a wooden beam", "pan": "{noun}",
    "drum": "wooden sticks above a {variant} drum", "ball": "a {variant} ball above the floor",
    "pour": "a {variant} jug above a bowl", "spray": "a {variant} with drops of liquid",
    "flag": "a {variant} flag on a pole", "wheel": "a {variant} wheel",
}  # fmt: skip


def rng_of(*names: object) -> np.random.Generator:
    """A generator that depends on the names alone, never on the order of work or the process."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


@dataclass(frozen=True)
class Look:
    """What the clips of one source share."""

    action: str
    variant: str
    seed: int  # positions of specks and pieces
    size: float  # of the main object, about 1
    lean: float  # -1..1, sideways
    tool_colour: tuple[float, float, float]
    place: str
    wall: tuple[float, float, float]
    floor: tuple[float, float, float]
    light: np.ndarray  # [3], factor per colour channel
    offset: np.ndarray  # [2], scene units
    turn_deg: float
    zoom: float
    shake: float  # standard deviation of the camera's position, scene units
    noise: float  # standard deviation, grey levels
    blur: float  # defocus, standard deviation in scene units
    occluder: tuple[float, float] | None  # left edge and width of what stands before the scene, scene units
    tempo: float  # 0..1 within the action's range
    detune: float  # about 1, what of the pitch the size does not tell

    @property
    def pitch(self) -> float:
        """Factor on the frequencies of the sound: what is large sounds low."""
        return self.detune / self.size


def draw_look(rng: np.random.Generator, action: str, odd_hues: bool = True) -> Look:
    hue = (2 * rng.integers(HUE_BINS // 2) + odd_hues + rng.uniform(0.1, 0.9)) / HUE_BINS
    wall = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.05, 0.25), rng.uniform(0.55, 0.85))) * 255
    return Look(
        action=action,
        variant=str(rng.choice(ACTIONS[action].variants)),
        seed=int(rng.integers(1 << 30)),
        size=rng.uniform(0.75, 1.2),
        lean=rng.uniform(-1, 1),
        tool_colour=tuple(rng.uniform(40, 120, 3)),
        place=str(rng.choice(PLACES)),
        wall=tuple(wall),
        floor=tuple(wall * rng.uniform(0.6, 0.8)),
        light=rng.uniform(0.65, 1.15) * rng.normal(1, 0.07, 3),
        offset=rng.uniform(-5, 5, 2),
        turn_deg=rng.uniform(-6, 6),
        zoom=rng.uniform(0.9, 1.08),
        shake=rng.uniform(0.1, 0.9),
        noise=rng.uniform(3, 12),
        blur=rng.uniform(0, 1.4),
        occluder=(rng.uniform(-10, 70), rng.uniform(8, 56)) if rng.random() < 0.4 else None,
        tempo=rng.random(),
        detune=rng.normal(1, 0.03),
    )


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
        e = np.concatenate([[2 * self.events_s[0] - self.events_s[1]], self.events_s, [2 * self.events_s[-1] - self.events_s[-2]]])
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


def draw_take(rng: np.random.Generator, look: Look) -> Take:
    """Events between 0.15 s and the clip's end: jittered steps of the action's tempo; streams also have an end."""
    low, high = ACTIONS[look.action].tempo_hz
    step_s = 1 / (low + (high - low) * np.clip(look.tempo + rng.normal(0, 0.1), 0, 1))
    count = int(CLIP_S / step_s) + 3
    events = rng.uniform(0.15, 0.15 + min(step_s, 0.6)) + np.cumsum(step_s * np.r_[0, rng.uniform(0.85, 1.15, count)])
    streaming = ACTIONS[look.action].staging in ("pour", "spray")
    ends = events + np.diff(np.r_[events, events[-1] + step_s]) * (rng.uniform(0.45, 0.7, count + 1) if streaming else 1)
    kept = events < (CLIP_S - 0.4 if streaming else CLIP_S - 0.08)
    if ACTIONS[look.action].staging in ("strike", "drum") and rng.random() < 0.5:  # a rest
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


def _view(look: Look, take: Take, t: float, size_px: int) -> np.ndarray:
    """Affine map [2, 3] from scene units to pixels: habit of the camera plus its shake at `t`."""
    rates = np.array([5.1, 7.7, 11.3, 17.9])[:, None]
    shake = look.shake * np.sin(rates * t + take.shake_phase).sum(0) * 0.7
    angle = np.deg2rad(look.turn_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * look.zoom
    centre = np.full(2, UNITS / 2)
    return np.column_stack([turn, centre - turn @ centre + look.offset + shake]) * (size_px / UNITS)


def _background(canvas: Canvas, look: Look) -> None:
    """A calm wall whose pattern tells the place, and a floor."""
    line = tuple(0.9 * v for v in look.wall)
    if look.place == "kitchen":
        for i in range(-8, 112, 16):
            canvas.line([(i, -10), (i, 60)], line)
            canvas.line([(-10, i), (106, i)], line)
    elif look.place == "shed":
        for i in range(-8, 112, 10):
            canvas.line([(i, -10), (i, 106)], line)
    elif look.place == "street":
        for i in range(-8, 112, 9):
            canvas.line([(-10, i), (106, i)], line)
    canvas.rectangle(-20, 84, 136, 40, look.floor)


def render(look: Look, take: Take, t: float, size_px: int, grain: np.ndarray, with_classes: bool = False) -> Canvas:
    """The picture at `t` seconds. `grain` [size_px, size_px, 3], float32 of deviation 1, is the sensor's noise."""
    image = np.empty((size_px, size_px, 3), np.uint8)
    image[:] = np.clip(np.asarray(look.wall) * look.light, 0, 255).astype(np.uint8)
    canvas = Canvas(image, _view(look, take, t, size_px), look.light, with_classes)
    _background(canvas, look)
    hue, size, start, course, height = take.distractor
    x = (110 * (start + (0.15 + 0.25 * course) * t)) % 116 - 10
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.8)) * 255
    canvas.disc(x, 8 + 22 * height + 3 * np.sin(5 * t + 6 * hue), 4 + 4 * size, colour, "distractor")
    DRAW[ACTIONS[look.action].staging](canvas, look, take, t)
    if look.occluder is not None:
        left, width = look.occluder
        canvas.rectangle(left, -20, width, 140, (72, 78, 66), "occluder")
    if look.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), look.blur * size_px / UNITS)
    canvas.image = np.clip(image + look.noise * grain, 0, 255).astype(np.uint8)
    return canvas


def noise_bank(seed: int, size_px: int, count: int = 16) -> np.ndarray:
    """Sensor noise [count, size_px, size_px, 3], float32 of deviation 1, from which frames take turns."""
    return rng_of("noise", seed).standard_normal((count, size_px, size_px, 3), dtype=np.float32)


def caption(look: Look) -> str:
    """One line on the objects, their materials, colours and the place."""
    noun = NOUNS.get(look.variant, "")
    what = STAGED[ACTIONS[look.action].staging].format(noun=noun, variant=look.variant)
    article = "a" if look.place[0] not in "aeiou" else "an"
    return f"{what.replace('a orange', 'an orange')} in {article} {look.place}"


def patch_classes(classes: np.ndarray, patch_px: int) -> np.ndarray:
    """Class map [H, W] -> share of each class in every patch, [H/p * W/p, len(CLASSES)], float32."""
    rows, columns = (n // patch_px for n in classes.shape)
    tiles = classes.reshape(rows, patch_px, columns, patch_px).transpose(0, 2, 1, 3).reshape(rows * columns, -1)
    return np.stack([(tiles == c).mean(1) for c in range(len(CLASSES))], 1).astype(np.float32)
