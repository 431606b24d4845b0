"""Pictures of rendered scenes: what a source looks like at a moment.

A `Look` (`looks`) is what clips of one source share.  A `Take` (`takes`) is one clip's motion, from
whose `events_s` the sound is made, too (`sounds`).
"""

import colorsys
import hashlib
from dataclasses import replace

import cv2
import numpy as np

from audio_from_video.world.actions import ACTIONS
from audio_from_video.world.looks import Look
from audio_from_video.world.props import CLASSES, DRAW, UNITS, Canvas
from audio_from_video.world.takes import Take

CLUTTER_SCALE = 0.55  # size of the unused thing, relative to one in use
SHAKE_RATES = np.array([5.1, 7.7, 11.3, 17.9])  # radians per second
# Lines on the walls of places, from point to point: [lines, 2, 2].
PATTERNS = {
    "kitchen": np.array(
        [line for i in range(-8, 112, 16) for line in (((i, -10), (i, 60)), ((-10, i), (106, i)))]
    ),
    "shed": np.array([((i, -10), (i, 106)) for i in range(-8, 112, 10)]),
    "street": np.array([((-10, i), (106, i)) for i in range(-8, 112, 9)]),
}
OCCLUDER_COLOUR = (72, 78, 66)
CENTRE = np.full(2, UNITS / 2)
# Of what stands about unused: all events lie after the clip's end.
STILL = Take(
    events_s=np.array([5.0, 6.0]),
    ends_s=np.array([5.5, 6.5]),
    places=np.zeros((2, 2)),
    distractor=np.zeros(5),
    shake_phase=np.zeros((4, 2)),
)


def rng_of(*names: object) -> np.random.Generator:
    """Return a generator that depends on the names alone, never on order of work or process."""
    digest = hashlib.blake2b("/".join(map(str, names)).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _view(look: Look, take: Take, t: float, size_px: int) -> np.ndarray:
    """Return the affine map [2, 3] from scene units to pixels: the camera's place and its shake."""
    sway = np.sin(SHAKE_RATES[:, None] * t + take.shake_phase).sum(0)
    shake = look.shake * sway * 0.7
    view = np.empty((2, 3))
    view[:, :2] = look.turn
    view[:, 2] = CENTRE - look.turn @ CENTRE + look.offset + shake
    return view * (size_px / UNITS)


def _draw_background(canvas: Canvas, look: Look) -> None:
    """Draw a calm wall whose pattern tells the place, and a floor."""
    if look.place in PATTERNS:
        canvas.lines(PATTERNS[look.place], tuple(0.84 * value for value in look.wall))
    canvas.rectangle(-20, 84, 136, 40, look.floor)


def _draw_clutter(canvas: Canvas, look: Look) -> None:
    """Draw the unused thing, where there is one: smaller, and motionless."""
    if look.clutter is None:
        return
    action, variant, left = look.clutter
    unused = replace(look, action=action, variant=variant, size=1.0)

    view = canvas.view
    move = view[:, :2] @ (left, 2.0) + view[:, 2]
    canvas.view = np.column_stack([view[:, :2] * CLUTTER_SCALE, move])
    canvas.scale *= CLUTTER_SCALE
    DRAW[ACTIONS[action].staging](canvas, unused, STILL, 0.0)
    canvas.view = view
    canvas.scale /= CLUTTER_SCALE


def _draw_distractor(canvas: Canvas, take: Take, t: float) -> None:
    """Draw a disc that drifts along the wall and has nothing to do with the sound."""
    hue, size, start, course, height = take.distractor
    x = (110 * (start + (0.15 + 0.25 * course) * t)) % 116 - 10
    y = 8 + 22 * height + 3 * np.sin(5 * t + 6 * hue)
    colour = tuple(255 * value for value in colorsys.hsv_to_rgb(hue, 0.7, 0.8))
    canvas.disc(x, y, 4 + 4 * size, colour, "distractor")


def render(
    look: Look, take: Take, t: float, size_px: int, grain: np.ndarray, with_classes: bool = False
) -> Canvas:
    """Return the picture at `t` seconds as `image`, and with_classes what its pixels show.

    grain: float32 [size_px, size_px, 3] of deviation 1, the sensor's noise.
    """
    wall = np.clip(np.asarray(look.wall) * look.light, 0, 255).astype(np.uint8)
    # Row by row, as filling pixel by pixel takes longer than all that is drawn.
    image = np.empty((size_px, size_px, 3), np.uint8)
    image.reshape(size_px, -1)[:] = np.tile(wall, size_px)
    canvas = Canvas(image, _view(look, take, t, size_px), look.light, with_classes)
    _draw_background(canvas, look)
    _draw_clutter(canvas, look)
    _draw_distractor(canvas, take, t)
    DRAW[ACTIONS[look.action].staging](canvas, look, take, t)
    if look.occluder is not None:
        left, width = look.occluder
        canvas.rectangle(left, -20, width, 140, OCCLUDER_COLOUR, "occluder")

    if look.blur > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), look.blur * size_px / UNITS)
    noisy = look.noise * grain
    noisy += image
    np.clip(noisy, 0, 255, out=noisy)
    canvas.image = noisy.astype(np.uint8)
    return canvas


def noise_bank(seed: int, size_px: int, count: int = 16) -> np.ndarray:
    """Return sensor noise of deviation 1 for frames in turn: [count, size_px, size_px, 3]."""
    return rng_of("noise", seed).standard_normal((count, size_px, size_px, 3), dtype=np.float32)


def patch_classes(classes: np.ndarray, patch_px: int) -> np.ndarray:
    """Return the share of each class in every patch of a class map [H, W].

    The result is float32 [H/p * W/p, len(CLASSES)], with p = patch_px.
    """
    rows, columns = (n // patch_px for n in classes.shape)
    patches = classes.reshape(rows, patch_px, columns, patch_px).transpose(0, 2, 1, 3)
    tiles = patches.reshape(rows * columns, -1)
    shares = [(tiles == number).mean(1) for number in range(len(CLASSES))]
    return np.stack(shares, 1).astype(np.float32)
