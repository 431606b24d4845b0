"""What the embedded backbones learn from: rendered scenes with their captions, and sounds.

Captions name objects, materials, colours and places; no word of theirs belongs to an action or a
sound.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from audio_from_video.audioset.labels import load_labels
from audio_from_video.world import tiny_models
from audio_from_video.world.actions import ACTIONS, HELD_OUT
from audio_from_video.world.looks import Look, draw_look
from audio_from_video.world.props import CLASSES
from audio_from_video.world.scenes import noise_bank, patch_classes, render, rng_of
from audio_from_video.world.sounds import SAMPLES, at_level, band_noise, music, own_sound, speech
from audio_from_video.world.takes import CLIP_S, Take, draw_take

SEEN = tuple(action for action in ACTIONS if action not in HELD_OUT)
PICTURES = 4  # per scene, plus one flow image
STILL = 12  # flow values up to this, of 255, show nothing
STEP_S = 1 / 6  # between the two pictures of a flow image
# params.yaml's optical_flow: the backbone must know the images that the stage draws.  A test
# compares.
FARNEBACK = {
    "pyramid_scale": 0.5,
    "levels": 3,
    "window_px": 15,
    "iterations": 3,
    "polynomial_px": 5,
    "polynomial_sigma": 1.2,
}
OTHER_SOUNDS = {  # sounds of no action: how they are made, and their AudioSet labels
    "music": (music, ("Music", "Synthesizer")),
    "speech": (speech, ("Speech",)),
}
# What captions call the main object: materials, colours and things, no word of an action or
# a sound.
NOUNS = {
    "wood": "a brown wooden board",
    "bamboo": "a yellow bamboo board",
    "stone": "a grey stone block",
    "copper": "a brown copper plate",
    "brass": "a yellow brass plate",
    "steel": "a grey steel plate",
    "handsaw": "a grey toothed blade",
    "hacksaw": "a red metal frame",
    "file": "a grey flat bar",
    "block": "a red paper brick",
    "water": "a pot of blue water",
    "soup": "a pot of orange soup",
    "milk": "a pot of white milk",
    "fish": "a pan of blue fish",
    "carrot": "a pan of orange vegetables",
    "egg": "a pan of white egg",
}
STAGED = {
    "strike": "a mallet above {noun}",
    "rub": "{noun} on a wooden beam",
    "pan": "{noun}",
    "drum": "wooden sticks above a {variant} drum",
    "ball": "a {variant} ball above the floor",
    "pour": "a {variant} jug above a bowl",
    "spray": "a {variant} with drops of liquid",
    "flag": "a {variant} flag on a pole",
    "wheel": "a {variant} wheel",
}


def _variants() -> tuple[tuple[str, str], ...]:
    """Return (staging, variant) of everything that the backbones see."""
    pairs = []
    for action in SEEN:
        for variant in ACTIONS[action].variants:
            pairs.append((ACTIONS[action].staging, variant))
    return tuple(dict.fromkeys(pairs))


VARIANTS = _variants()


@dataclass
class Scenes:
    """Rendered scenes: n of them, P = PICTURES + 1 images each, the last one a flow image.

    Attributes:
        pictures: BGR as JPEG leaves it, [n, P, SIZE_PX, SIZE_PX, 3] uint8.
        patches: share of each class in every patch, [n, P, 36, len(CLASSES)] float16.
        variants: numbers [n] of VARIANTS.
        moments: of the movement, [n, P, 2] float32: height or strength, and swing.
        captions: one line [n] each.
    """

    pictures: np.ndarray
    patches: np.ndarray
    variants: np.ndarray
    moments: np.ndarray
    captions: list[str]


def flow_image(first: np.ndarray, second: np.ndarray, full_scale_px: float) -> np.ndarray:
    """Return the optical flow between two RGB pictures as an RGB image.

    Hue is direction, value is magnitude; full_scale_px has full brightness.  Farneback's method
    (2003), as in the stage `optical_flow`.
    """
    flow = cv2.calcOpticalFlowFarneback(
        cv2.cvtColor(first, cv2.COLOR_RGB2GRAY),
        cv2.cvtColor(second, cv2.COLOR_RGB2GRAY),
        None,
        FARNEBACK["pyramid_scale"],
        FARNEBACK["levels"],
        FARNEBACK["window_px"],
        FARNEBACK["iterations"],
        FARNEBACK["polynomial_px"],
        FARNEBACK["polynomial_sigma"],
        0,
    )
    magnitude, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    hue = angle * 90 / np.pi
    saturation = np.full_like(angle, 255)
    value = np.clip(magnitude * 255 / full_scale_px, 0, 255)
    hsv = np.stack([hue, saturation, value], -1).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an image [H, W, 3] as JPEG of a quality leaves it."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def draw_scenes(seed: int, split: str, count: int) -> Scenes:
    """Render `count` scenes of a split; each depends on seed, split and its number alone."""
    size_px = tiny_models.SIZE_PX
    grain = noise_bank(seed, size_px)
    images = PICTURES + 1
    patches = (size_px // tiny_models.PATCH_PX) ** 2
    scenes = Scenes(
        pictures=np.zeros((count, images, size_px, size_px, 3), np.uint8),
        patches=np.zeros((count, images, patches, len(CLASSES)), np.float16),
        variants=np.zeros(count, np.int64),
        moments=np.zeros((count, images, 2), np.float32),
        captions=[],
    )
    for i in range(count):
        rng = rng_of("pretrain", seed, split, i)
        look = draw_look(rng, str(rng.choice(SEEN)), odd_hues=False)
        take = draw_take(rng, look.action, look.tempo)
        times_s = rng.uniform(0, CLIP_S - STEP_S, PICTURES)
        # The last one makes the flow image, together with the one before.
        times_s = np.append(times_s, times_s[-1] + STEP_S)
        shots = []
        for t in times_s:
            shots.append(render(look, take, t, size_px, grain[rng.integers(16)], True))

        for k, shot in enumerate(shots):
            image = shot.image
            classes = shot.classes
            if k == PICTURES:
                image = flow_image(shots[-2].image, shot.image, rng.uniform(6, 16))
                classes = np.where(image.max(-1) > STILL, classes, 0)
            scenes.pictures[i, k] = through_jpeg(image, int(rng.integers(60, 95)))
            scenes.patches[i, k] = patch_classes(classes, tiny_models.PATCH_PX)
        scenes.moments[i] = [_moment(look, take, t) for t in times_s]
        scenes.variants[i] = VARIANTS.index((ACTIONS[look.action].staging, look.variant))
        scenes.captions.append(caption(look))
    return scenes


def _moment(look: Look, take: Take, t: float) -> tuple[float, float]:
    """Return height or, of streams, strength of the movement at `t` seconds, and its swing."""
    streaming = ACTIONS[look.action].staging == "pour"
    return take.level(t) if streaming else take.lift(t), take.swing(t)


def draw_sounds(seed: int, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthesise `count` sounds: waveforms [n, SAMPLES] and labels [n, 527], both float32.

    One in five is a mixture of two, one in ten silence.
    """
    index = {label.display_name: label.index for label in load_labels()}
    waves = np.zeros((count, SAMPLES), np.float32)
    labels = np.zeros((count, len(index)), np.float32)
    for i in range(count):
        rng = rng_of("pretrain", seed, "sound", split, i)
        mixture = np.zeros(SAMPLES, np.float32)
        for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
            source = str(rng.choice([*SEEN, *OTHER_SOUNDS]))
            if source in OTHER_SOUNDS:
                synthesise, names = OTHER_SOUNDS[source]
                mixture += synthesise(rng)
            else:
                look = draw_look(rng, source)
                mixture += own_sound(rng, look, draw_take(rng, look.action, look.tempo))
                names = ACTIONS[source].labels
            for name in names:
                labels[i, index[name]] = 1
        room = at_level(band_noise(rng, 60, 4000).astype(np.float32), rng.uniform(-70, -60))
        waves[i] = at_level(mixture, rng.uniform(-30, -15)) + room
    return waves, labels


def caption(look: Look) -> str:
    """Return one line on the objects, their materials, colours and the place."""
    noun = NOUNS.get(look.variant, "")
    objects = STAGED[ACTIONS[look.action].staging].format(noun=noun, variant=look.variant)
    objects = objects.replace("a orange", "an orange")
    article = "a" if look.place[0] not in "aeiou" else "an"
    return f"{objects} in {article} {look.place}"
