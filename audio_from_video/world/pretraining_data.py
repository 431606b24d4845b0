"""What the embedded backbones learn from: rendered scenes and synthesised sounds with their annotations."""

import cv2
import numpy as np

from audio_from_video.audioset.labels import load_labels
from audio_from_video.world import tiny_models
from audio_from_video.world.actions import ACTIONS, HELD_OUT
from audio_from_video.world.props import CLASSES
from audio_from_video.world.scenes import Look, draw_look, noise_bank, patch_classes, render, rng_of
from audio_from_video.world.sounds import N, at_level, band_noise, music, own_sound, speech
from audio_from_video.world.takes import CLIP_S, draw_take

SEEN = tuple(action for action in ACTIONS if action not in HELD_OUT)
VARIANTS = tuple(dict.fromkeys((ACTIONS[a].staging, v) for a in SEEN for v in ACTIONS[a].variants))
PICTURES = 4  # per scene, plus one flow image
STILL = 12  # flow values up to this, of 255, show nothing
STEP_S = 1 / 6  # between the two pictures of a flow image


def flow_image(first: np.ndarray, second: np.ndarray, full_scale_px: float) -> np.ndarray:
    """Farneback flow between two RGB pictures as an RGB image: hue = direction, value = magnitude."""
    pair = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
    flow = cv2.calcOpticalFlowFarneback(*pair, None, 0.5, 3, 15, 3, 5, 1.2, 0)
    magnitude, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1])
    value = np.clip(magnitude * 255 / full_scale_px, 0, 255)
    hsv = np.stack([angle * 90 / np.pi, np.full_like(angle, 255), value], -1).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(
        cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR
    )


def scenes(seed: int, split: str, count: int) -> dict:
    """Render `count` scenes: pictures [n, 5, 96, 96, 3], the last a flow image; patches [n, 5, 36, classes]; variants
    [n]; moments [n, 5, 2] (height or strength, swing) of the movement; captions."""
    size_px = tiny_models.SIZE_PX
    grain = noise_bank(seed, size_px)
    pictures = np.zeros((count, PICTURES + 1, size_px, size_px, 3), np.uint8)
    patches = np.zeros(
        (count, PICTURES + 1, (size_px // tiny_models.PATCH_PX) ** 2, len(CLASSES)), np.float16
    )
    variants, moments, captions = (
        np.zeros(count, np.int64),
        np.zeros((count, PICTURES + 1, 2), np.float32),
        [],
    )
    for i in range(count):
        rng = rng_of("pretrain", seed, split, i)
        look = draw_look(rng, str(rng.choice(SEEN)), odd_hues=False)
        take = draw_take(rng, look.action, look.tempo)
        times = rng.uniform(0, CLIP_S - STEP_S, PICTURES)
        shots = [
            render(look, take, t, size_px, grain[rng.integers(16)], True)
            for t in (*times, times[-1] + STEP_S)
        ]
        for k, shot in enumerate(shots):
            image = (
                shot.image
                if k < PICTURES
                else flow_image(shots[-2].image, shot.image, rng.uniform(6, 16))
            )
            classes = (
                shot.classes if k < PICTURES else np.where(image.max(-1) > STILL, shot.classes, 0)
            )
            pictures[i, k] = through_jpeg(image, int(rng.integers(60, 95)))
            patches[i, k] = patch_classes(classes, tiny_models.PATCH_PX)
        streaming = ACTIONS[look.action].staging == "pour"
        moments[i] = [
            (take.level(t) if streaming else take.lift(t), take.swing(t))
            for t in (*times, times[-1] + STEP_S)
        ]
        variants[i] = VARIANTS.index((ACTIONS[look.action].staging, look.variant))
        captions.append(caption(look))
    return {
        "pictures": pictures,
        "patches": patches,
        "variants": variants,
        "moments": moments,
        "captions": captions,
    }


def sounds(seed: int, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthesise `count` sounds: waveforms [n, 48000] and labels [n, 527], both float32. One in five is a mixture of
    two, one in ten silence."""
    index = {label.display_name: label.index for label in load_labels()}
    waves, labels = np.zeros((count, N), np.float32), np.zeros((count, len(index)), np.float32)
    for i in range(count):
        rng = rng_of("pretrain", seed, "sound", split, i)
        heard = np.zeros(N, np.float32)
        for _ in range(rng.choice([0, 1, 2], p=[0.1, 0.7, 0.2])):
            source = str(rng.choice([*SEEN, "music", "speech"]))
            if source in ACTIONS:
                look = draw_look(rng, source)
                heard += own_sound(rng, look, draw_take(rng, look.action, look.tempo))
            else:
                heard += {"music": music, "speech": speech}[source](rng)
            names = {"music": ("Music", "Synthesizer"), "speech": ("Speech",)}
            for name in names.get(source) or ACTIONS[source].labels:
                labels[i, index[name]] = 1
        room = at_level(band_noise(rng, 60, 4000).astype(np.float32), rng.uniform(-70, -60))
        waves[i] = at_level(heard, rng.uniform(-30, -15)) + room
    return waves, labels


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


def caption(look: Look) -> str:
    """One line on the objects, their materials, colours and the place."""
    noun = NOUNS.get(look.variant, "")
    what = STAGED[ACTIONS[look.action].staging].format(noun=noun, variant=look.variant)
    article = "a" if look.place[0] not in "aeiou" else "an"
    return f"{what.replace('a orange', 'an orange')} in {article} {look.place}"
