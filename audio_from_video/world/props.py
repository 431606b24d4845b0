"""The objects of the rendered scenes: how each staging is drawn at a moment in time.

Every function draws onto a `Canvas` in scene units, whatever the size in pixels: the picture is 96
units wide and high, and y points down.  Beside the picture the canvas keeps a map of what each
pixel shows, from which `pretrain` learns.

A staging is a function of the canvas, the look of the source, the take of the clip and the time t
in seconds.
"""

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from audio_from_video.world.looks import Look
from audio_from_video.world.takes import Take

Colour = tuple[float, ...]  # RGB, 0..255
Points = ArrayLike  # x and y in scene units

UNITS = 96.0
# How far grain or sheen, the shape of a tool, and food stand out from their ground.  This alone
# decides how hard the look-alike pairs are: at 0.18 for all three they hardly are, at 0.10 nothing
# small can tell wood from copper.
CONTRAST = {"slab": 0.155, "tool": 0.125, "food": 0.24}
ANGLES = np.arange(18) * np.pi / 9
CIRCLE = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)  # [18, 2]
RIVETS = np.array([(0.05, 0.14), (0.95, 0.14), (0.05, 0.86), (0.95, 0.86)])
SHIFT = 4  # fractional bits of cv2's coordinates
CLASSES = (
    "background",
    "wood",
    "bamboo",
    "stone",
    "copper",
    "brass",
    "steel",
    "mallet",
    "stick",
    "drum",
    "skin",
    "handsaw",
    "hacksaw",
    "file",
    "block",
    "workpiece",
    "pot",
    "water",
    "soup",
    "milk",
    "fish",
    "carrot",
    "egg",
    "bubble",
    "jug",
    "bowl",
    "stream",
    "flag",
    "pole",
    "ball",
    "sprayer",
    "spray",
    "wheel",
    "distractor",
    "occluder",
)
COLOURS = {  # RGB; neighbours in the look-alike pairs share their colour on purpose
    "wood": (158, 104, 62),
    "copper": (162, 106, 66),
    "bamboo": (180, 160, 84),
    "brass": (184, 162, 80),
    "stone": (136, 140, 142),
    "steel": (134, 141, 148),
    "handsaw": (176, 180, 188),
    "file": (170, 174, 182),
    "hacksaw": (190, 60, 52),
    "block": (184, 66, 56),
    "water": (92, 148, 196),
    "fish": (100, 146, 186),
    "soup": (212, 120, 44),
    "carrot": (206, 116, 50),
    "milk": (232, 226, 206),
    "egg": (228, 222, 204),
}
# RGB of what has one colour.
HANDLE = (92, 70, 50)
DRUM_SKIN = (238, 234, 224)
STICK = (214, 178, 120)
BEAM = (150, 118, 84)
GRIP = (58, 48, 44)
POT = (70, 72, 78)
POT_RIM = (96, 98, 104)
YOLK = (240, 180, 40)
FAT_BUBBLE = (250, 240, 200)
BOWL = (120, 92, 140)
STREAM = (70, 140, 215)
DROP = (210, 228, 244)
POLE = (110, 110, 112)
WHEEL_GROUND = (230, 226, 214)
FIRST_SPOKE = (200, 60, 50)
# RGB by variant.
DRUM_COLOURS = {"red": (186, 48, 56), "blue": (48, 76, 180)}
BALL_COLOURS = {"orange": (222, 120, 40), "green": (70, 170, 70)}
JUG_COLOURS = {"clay": (176, 92, 64), "glass": (150, 200, 196)}
SPRAYER_COLOURS = {"bottle": (60, 160, 90), "hose": (40, 44, 50)}
FLAG_COLOURS = {"red": (196, 50, 60), "yellow": (228, 200, 60)}
WHEEL_COLOURS = {"wooden": (150, 100, 60), "metal": (150, 156, 170)}
# Vertical half axis of a piece, relative to the horizontal one.
FOOD_FLATNESS = {"fish": 0.35, "carrot": 0.9, "egg": 0.7}


class Canvas:
    """A picture, seen through a moving camera.

    Attributes:
        image: RGB [size_px, size_px, 3] uint8.
        classes: what each pixel shows, [size_px, size_px] uint8, numbers of CLASSES; zeros without
            with_classes.
        view: affine map [2, 3] from scene units to pixels.
        light: 3 factors on the colour channels.
        scale: pixels per scene unit.
    """

    def __init__(
        self,
        background: np.ndarray,
        view: np.ndarray,
        light: np.ndarray,
        with_classes: bool = False,
    ):
        self.image = background
        # uint8 holds all CLASSES, and cv2 draws on it.
        self.classes = np.zeros(background.shape[:2], np.uint8)
        self.with_classes = with_classes
        self.view = view
        self.light = tuple(float(factor) for factor in light)
        self.scale = float(np.hypot(view[0, 0], view[1, 0]))

    def _pixels(self, points: Points) -> np.ndarray:
        """Return points [..., 2] as cv2's fixed-point pixel coordinates, int32 [..., 2]."""
        mapped = np.asarray(points, np.float64) @ self.view[:, :2].T
        mapped += self.view[:, 2]
        mapped *= 1 << SHIFT
        return np.rint(mapped, out=mapped).astype(np.int32)

    def polygon(self, points: Points, colour: Colour, name: str | None = None) -> None:
        """Fill a polygon; name: the class that its pixels show."""
        self._fill(self._pixels(points), colour, name)

    def _fill(self, corners: np.ndarray, colour: Colour, name: str | None) -> None:
        """Fill a polygon between corners [n, 2] in cv2's coordinates."""
        cv2.fillPoly(self.image, [corners], lit(colour, self.light), cv2.LINE_AA, SHIFT)
        # A pixel has one class, so edges are not smoothed here.
        if self.with_classes and name:
            cv2.fillPoly(self.classes, [corners], CLASSES.index(name), cv2.LINE_8, SHIFT)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: Colour,
        name: str | None = None,
    ) -> None:
        """Fill a rectangle whose upper left corner is (x, y)."""
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        self.polygon(corners, colour, name)

    def disc(
        self,
        x: float,
        y: float,
        radius: float,
        colour: Colour,
        name: str | None = None,
        flat: float = 1.0,
    ) -> None:
        """Fill an ellipse of half axes `radius` and `radius * flat` about (x, y)."""
        self.polygon(CIRCLE * (radius, radius * flat) + (x, y), colour, name)

    def discs(
        self,
        centres: np.ndarray,
        radius: float,
        colours: Sequence[Colour],
        name: str | None = None,
    ) -> None:
        """Fill discs about centres [n, 2], one after the other, each in its colour."""
        outlines = self._pixels(CIRCLE * radius + centres[:, None])  # [n, 18, 2]
        for corners, colour in zip(outlines, colours, strict=True):
            self._fill(corners, colour, name)

    def line(
        self, points: Points, colour: Colour, width: float = 1.0, name: str | None = None
    ) -> None:
        """Draw a line through points, at least one pixel wide."""
        self.lines(np.asarray(points)[None], colour, width, name)

    def lines(
        self,
        paths: ArrayLike,
        colour: Colour,
        width: float = 1.0,
        name: str | None = None,
    ) -> None:
        """Draw lines of one colour: paths [lines, points, 2] in scene units."""
        pixels = list(self._pixels(paths))
        thickness = max(1, round(width * self.scale))
        light_colour = lit(colour, self.light)
        cv2.polylines(self.image, pixels, False, light_colour, thickness, cv2.LINE_AA, SHIFT)
        if self.with_classes and name:
            number = CLASSES.index(name)
            cv2.polylines(self.classes, pixels, False, number, thickness, cv2.LINE_8, SHIFT)


@lru_cache(maxsize=1024)
def lit(colour: Colour, light: Colour) -> Colour:
    """Return a colour as it looks in a light: factors on its channels."""
    channels = zip(colour, light, strict=True)
    return tuple(min(255.0, max(0.0, value * factor)) for value, factor in channels)


@lru_cache(maxsize=1024)
def scattered(seed: int, low: float, high: float, count: int) -> np.ndarray:
    """Return `count` places [count, 2] between `low` and `high`, the same ones for a seed."""
    places = np.random.default_rng(seed).uniform(low, high, (count, 2))
    places.flags.writeable = False
    return places


def shade(colour: Colour, factor: float) -> tuple[float, ...]:
    """Return a colour that is `factor` times as bright."""
    return tuple(min(255.0, factor * value) for value in colour)


def slab(
    canvas: Canvas, x: float, y: float, width: float, height: float, material: str, seed: int
) -> None:
    """Draw a block of material whose upper left corner is (x, y).

    Dull materials have grain, joints or specks; metals have a slanting sheen and rivets.
    """
    colour = COLOURS[material]
    canvas.rectangle(x, y, width, height, colour, material)
    dark = shade(colour, 1 - CONTRAST["slab"])
    bright = shade(colour, 1 + CONTRAST["slab"])
    if material == "wood":
        grain = []
        for i in (0.22, 0.5, 0.78):
            start = (x + 1, y + i * height)
            end = (x + width - 1, y + (i + 0.06) * height)
            grain.append([start, end])
        canvas.lines(grain, dark, 1.5)
    elif material == "bamboo":
        joints = []
        for i in (0.16, 0.33, 0.5, 0.67, 0.84):
            joints.append([(x + i * width, y), (x + i * width, y + height)])
        canvas.lines(joints, dark, 1.5)
    elif material == "stone":
        # Specks lie where they lie in every clip of the source.
        specks = scattered(seed, 0.06, 0.94, 14)
        colours = [dark if u > v else bright for u, v in specks]
        canvas.discs(specks * (width, height) + (x, y), 1.7, colours)
    else:
        for left in (0.12, 0.62):
            sheen = [(left + 0.16, 0), (left + 0.28, 0), (left + 0.12, 1), (left, 1)]
            canvas.polygon([(x + u * width, y + v * height) for u, v in sheen], bright)
        canvas.discs(RIVETS * (width, height) + (x, y), 1.8, [dark] * len(RIVETS))


def strike(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a mallet that falls on a slab at every event."""
    width = 62 * look.size
    height = 36 * look.size
    top = 88 - height
    slab(canvas, 48 - width / 2, top, width, height, look.variant, look.seed)
    y = top - 8 - 34 * take.lift(t)
    canvas.line([(46, y), (92, y - 10)], HANDLE, 4, "mallet")
    canvas.rectangle(38, y - 8, 16, 16, look.tool_colour, "mallet")


def drum(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw two sticks that take turns on a drum."""
    width = 30 * look.size
    top = 58
    shell = DRUM_COLOURS[look.variant]
    canvas.rectangle(48 - width, top, 2 * width, 30 * look.size, shell, "drum")
    canvas.disc(48, top, width, DRUM_SKIN, "skin", 0.3)
    for hand, side in enumerate((-1, 1)):
        tip_y = top - 28 * take.lift(t, hand)
        stick = [(48 + side * 8, tip_y), (48 + side * 40, tip_y - 20)]
        canvas.line(stick, STICK, 4, "stick")


def rub(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a tool that goes to and fro over a beam; every event is a turn."""
    canvas.rectangle(8, 66, 80, 24, BEAM, "workpiece")
    x = 20 + 24 * take.swing(t)
    y = 64
    size = look.size
    tool = look.variant
    colour = COLOURS[tool]
    inner = shade(colour, 1 - 1.5 * CONTRAST["tool"])

    if tool == "handsaw":
        edge = [(x + 46 * size * i / 12, y + (3 if i % 2 else 0)) for i in range(13)]
    else:
        edge = [(x, y), (x + 46 * size, y)]
    back = [(x + 46 * size, y - 20 * size), (x, y - 22 * size)]
    canvas.polygon([*edge, *back], colour, tool)

    if tool == "file":
        teeth = []
        for i in range(1, 6):
            upper = (x + 46 * size * i / 6, y - 19 * size)
            lower = (x + 46 * size * (i - 0.5) / 6, y)
            teeth.append([upper, lower])
        canvas.lines(teeth, inner, 2)
    elif tool == "hacksaw":
        canvas.rectangle(x + 5 * size, y - 15 * size, 36 * size, 11 * size, inner)
    elif tool == "block":
        canvas.rectangle(x, y - 7 * size, 46 * size, 6 * size, inner)
    canvas.rectangle(x - 9, y - 20 * size, 10, 18 * size, GRIP)


def pan(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a pot, seen from above at a slant, whose content swells and bursts at every event."""
    radius = 38 * look.size
    y = 58
    rim = [(48 - radius, y), (48 + radius, y)]
    bottom = [(48 + radius * 0.8, 92), (48 - radius * 0.8, 92)]
    canvas.polygon([*rim, *bottom], POT, "pot")
    canvas.disc(48, y, radius, POT_RIM, "pot", 0.55)

    content = look.variant
    colour = COLOURS[content]
    fried = content in FOOD_FLATNESS
    ground = shade(colour, 1 - CONTRAST["food"]) if fried else colour
    canvas.disc(48, y, radius * 0.9, ground, content, 0.55)
    if fried:
        _draw_food(canvas, look, y, radius)

    bubble_size = 2.2 if fried else 6.0
    bubble_colour = FAT_BUBBLE if fried else shade(colour, 1.3)
    for (u, v), growth in take.bubbles(t):
        bubble_x = 48 + u * radius * 0.75
        bubble_y = y + v * radius * 0.4 - 2 * growth
        bubble_radius = bubble_size * look.size * growth
        canvas.disc(bubble_x, bubble_y, bubble_radius, bubble_colour, "bubble")


def _draw_food(canvas: Canvas, look: Look, y: float, radius: float) -> None:
    """Draw four pieces of food in a pan of this radius whose centre is at height y."""
    food = look.variant
    flat = FOOD_FLATNESS[food]
    for u, v in scattered(look.seed, -0.5, 0.5, 4):
        piece_x = 48 + u * radius
        piece_y = y + v * radius * 0.55
        canvas.disc(piece_x, piece_y, radius * 0.3, COLOURS[food], food, flat)
        if food == "egg":
            canvas.disc(piece_x, piece_y, radius * 0.13, YOLK, food, 0.8)


def ball(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a ball that meets the floor at every event."""
    colour = BALL_COLOURS[look.variant]
    radius = 15 * look.size
    height = take.lift(t)
    x = 48 + 10 * look.lean
    y = 86 - radius - 44 * height
    # On the floor it is pressed flat.
    canvas.disc(x, y, radius, colour, "ball", 1.0 if height > 0.08 else 0.82)
    canvas.line([(x - radius * 0.9, y), (x + radius * 0.9, y)], shade(colour, 0.5), 1.5)


def pour(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a jug that tilts and fills a bowl; every event is the start of a stream."""
    canvas.polygon([(22, 74), (66, 74), (58, 92), (30, 92)], BOWL, "bowl")
    angle = np.deg2rad(20 + 55 * take.level(t + 0.1))  # the jug tilts before it pours
    cosine = np.cos(angle)
    sine = np.sin(angle)
    upright = np.array([(0, 0), (30, 0), (28, 30), (0, 26)]) * look.size - (0, 13)
    tilted = upright @ np.array([[cosine, -sine], [sine, cosine]]) + (48, 26)
    colour = JUG_COLOURS[look.variant]
    canvas.polygon(tilted, colour, "jug")

    flow = take.level(t)
    if flow > 0.05:
        wobble = 1.5 * np.sin(40 * t)
        lower = [(46 + 3 * flow + wobble, 78), (40 - 2 * flow + wobble, 78)]
        canvas.polygon([(44, 28), (48, 28), *lower], STREAM, "stream")


def spray(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a nozzle that throws a cone of drops; every event is the start of a burst."""
    colour = SPRAYER_COLOURS[look.variant]
    if look.variant == "bottle":
        canvas.rectangle(8, 46, 20 * look.size, 36 * look.size, colour, "sprayer")
    else:
        canvas.line([(2, 92), (6, 60), (20, 42)], colour, 8, "sprayer")
    canvas.rectangle(12, 34, 18, 12, colour, "sprayer")
    if take.level(t) > 0.05:
        # Other drops in every frame, and the same ones at the same time.
        u, v = scattered(int(t * 97), 0, 1, 34).T
        drops = np.stack([32 + 56 * u, 40 + (v - 0.5) * 46 * u], 1)
        canvas.discs(drops, 1.4, [DROP] * len(drops), "spray")


def flag(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a flag that swings about its pole; every event is a turn."""
    colour = FLAG_COLOURS[look.variant]
    canvas.line([(20, 92), (20, 10)], POLE, 4, "pole")
    x = np.linspace(0, 1, 9)
    y = 26 + 10 * x * np.sin(5 * x - take.turns(t) * np.pi) + 9 * take.swing(t)
    upper = np.stack([22 + 56 * look.size * x, y - 14], 1)
    lower = upper[::-1] + (0, 32)
    canvas.polygon(np.concatenate([upper, lower]), colour, "flag")


def wheel(canvas: Canvas, look: Look, take: Take, t: float) -> None:
    """Draw a spoked wheel; every event is a full turn."""
    colour = WHEEL_COLOURS[look.variant]
    radius = 32 * look.size
    canvas.disc(48, 52, radius, colour, "wheel")
    canvas.disc(48, 52, radius * 0.8, WHEEL_GROUND, "wheel")
    for i in range(3):
        angle = 2 * np.pi * (take.turns(t) + i / 3)
        end = (48 + radius * 0.85 * np.cos(angle), 52 + radius * 0.85 * np.sin(angle))
        canvas.line([(48, 52), end], FIRST_SPOKE if i == 0 else colour, 5, "wheel")


STAGINGS = (strike, drum, rub, pan, ball, pour, spray, flag, wheel)
DRAW = {staging.__name__: staging for staging in STAGINGS}
