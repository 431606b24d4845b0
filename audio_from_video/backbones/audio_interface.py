"""What every audio model gives, whatever its kind.  audio.py loads them by name.

Sound comes in as waveforms at `rate_hz` and is heard as frames: vectors of `width` dimensions, each
of some stretch of time.  A model takes at most `max_s` at once.  Frames that hold padding are told
apart from those that hold sound, so that padding never enters a mean.
"""

from typing import NamedTuple, Protocol

import numpy as np

from audio_from_video.runtime.errors import UserError

RATE_HZ = 16_000  # of the stored sound; models of another rate resample it themselves


class AudioInputs(NamedTuple):
    """Sounds in a model's input form.

    values [N, ...] float32.  lengths: how much of each is sound, in units of the model's kind.
    """

    values: np.ndarray
    lengths: list[int]


class Heard(NamedTuple):
    """What a model makes of N sounds, as float32.

    frames [N, time, D]: outputs over time.  valid: how many frames of each sound hold it; those
    behind them are padding.  pooled [N, P]: what `label_scores` are computed from.
    label_scores [N, 527]: of AudioSet's labels, 0..1, or None where the model knows no labels.
    """

    frames: np.ndarray
    valid: list[int]
    pooled: np.ndarray
    label_scores: np.ndarray | None


class AudioBackbone(Protocol):
    """A frozen audio model.

    device: where it runs.  width: D of its frames.  rate_hz: of the waveforms it takes.
    max_s: the longest sound that one pass takes, in seconds.
    fill_s: length to which a short sound is repeated before its labels are asked, in seconds;
    0 where the model takes it as it is.
    """

    device: str
    width: int
    rate_hz: int
    max_s: float
    fill_s: float

    def prepare(self, waveforms: list[np.ndarray]) -> AudioInputs:
        """Return sounds [samples] float32 at `rate_hz` in the model's input form (on CPU)."""

    def prepare_windows(self, wave: np.ndarray, starts: list[int], length: int) -> AudioInputs:
        """Return windows of a sound in the model's input form (on CPU), without needless padding.

        wave [samples] float32 at `rate_hz`.  starts: the first sample of each window; length:
        samples of each, no more than the sound and `max_s` have.
        """

    def hear(self, inputs: AudioInputs) -> Heard:
        """Return what the model makes of prepared sounds."""

    def frame_times_s(self, count: int) -> np.ndarray:
        """Return start and end [count, 2] of the first `count` frames, in seconds."""

    def scores(self, pooled: np.ndarray) -> np.ndarray:
        """Return the label scores [n, 527] float32 that follow from pooled outputs [n, P].

        Raises UserError where the model knows no labels.
        """


def cut(wave: np.ndarray, starts: list[int], length: int) -> list[np.ndarray]:
    """Return windows [length] of a sound [samples] by their first samples."""
    return [wave[start : start + length] for start in starts]


def side_by_side(sounds: list[np.ndarray]) -> AudioInputs:
    """Return sounds [samples] float32 as one array [N, samples]; zeros fill the shorter ones."""
    lengths = [len(sound) for sound in sounds]
    values = np.zeros((len(sounds), max(lengths)), np.float32)
    for row, sound in zip(values, sounds, strict=True):
        row[: len(sound)] = sound
    return AudioInputs(values, lengths)


def no_labels(kind: str) -> UserError:
    """Return the error of a kind of model that is asked for labels and knows none."""
    return UserError(
        f"{kind} knows no labels: name a model that does in audio_features.label_model"
    )


def resample(wave: np.ndarray, rate_hz: int) -> np.ndarray:
    """Return a sound at RATE_HZ at another rate, by a polyphase filter (scipy)."""
    if rate_hz == RATE_HZ:
        return wave
    from scipy.signal import resample_poly

    factor = np.gcd(rate_hz, RATE_HZ)
    return resample_poly(wave, rate_hz // factor, RATE_HZ // factor).astype(np.float32)


def to_numpy(values) -> np.ndarray:
    """Return a tensor as float32 on CPU."""
    return values.float().cpu().numpy()
