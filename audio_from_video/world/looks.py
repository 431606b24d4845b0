"""The look of a source: what all clips of one rendered source share.

Everything follows from the random generator that is passed in, in the order in which it is drawn.
"""

import colorsys
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from audio_from_video.world.actions import ACTIONS, HELD_OUT, LOOK_ALIKE

PLACES = ("room", "kitchen", "shed", "street")
# Backgrounds of the data set take odd bins of the colour circle, those of pretraining even ones.
HUE_BINS = 24
OCCLUDED_FRACTION = 0.5  # of sources, behind something that may hide little
CLUTTERED_FRACTION = 0.67  # of sources


@dataclass(frozen=True)
class Look:
    """Place, palette, light, camera and objects of a source; colours are RGB, 0..255."""

    action: str
    variant: str
    seed: int  # positions of specks and pieces
    size: float  # of the main object, about 1
    lean: float  # -1..1, sideways
    tool_colour: tuple[float, ...]  # RGB
    place: str
    wall: tuple[float, ...]  # RGB
    floor: tuple[float, ...]  # RGB
    light: np.ndarray  # [3], factor per colour channel
    offset: np.ndarray  # [2], scene units
    turn_deg: float
    zoom: float
    shake: float  # standard deviation of the camera's position, scene units
    noise: float  # standard deviation, grey levels
    blur: float  # defocus, standard deviation in scene units
    # Left edge and width of what stands before the scene, scene units.
    occluder: tuple[float, float] | None
    # A thing that stands about unused: its action, variant and left edge.
    clutter: tuple[str, str, float] | None
    tempo: float  # 0..1 within the action's range
    detune: float  # about 1, what of the pitch the size does not tell

    @property
    def pitch(self) -> float:
        """Factor on the frequencies of the sound: what is large sounds low."""
        return self.detune / self.size

    @cached_property
    def turn(self) -> np.ndarray:
        """The camera's rotation and zoom: [2, 2]."""
        angle = np.deg2rad(self.turn_deg)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        return rotation * self.zoom


def draw_labelled_looks(rng: np.random.Generator, share: float) -> dict[str, tuple[str, ...]]:
    """Draw the looks (variants) of each action that labelled clips show.

    share: of the looks of all actions, rounded; every action keeps one.  With the same generator a
    larger share holds all looks of a smaller one.
    """
    first = [(name, str(rng.choice(action.variants))) for name, action in ACTIONS.items()]
    looks = [(name, look) for name, action in ACTIONS.items() for look in action.variants]
    others = [pair for pair in looks if pair not in first]
    order = [*first, *(others[i] for i in rng.permutation(len(others)))]
    chosen = order[: max(len(first), round(share * len(looks)))]
    labelled = {}
    for name, action in ACTIONS.items():
        labelled[name] = tuple(look for look in action.variants if (name, look) in chosen)
    return labelled


def draw_look(rng: np.random.Generator, action: str, odd_hues: bool = True) -> Look:
    """Return the look of a source that shows an action.

    odd_hues: of the data set (True), or of pretraining (False), where clutter shows no held-out
    action.
    """
    hue_bin = 2 * rng.integers(HUE_BINS // 2) + odd_hues
    hue = (hue_bin + rng.uniform(0.1, 0.9)) / HUE_BINS
    saturation = rng.uniform(0.05, 0.25)
    brightness = rng.uniform(0.55, 0.85)
    wall = np.array(colorsys.hsv_to_rgb(hue, saturation, brightness)) * 255
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
        occluder=_draw_occluder(rng),
        clutter=_draw_clutter(rng, action, odd_hues),
        tempo=rng.random(),
        detune=rng.normal(1, 0.03),
    )


def _draw_occluder(rng: np.random.Generator) -> tuple[float, float] | None:
    """Draw the left edge and width of something before the scene, in half of the sources."""
    if rng.random() >= OCCLUDED_FRACTION:
        return None
    left = rng.uniform(-10, 70)
    width = rng.uniform(8, 56)
    return left, width


def _draw_clutter(
    rng: np.random.Generator, action: str, any_action: bool
) -> tuple[str, str, float] | None:
    """Draw a thing for a corner, in two of three sources.

    It belongs to an action outside the look-alike pairs, which it would give away.
    """
    look_alike = set(chain.from_iterable(LOOK_ALIKE))
    others = [
        name
        for name in ACTIONS
        if name not in look_alike and name != action and (any_action or name not in HELD_OUT)
    ]
    other = str(rng.choice(others))
    variant = str(rng.choice(ACTIONS[other].variants))
    left = rng.uniform(-6, 52)
    if rng.random() >= CLUTTERED_FRACTION:
        return None
    return other, variant, left
