"""Sounds of rendered scenes, synthesised from the very events that move the picture.

A sound is mono float32 at `RATE_HZ`, 3 s long ([SAMPLES]), of root mean square 1 until `at_level`
sets its level.  Struck things are sums of decaying partials (modal synthesis).  Rubbed, boiling and
streaming ones are shaped bands of noise.
"""

import numpy as np
from scipy.signal import fftconvolve

from audio_from_video.world.actions import ACTIONS
from audio_from_video.world.looks import Look
from audio_from_video.world.takes import CLIP_S, Take

RATE_HZ = 16_000
SAMPLES = int(CLIP_S * RATE_HZ)
TIME_S = np.arange(SAMPLES) / RATE_HZ
MOTION_GRID_S = np.arange(0, CLIP_S + 0.02, 0.01)  # where a take's motion is sampled
STRUCK = {  # partials in Hz, decay of the first in s, share of noise in the attack
    "wood": ((320, 710, 1180), 0.045, 0.5),
    "bamboo": ((620, 1500, 2300), 0.035, 0.4),
    "stone": ((190, 430, 900), 0.025, 0.9),
    "copper": ((640, 1710, 2890, 4100), 0.25, 0.15),
    "brass": ((860, 2240, 3650, 5200), 0.4, 0.1),
    "steel": ((1150, 2810, 4420, 5900), 0.3, 0.15),
    "red": ((95, 160, 225), 0.14, 0.25),
    "blue": ((80, 140, 205), 0.16, 0.25),
    "orange": ((90, 150, 230), 0.13, 0.25),
    "green": ((100, 165, 240), 0.12, 0.25),
}
NOISY = {  # band in Hz
    "handsaw": (700, 2600),
    "hacksaw": (1300, 3800),
    "file": (3200, 7000),
    "block": (2400, 5600),
    "water": (120, 420),
    "soup": (80, 300),
    "milk": (100, 360),
    "fish": (3500, 7600),
    "carrot": (2800, 6500),
    "egg": (4200, 7800),
    "clay": (700, 3000),
    "glass": (900, 3600),
    "bottle": (900, 3600),
    "hose": (700, 3000),
    "wooden": (150, 500),
    "metal": (200, 700),
}
TOOTH_HZ = {"handsaw": 48.0, "hacksaw": 80.0}
FORMANTS_HZ = ((300, 800), (900, 2200), (2400, 3000))  # ranges of the speech-like sound
HARMONICS = range(1, 26)


def _times_s(duration_s: float) -> np.ndarray:
    """Return the times of the samples of a short sound."""
    return np.arange(int(duration_s * RATE_HZ)) / RATE_HZ


def band_noise(
    rng: np.random.Generator, low_hz: float, high_hz: float, samples: int = SAMPLES
) -> np.ndarray:
    """Return noise [samples] of deviation 1 between two frequencies, with soft edges."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE_HZ) + 1e-3
    spectrum *= 1 / (1 + (low_hz / frequency) ** 8) / (1 + (frequency / high_hz) ** 8)
    noise = np.fft.irfft(spectrum, samples)
    return noise / noise.std()


def impulses(rng: np.random.Generator, events_s: np.ndarray, spread: float = 0.25) -> np.ndarray:
    """Return a train with one sample per event, between 1 - spread and 1 high."""
    train = np.zeros(SAMPLES)
    positions = np.round(events_s * RATE_HZ).astype(int)
    heights = rng.uniform(1 - spread, 1, len(positions))
    inside = positions < SAMPLES
    train[positions[inside]] = heights[inside]
    return train


def struck(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise decaying partials at every event."""
    partials_hz, decay_s, attack = STRUCK[look.variant]
    t = _times_s(min(1.2, 6 * decay_s))
    tone = np.zeros(len(t))
    for i, partial_hz in enumerate(partials_hz):
        wave = np.sin(2 * np.pi * partial_hz * look.pitch * t + rng.uniform(0, 6))
        # Higher partials are softer and die sooner.
        tone += wave * np.exp(-t / decay_s * (1 + 0.5 * i)) / (1 + 0.4 * i)
    click = rng.standard_normal(len(t)) * np.exp(-t / 0.006) * attack
    return fftconvolve(impulses(rng, take.events_s), tone + click)[:SAMPLES]


def rubbed(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise a band of noise as loud as the tool is fast; teeth of a saw chop it."""
    low_hz, high_hz = NOISY[look.variant]
    turns = np.interp(TIME_S, MOTION_GRID_S, [take.turns(t) for t in MOTION_GRID_S])
    speed = np.abs(np.sin(np.pi * turns))
    noise = band_noise(rng, low_hz * look.pitch, high_hz * look.pitch)
    tooth_hz = TOOTH_HZ.get(look.variant)
    if tooth_hz:
        way = np.sin(2 * np.pi * tooth_hz * np.cumsum(speed) / RATE_HZ * 1.5)
        noise *= 0.15 + 1.7 * (way > 0.2)
    return noise * speed


def boiled(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise a rising chirp per bubble over a rumble."""
    low_hz, high_hz = NOISY[look.variant]
    rumble = band_noise(rng, low_hz * look.pitch, high_hz * look.pitch)
    t = _times_s(0.09)
    sweep = np.sin(2 * np.pi * look.pitch * high_hz * (1 * t + 4 * t**2))
    chirp = sweep * np.sin(np.pi * t / 0.09) ** 2
    return 0.3 * rumble + 3 * fftconvolve(impulses(rng, take.events_s), chirp)[:SAMPLES]


def fried(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise a crackle per bubble, and more of them, over a hiss."""
    low_hz, high_hz = NOISY[look.variant]
    hiss = band_noise(rng, low_hz * look.pitch, high_hz * look.pitch)
    t = _times_s(0.02)
    crackle = rng.standard_normal(len(t)) * np.exp(-t / 0.004)
    # 25 a second belong to bubbles that nobody sees.
    train = impulses(rng, take.events_s) + 0.4 * (rng.random(SAMPLES) < 25 / RATE_HZ)
    return 0.5 * hiss + 4 * fftconvolve(train, crackle)[:SAMPLES]


def cooked(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise what a pan holds."""
    if look.action == "boiling":
        return boiled(rng, look, take)
    return fried(rng, look, take)


def streamed(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise a band of noise while the stream is on."""
    low_hz, high_hz = NOISY[look.variant]
    level = np.interp(TIME_S, MOTION_GRID_S, [take.level(t) for t in MOTION_GRID_S])
    knots_s = np.linspace(0, CLIP_S, 60)
    flutter = 1 + 0.5 * np.interp(TIME_S, knots_s, rng.standard_normal(60))
    noise = band_noise(rng, low_hz * look.pitch, high_hz * look.pitch)
    return noise * level * np.clip(flutter, 0.2, 2)


def swung(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Synthesise a soft puff of air at every event."""
    low_hz, high_hz = (250, 900)
    if look.action == "spinning":
        low_hz, high_hz = NOISY.get(look.variant, (200, 900))
    t = _times_s(0.25)
    puff = (t / 0.03) * np.exp(1 - t / 0.03)
    envelope = fftconvolve(impulses(rng, take.events_s), puff)[:SAMPLES]
    return band_noise(rng, low_hz * look.pitch, high_hz * look.pitch) * envelope


SYNTHESIS = {
    "strike": struck,
    "drum": struck,
    "ball": struck,
    "rub": rubbed,
    "pan": cooked,
    "pour": streamed,
    "spray": streamed,
    "flag": swung,
    "wheel": swung,
}


def own_sound(rng: np.random.Generator, look: Look, take: Take) -> np.ndarray:
    """Return what a scene sounds like: float32 [SAMPLES] of root mean square 1."""
    staging = ACTIONS[look.action].staging
    return normalised(SYNTHESIS[staging](rng, look, take))


def music(rng: np.random.Generator) -> np.ndarray:
    """Return a tune of plucked tones over a held chord: float32 [SAMPLES]."""
    sound = np.zeros(SAMPLES)
    scale_hz = 220 * 2 ** (np.array([0, 2, 4, 7, 9, 12, 14]) / 12) * rng.uniform(0.8, 1.3)
    beat_s = rng.uniform(0.18, 0.4)
    t = _times_s(0.7)
    for start_s in np.arange(0, CLIP_S - 0.05, beat_s):
        tone_hz = rng.choice(scale_hz)
        harmonics = [np.sin(2 * np.pi * k * tone_hz * t) / k**1.5 for k in (1, 2, 3, 4)]
        tone = sum(harmonics) * np.exp(-t / 0.25)
        start = int(start_s * RATE_HZ)
        sound[start : start + len(t)] += tone[: SAMPLES - start]
    chord = sum(np.sin(2 * np.pi * tone_hz / 2 * TIME_S) for tone_hz in scale_hz[[0, 2, 3]])
    return normalised(sound + 0.25 * chord)


def speech(rng: np.random.Generator) -> np.ndarray:
    """Return something like speech: float32 [SAMPLES].

    It is a gliding buzz through changing formants, about four syllables a second.
    """
    mean_pitch_hz = rng.uniform(95, 210)
    glide = np.interp(TIME_S, np.linspace(0, CLIP_S, 8), rng.uniform(0.85, 1.2, 8))
    pitch_hz = mean_pitch_hz * glide
    phase = 2 * np.pi * np.cumsum(pitch_hz) / RATE_HZ
    syllable_hz = rng.uniform(3, 4.5)
    syllables = np.sin(2 * np.pi * syllable_hz * TIME_S + rng.uniform(0, 6))
    loudness = np.clip(syllables, 0, 1) ** 0.6

    knots_s = np.linspace(0, CLIP_S, 14)
    formants_hz = []
    for low_hz, high_hz in FORMANTS_HZ:
        formants_hz.append(np.interp(TIME_S, knots_s, rng.uniform(low_hz, high_hz, 14)))
    sound = np.zeros(SAMPLES)
    for k in HARMONICS:
        gain = np.zeros(SAMPLES)
        for i, formant_hz in enumerate(formants_hz):
            width_hz = 90 + 40 * i
            gain += np.exp(-(((k * pitch_hz - formant_hz) / width_hz) ** 2)) / (1 + i)
        sound += np.sin(k * phase) * gain
    return normalised(sound * loudness)


def normalised(sound: np.ndarray) -> np.ndarray:
    """Return a sound as float32 of root mean square 1; silence stays silence."""
    level = float(np.sqrt(np.mean(sound**2)))
    return (sound / max(level, 1e-9)).astype(np.float32)


def at_level(sound: np.ndarray, level_db: float) -> np.ndarray:
    """Scale a sound of root mean square 1 to `level_db` dBFS; peaks are limited softly."""
    return np.tanh(sound * 10 ** (level_db / 20)).astype(np.float32)
