"""The objects of the rendered scenes: how each staging is drawn at a moment in time.

Every function draws onto a `Canvas` in scene units (the picture is 96 units wide and high, y points down), whatever the
size in pixels. Beside the picture the canvas keeps a map of what each pixel shows, from which `pretrain` learns.
"""

from collections.abc import Sequence

import cv2
import numpy as np

UNITS = 96.0
# How far grain or sheen, the shape of a tool, and food stand out from their ground: this alone decides how hard the
# look-alike pairs are (at 0.18 for all three they hardly are, at 0.10 nothing small can tell wood from copper).
CONTRAST = {"slab": 0.155, "tool": 0.125, "food": 0.24}
CIRCLE = np.stack(
    [np.cos(np.arange(18) * np.pi / 9), np.sin(np.arange(18) * np.pi / 9)], 1
)  # [18, 2]
SHIFT = 4  # fractional bits of cv2's coordinates
CLASSES = (
    "background", "wood", "bamboo", "stone", "copper", "brass", "steel", "mallet", "stick", "drum", "skin",
    "handsaw", "hacksaw", "file", "block", "workpiece", "pot", "water", "soup", "milk", "fish", "carrot", "egg", "bubble",
    "jug", "bowl", "stream", "flag", "pole", "ball", "sprayer", "spray", "wheel", "distractor", "occluder",
)  # fmt: skip
COLOURS = {  # RGB; neighbours in the look-alike pairs share their colour on purpose
    "wood": (158, 104, 62), "copper": (162, 106, 66), "bamboo": (180, 160, 84), "brass": (184, 162, 80),
    "stone": (136, 140, 142), "steel": (134, 141, 148),
    "handsaw": (176, 180, 188), "file": (170, 174, 182), "hacksaw": (190, 60, 52), "block": (184, 66, 56),
    "water": (92, 148, 196), "fish": (100, 146, 186), "soup": (212, 120, 44), "carrot": (206, 116, 50),
    "milk": (232, 226, 206), "egg": (228, 222, 204),
}  # fmt: skip


class Canvas:
    """A picture [size_px, size_px, 3] (RGB) and its class map [size_px, size_px], seen through a moving camera."""

    def __init__(
        self,
        background: np.ndarray,
        view: np.ndarray,
        light: np.ndarray,
        with_classes: bool = False,
    ):
        self.image = background
        self.classes = np.zeros(
            background.shape[:2], np.uint8
        )  # stays empty without `with_classes`
        self.with_classes = with_classes
        self.view = view  # affine map [2, 3] from scene units to pixels
        self.light = [float(factor) for factor in light]  # per colour channel
        self.scale = float(np.hypot(view[0, 0], view[1, 0]))

    def _points(self, points: np.ndarray | Sequence) -> np.ndarray:
        mapped = np.asarray(points, np.float64) @ self.view[:, :2].T + self.view[:, 2]
        return np.round(mapped * (1 << SHIFT)).astype(np.int32)

    def _colour(self, colour: Sequence[float]) -> tuple[float, ...]:
        return tuple(
            min(255.0, max(0.0, value * factor))
            for value, factor in zip(colour, self.light, strict=True)
        )

    def polygon(self, points, colour, name: str | None = None) -> None:
        corners = self._points(points)
        cv2.fillPoly(self.image, [corners], self._colour(colour), cv2.LINE_AA, SHIFT)
        if self.with_classes and name:
            cv2.fillPoly(self.classes, [corners], CLASSES.index(name), cv2.LINE_8, SHIFT)

    def rectangle(
        self, x: float, y: float, width: float, height: float, colour, name: str | None = None
    ) -> None:
        self.polygon(
            [(x, y), (x + width, y), (x + width, y + height), (x, y + height)], colour, name
        )

    def disc(
        self, x: float, y: float, radius: float, colour, name: str | None = None, flat: float = 1.0
    ) -> None:
        """An ellipse of half axes `radius` and `radius * flat`."""
        self.polygon(CIRCLE * (radius, radius * flat) + (x, y), colour, name)

    def line(self, points, colour, width: float = 1.0, name: str | None = None) -> None:
        path, thickness = [self._points(points)], max(1, round(width * self.scale))
        cv2.polylines(self.image, path, False, self._colour(colour), thickness, cv2.LINE_AA, SHIFT)
        if self.with_classes and name:
            cv2.polylines(
                self.classes, path, False, CLASSES.index(name), thickness, cv2.LINE_8, SHIFT
            )


def shade(colour: Sequence[float], factor: float) -> tuple[float, ...]:
    return tuple(min(255.0, factor * v) for v in colour)


def slab(
    canvas: Canvas, x: float, y: float, width: float, height: float, material: str, seed: int
) -> None:
    """A block of material: grain, joints or specks where it is dull, a slanting sheen and rivets where it is metal."""
    colour = COLOURS[material]
    canvas.rectangle(x, y, width, height, colour, material)
    dark, bright = shade(colour, 1 - CONTRAST["slab"]), shade(colour, 1 + CONTRAST["slab"])
    if material == "wood":
        for i in (0.22, 0.5, 0.78):
            canvas.line(
                [(x + 1, y + i * height), (x + width - 1, y + (i + 0.06) * height)], dark, 1.5
            )
    elif material == "bamboo":
        for i in (0.16, 0.33, 0.5, 0.67, 0.84):
            canvas.line([(x + i * width, y), (x + i * width, y + height)], dark, 1.5)
    elif material == "stone":
        for u, v in np.random.default_rng(seed).uniform(0.06, 0.94, (14, 2)):
            canvas.disc(x + u * width, y + v * height, 1.7, dark if u > v else bright)
    else:
        for left in (0.12, 0.62):
            band = [(left + 0.16, 0), (left + 0.28, 0), (left + 0.12, 1), (left, 1)]
            canvas.polygon([(x + u * width, y + v * height) for u, v in band], bright)
        for u, v in ((0.05, 0.14), (0.95, 0.14), (0.05, 0.86), (0.95, 0.86)):
            canvas.disc(x + u * width, y + v * height, 1.8, dark)


def strike(canvas: Canvas, look, take, t: float) -> None:
    """A mallet falls on a slab at every event."""
    width, height = 62 * look.size, 36 * look.size
    top = 88 - height
    slab(canvas, 48 - width / 2, top, width, height, look.variant, look.seed)
    y = top - 8 - 34 * take.lift(t)
    canvas.line([(46, y), (92, y - 10)], (92, 70, 50), 4, "mallet")
    canvas.rectangle(38, y - 8, 16, 16, look.tool_colour, "mallet")


def drum(canvas: Canvas, look, take, t: float) -> None:
    """Two sticks take turns on a drum."""
    width, top = 30 * look.size, 58
    shell = {"red": (186, 48, 56), "blue": (48, 76, 180)}[look.variant]
    canvas.rectangle(48 - width, top, 2 * width, 30 * look.size, shell, "drum")
    canvas.disc(48, top, width, (238, 234, 224), "skin", 0.3)
    for side, lift in ((-1, take.lift(t, 0)), (1, take.lift(t, 1))):
        tip = (48 + side * 8, top - 28 * lift)
        canvas.line([tip, (48 + side * 40, tip[1] - 20)], (214, 178, 120), 4, "stick")


def rub(canvas: Canvas, look, take, t: float) -> None:
    """A tool goes to and fro over a beam; every event is a turn."""
    canvas.rectangle(8, 66, 80, 24, (150, 118, 84), "workpiece")
    x, y, s = 20 + 24 * take.swing(t), 64, look.size
    colour, name = COLOURS[look.variant], look.variant
    inner = shade(colour, 1 - 1.5 * CONTRAST["tool"])
    edge = (
        [(x + 46 * s * i / 12, y + (3 if i % 2 else 0)) for i in range(13)]
        if name == "handsaw"
        else [(x, y), (x + 46 * s, y)]
    )
    canvas.polygon([*edge, (x + 46 * s, y - 20 * s), (x, y - 22 * s)], colour, name)
    if name == "file":
        for i in range(1, 6):
            canvas.line(
                [(x + 46 * s * i / 6, y - 19 * s), (x + 46 * s * (i - 0.5) / 6, y)], inner, 2
            )
    elif name == "hacksaw":
        canvas.rectangle(x + 5 * s, y - 15 * s, 36 * s, 11 * s, inner)
    elif name == "block":
        canvas.rectangle(x, y - 7 * s, 46 * s, 6 * s, inner)
    canvas.rectangle(x - 9, y - 20 * s, 10, 18 * s, (58, 48, 44))


def pan(canvas: Canvas, look, take, t: float) -> None:
    """A pot seen from above at a slant: what is in it swells and bursts at every event."""
    radius, y = 38 * look.size, 58
    canvas.polygon(
        [(48 - radius, y), (48 + radius, y), (48 + radius * 0.8, 92), (48 - radius * 0.8, 92)],
        (70, 72, 78),
        "pot",
    )
    canvas.disc(48, y, radius, (96, 98, 104), "pot", 0.55)
    colour, name = COLOURS[look.variant], look.variant
    fried = name in ("fish", "carrot", "egg")
    canvas.disc(
        48, y, radius * 0.9, shade(colour, 1 - CONTRAST["food"]) if fried else colour, name, 0.55
    )
    if fried:
        for u, v in np.random.default_rng(look.seed).uniform(-0.5, 0.5, (4, 2)):
            piece = (48 + u * radius, y + v * radius * 0.55)
            flat = {"fish": 0.35, "carrot": 0.9, "egg": 0.7}[name]
            canvas.disc(*piece, radius * 0.3, colour, name, flat)
            if name == "egg":
                canvas.disc(*piece, radius * 0.13, (240, 180, 40), name, 0.8)
    size = 2.2 if fried else 6.0
    for (u, v), grown in take.bubbles(t):
        rim = (250, 240, 200) if fried else shade(colour, 1.3)
        canvas.disc(
            48 + u * radius * 0.75,
            y + v * radius * 0.4 - 2 * grown,
            size * look.size * grown,
            rim,
            "bubble",
        )


def ball(canvas: Canvas, look, take, t: float) -> None:
    """A ball meets the floor at every event."""
    colour = {"orange": (222, 120, 40), "green": (70, 170, 70)}[look.variant]
    radius = 15 * look.size
    height = take.lift(t)
    x, y = 48 + 10 * look.lean, 86 - radius - 44 * height
    canvas.disc(x, y, radius, colour, "ball", 1.0 if height > 0.08 else 0.82)
    canvas.line([(x - radius * 0.9, y), (x + radius * 0.9, y)], shade(colour, 0.5), 1.5)


def pour(canvas: Canvas, look, take, t: float) -> None:
    """A jug tilts and fills a bowl; every event is the start of a stream."""
    flow, s = take.level(t), look.size
    canvas.polygon([(22, 74), (66, 74), (58, 92), (30, 92)], (120, 92, 140), "bowl")
    angle = np.deg2rad(20 + 55 * take.level(t + 0.1))
    c, n = np.cos(angle), np.sin(angle)
    body = np.array([(0, 0), (30, 0), (28, 30), (0, 26)]) * s - (0, 13)
    body = body @ np.array([[c, -n], [n, c]]) + (48, 26)
    canvas.polygon(body, {"clay": (176, 92, 64), "glass": (150, 200, 196)}[look.variant], "jug")
    if flow > 0.05:
        wobble = 1.5 * np.sin(40 * t)
        canvas.polygon(
            [(44, 28), (48, 28), (46 + 3 * flow + wobble, 78), (40 - 2 * flow + wobble, 78)],
            (70, 140, 215),
            "stream",
        )


def spray(canvas: Canvas, look, take, t: float) -> None:
    """A nozzle throws a cone of drops; every event is the start of a burst."""
    s, level = look.size, take.level(t)
    colour = {"bottle": (60, 160, 90), "hose": (40, 44, 50)}[look.variant]
    if look.variant == "bottle":
        canvas.rectangle(8, 46, 20 * s, 36 * s, colour, "sprayer")
    else:
        canvas.line([(2, 92), (6, 60), (20, 42)], colour, 8, "sprayer")
    canvas.rectangle(12, 34, 18, 12, colour, "sprayer")
    if level > 0.05:
        drops = np.random.default_rng(int(t * 97)).uniform(0, 1, (34, 2))
        for u, v in drops:
            canvas.disc(32 + 56 * u, 40 + (v - 0.5) * 46 * u, 1.4, (210, 228, 244), "spray")


def flag(canvas: Canvas, look, take, t: float) -> None:
    """A flag swings about its pole; every event is a turn."""
    colour = {"red": (196, 50, 60), "yellow": (228, 200, 60)}[look.variant]
    canvas.line([(20, 92), (20, 10)], (110, 110, 112), 4, "pole")
    x = np.linspace(0, 1, 9)
    y = 26 + 10 * x * np.sin(5 * x - take.turns(t) * np.pi) + 9 * take.swing(t)
    upper = np.stack([22 + 56 * look.size * x, y - 14], 1)
    canvas.polygon(np.concatenate([upper, upper[::-1] + (0, 32)]), colour, "flag")


def wheel(canvas: Canvas, look, take, t: float) -> None:
    """A spoked wheel; every event is a full turn."""
    colour = {"wooden": (150, 100, 60), "metal": (150, 156, 170)}[look.variant]
    radius = 32 * look.size
    canvas.disc(48, 52, radius, colour, "wheel")
    canvas.disc(48, 52, radius * 0.8, (230, 226, 214), "wheel")
    for i in range(3):
        angle = 2 * np.pi * (take.turns(t) + i / 3)
        end = (48 + radius * 0.85 * np.cos(angle), 52 + radius * 0.85 * np.sin(angle))
        canvas.line([(48, 52), end], (200, 60, 50) if i == 0 else colour, 5, "wheel")


DRAW = {f.__name__: f for f in (strike, drum, rub, pan, ball, pour, spray, flag, wheel)}
