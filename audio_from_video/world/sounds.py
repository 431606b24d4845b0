"""Sounds of the embedded sample data set, synthesised from the very events that move the picture.

Every function returns mono float32 at `RATE_HZ`, 3 s long, before levels are set. Struck things are sums of decaying
partials (modal synthesis); rubbed, boiling and streaming ones are shaped bands of noise.
"""

import numpy as np
from scipy.signal import fftconvolve

from audio_from_video.world.actions import ACTIONS
from audio_from_video.world.scenes import Look
from audio_from_video.world.takes import CLIP_S, Take

RATE_HZ = 16_000
N = int(CLIP_S * RATE_HZ)
TIME_S = np.arange(N) / RATE_HZ
STRUCK = {  # partials in Hz, decay of the first in s, share of noise in the attack
    "wood": ((320, 710, 1180), 0.045, 0.5), "bamboo": ((620, 1500, 2300), 0.035, 0.4), "stone": ((190, 430, 900), 0.025, 0.9),
    "copper": ((640, 1710, 2890, 4100), 0.25, 0.15), "brass": ((860, 2240, 3650, 5200), 0.4, 0.1),
    "steel": ((1150, 2810, 4420, 5900), 0.3, 0.15),
    "red": ((95, 160, 225), 0.14, 0.25), "blue": ((80, 140, 205), 0.16, 0.25),
    "orange": ((90, 150, 230), 0.13, 0.25), "green": ((100, 165, 240), 0.12, 0.25),
}  # fmt: skip
NOISY = {  # band in Hz
    "handsaw": (700, 2600), "hacksaw": (1300, 3800), "file": (3200, 7000), "block": (2400, 5600),
    "water": (120, 420), "soup": (80, 300), "milk": (100, 360), "fish": (3500, 7600), "carrot": (2800, 6500), "egg": (4200, 7800),
    "clay": (700, 3000), "glass": (900, 3600), "bottle": (900, 3600), "hose": (700, 3000),
    "wooden": (150, 500), "metal": (200, 700),
}  # fmt: skip
TOOTH_HZ = {"handsaw": 48.0, "hacksaw": 80.0}


def band_noise(rng: np.random.Generator, low_hz: float, high_hz: float, n: int = N) -> np.ndarray:
    """Noise of deviation 1 between two frequencies, soft edges."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    f = np.fft.rfftfreq(n, 1 / RATE_HZ) + 1e-3
    spectrum *= 1 / (1 + (low_hz / f) ** 8) / (1 + (f / high_hz) ** 8)
    noise = np.fft.irfft(spectrum, n)
    return noise / noise.std()


def impulses(rng: np.random.Generator, events_s: np.ndarray, spread: float = 0.25) -> np.ndarray:
    """One sample per event, of slightly different height."""
    train = np.zeros(N)
    at = np.round(events_s * RATE_HZ).astype(int)
    kept = at < N
    train[at[kept]] = rng.uniform(1 - spread, 1, len(at))[kept]
    return train


def struck(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Decaying partials at every event."""
    partials_hz, decay_s, attack = STRUCK[look.variant]
    t = np.arange(int(min(1.2, 6 * decay_s) * RATE_HZ)) / RATE_HZ
    tone = sum(
        np.sin(2 * np.pi * f * look.pitch * t + rng.uniform(0, 6))
        * np.exp(-t / decay_s * (1 + 0.5 * i))
        / (1 + 0.4 * i)
        for i, f in enumerate(partials_hz)
    )
    click = rng.standard_normal(len(t)) * np.exp(-t / 0.006) * attack
    return fftconvolve(impulses(rng, take.events_s), tone + click)[:N]


def rubbed(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """A band of noise as loud as the tool is fast; teeth of a saw chop it."""
    low, high = NOISY[look.variant]
    turns = np.interp(
        TIME_S,
        np.arange(0, CLIP_S + 0.02, 0.01),
        [take.turns(t) for t in np.arange(0, CLIP_S + 0.02, 0.01)],
    )
    speed = np.abs(np.sin(np.pi * turns))
    noise = band_noise(rng, low * look.pitch, high * look.pitch)
    teeth = TOOTH_HZ.get(look.variant)
    if teeth:
        noise *= 0.15 + 1.7 * (np.sin(2 * np.pi * teeth * np.cumsum(speed) / RATE_HZ * 1.5) > 0.2)
    return noise * speed


def cooked(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Boiling: a rising chirp per bubble over a rumble. Frying: a crackle per bubble, and more of them, over a hiss."""
    low, high = NOISY[look.variant]
    bed = band_noise(rng, low * look.pitch, high * look.pitch)
    if look.action == "boiling":
        t = np.arange(int(0.09 * RATE_HZ)) / RATE_HZ
        blob = (
            np.sin(2 * np.pi * look.pitch * high * (1 * t + 4 * t**2))
            * np.sin(np.pi * t / 0.09) ** 2
        )
        return 0.3 * bed + 3 * fftconvolve(impulses(rng, take.events_s), blob)[:N]
    t = np.arange(int(0.02 * RATE_HZ)) / RATE_HZ
    crackle = rng.standard_normal(len(t)) * np.exp(-t / 0.004)
    train = impulses(rng, take.events_s) + 0.4 * (rng.random(N) < 25 / RATE_HZ)
    return 0.5 * bed + 4 * fftconvolve(train, crackle)[:N]


def streamed(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """A band of noise while the stream is on."""
    low, high = NOISY[look.variant]
    grid = np.arange(0, CLIP_S + 0.02, 0.01)
    level = np.interp(TIME_S, grid, [take.level(t) for t in grid])
    flutter = 1 + 0.5 * np.interp(TIME_S, np.linspace(0, CLIP_S, 60), rng.standard_normal(60))
    return band_noise(rng, low * look.pitch, high * look.pitch) * level * np.clip(flutter, 0.2, 2)


def swung(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """A soft puff of air at every event."""
    low, high = NOISY.get(look.variant, (200, 900)) if look.action == "spinning" else (250, 900)
    t = np.arange(int(0.25 * RATE_HZ)) / RATE_HZ
    envelope = fftconvolve(impulses(rng, take.events_s), (t / 0.03) * np.exp(1 - t / 0.03))[:N]
    return band_noise(rng, low * look.pitch, high * look.pitch) * envelope


VOICE = {
    "strike": struck, "drum": struck, "ball": struck, "rub": rubbed, "pan": cooked,
    "pour": streamed, "spray": streamed, "flag": swung, "wheel": swung,
}  # fmt: skip


def own_sound(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """What the scene sounds like: [48000], float32, root mean square 1."""
    return normalised(VOICE[ACTIONS[look.action].staging](rng, look, take))


def music(rng: np.random.Generator) -> np.ndarray:
    """A tune of plucked tones over a held chord: [48000]."""
    sound = np.zeros(N)
    scale = 220 * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14]) / 12) * rng.uniform(0.8, 1.3)
    beat_s = rng.uniform(0.18, 0.4)
    t = np.arange(int(0.7 * RATE_HZ)) / RATE_HZ
    for start in np.arange(0, CLIP_S - 0.05, beat_s):
        f = rng.choice(scale)
        tone = sum(np.sin(2 * np.pi * k * f * t) / k**1.5 for k in (1, 2, 3, 4)) * np.exp(-t / 0.25)
        i = int(start * RATE_HZ)
        sound[i : i + len(t)] += tone[: N - i]
    return normalised(
        sound + 0.25 * sum(np.sin(2 * np.pi * f / 2 * TIME_S) for f in scale[[0, 2, 3]])
    )


def speech(rng: np.random.Generator) -> np.ndarray:
    """Speech-like: a gliding buzz through changing formants, about four syllables a second: [48000]."""
    pitch = rng.uniform(95, 210) * np.interp(
        TIME_S, np.linspace(0, CLIP_S, 8), rng.uniform(0.85, 1.2, 8)
    )
    phase = 2 * np.pi * np.cumsum(pitch) / RATE_HZ
    syllable = (
        np.clip(np.sin(2 * np.pi * rng.uniform(3, 4.5) * TIME_S + rng.uniform(0, 6)), 0, 1) ** 0.6
    )
    knots = np.linspace(0, CLIP_S, 14)
    formants = [
        np.interp(TIME_S, knots, rng.uniform(*band, 14))
        for band in ((300, 800), (900, 2200), (2400, 3000))
    ]
    sound = sum(
        np.sin(k * phase)
        * sum(
            np.exp(-(((k * pitch - f) / (90 + 40 * i)) ** 2)) / (1 + i)
            for i, f in enumerate(formants)
        )
        for k in range(1, 26)
    )
    return normalised(sound * syllable)


def normalised(sound: np.ndarray) -> np.ndarray:
    return (sound / max(float(np.sqrt(np.mean(sound**2))), 1e-9)).astype(np.float32)


def at_level(sound: np.ndarray, level_db: float) -> np.ndarray:
    """Scale a sound of root mean square 1 to `level_db` dBFS; peaks are limited softly."""
    return np.tanh(sound * 10 ** (level_db / 20)).astype(np.float32)
