"""Scenes of the embedded sample data set: what a source looks like, and the picture at a moment.

A `Look` is what clips of one source share (place, palette, light, camera, the objects); a `Take` (`takes`) is one clip's
motion, from whose `events_s` the sound is made, too (`sounds`). Everything follows from the generators that are passed in.
"""

import colorsys
import hashlib
from dataclasses import dataclass, replace

import cv2
import numpy as np

from audio_from_video.world.actions import ACTIONS, HELD_OUT, LOOK_ALIKE
from audio_from_video.world.props import CLASSES, DRAW, UNITS, Canvas
from audio_from_video.world.takes import Take

PLACES = ("room", "kitchen", "shed", "street")
HUE_BINS = 24  # backgrounds of the data set take odd bins of the colour circle, those of pretraining even ones


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
    occluder: (
        tuple[float, float] | None
    )  # left edge and width of what stands before the scene, scene units
    clutter: (
        tuple[str, str, float] | None
    )  # a thing that stands about unused: its action, variant and left edge
    tempo: float  # 0..1 within the action's range
    detune: float  # about 1, what of the pitch the size does not tell

    @property
    def pitch(self) -> float:
        """Factor on the frequencies of the sound: what is large sounds low."""
        return self.detune / self.size


def draw_look(rng: np.random.Generator, action: str, odd_hues: bool = True) -> Look:
    hue = (2 * rng.integers(HUE_BINS // 2) + odd_hues + rng.uniform(0.1, 0.9)) / HUE_BINS
    wall = (
        np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.05, 0.25), rng.uniform(0.55, 0.85))) * 255
    )
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
        occluder=(rng.uniform(-10, 70), rng.uniform(8, 56)) if rng.random() < 0.5 else None,
        clutter=_draw_clutter(rng, action, odd_hues),
        tempo=rng.random(),
        detune=rng.normal(1, 0.03),
    )


def _draw_clutter(
    rng: np.random.Generator, action: str, any_action: bool
) -> tuple[str, str, float] | None:
    """In two of three sources a thing of an action outside the look-alike pairs stands in a corner."""
    paired = {a for pair in LOOK_ALIKE for a in pair}
    others = [
        a for a in ACTIONS if a not in paired and a != action and (any_action or a not in HELD_OUT)
    ]
    other = str(rng.choice(others))
    drawn = other, str(rng.choice(ACTIONS[other].variants)), rng.uniform(-6, 52)
    return drawn if rng.random() < 0.67 else None


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
    line = tuple(0.84 * v for v in look.wall)
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


def _clutter(canvas: Canvas, look: Look, take: Take) -> None:
    """Draw the unused thing, where there is one, at half its size, motionless."""
    if look.clutter is None:
        return
    action, variant, left = look.clutter
    still = replace(take, events_s=np.array([5.0, 6.0]), ends_s=np.array([5.5, 6.5]))
    view = canvas.view
    canvas.view = np.column_stack([view[:, :2] * 0.55, view[:, :2] @ (left, 2.0) + view[:, 2]])
    canvas.scale *= 0.55
    DRAW[ACTIONS[action].staging](
        canvas, replace(look, action=action, variant=variant, size=1.0), still, 0.0
    )
    canvas.view, canvas.scale = view, canvas.scale / 0.55


def render(
    look: Look, take: Take, t: float, size_px: int, grain: np.ndarray, with_classes: bool = False
) -> Canvas:
    """The picture at `t` seconds. `grain` [size_px, size_px, 3], float32 of deviation 1, is the sensor's noise."""
    image = np.empty((size_px, size_px, 3), np.uint8)
    image[:] = np.clip(np.asarray(look.wall) * look.light, 0, 255).astype(np.uint8)
    canvas = Canvas(image, _view(look, take, t, size_px), look.light, with_classes)
    _background(canvas, look)
    _clutter(canvas, look, take)
    hue, size, start, course, height = take.distractor
    x = (110 * (start + (0.15 + 0.25 * course) * t)) % 116 - 10
    colour = np.array(colorsys.hsv_to_rgb(hue, 0.7, 0.8)) * 255
    canvas.disc(
        x, 8 + 22 * height + 3 * np.sin(5 * t + 6 * hue), 4 + 4 * size, colour, "distractor"
    )
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


def patch_classes(classes: np.ndarray, patch_px: int) -> np.ndarray:
    """Class map [H, W] -> share of each class in every patch, [H/p * W/p, len(CLASSES)], float32."""
    rows, columns = (n // patch_px for n in classes.shape)
    tiles = (
        classes.reshape(rows, patch_px, columns, patch_px)
        .transpose(0, 2, 1, 3)
        .reshape(rows * columns, -1)
    )
    return np.stack([(tiles == c).mean(1) for c in range(len(CLASSES))], 1).astype(np.float32)
