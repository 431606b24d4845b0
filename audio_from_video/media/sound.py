"""The sound of a video file, in time with its pictures: 16 kHz, mono, 16 bit.

FFmpeg (through PyAV) decodes.  This module places what it decodes on one time line, whose zero is
the first *shown* frame.  Nothing is assumed of how a container counts time: every decoded frame of
sound carries a time stamp, and frames that follow each other without a gap form a stretch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np

from audio_from_video.media import pictures, untrusted
from audio_from_video.media.codecs import SAMPLE_RATE_HZ, level_dbfs
from audio_from_video.media.untrusted import File, MediaError

# A frame of sound that tells a start so far from the end of the one before begins a new stretch.
# Time stamps jitter by less (Matroska's and Flash's are whole milliseconds), a lost packet is
# longer.
GAP_S = 0.015
# So far may time stamps run away from the number of samples before a new stretch begins.
DRIFT_S = 0.04
# A track's last frame is longer than the track where its codec fills it up; shorter differences are
# the rounding of time stamps.
ROUNDING_S = 0.002
# Rates of sound that anybody records; a file may claim any.
MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000

# Gains of a channel into left and right, after ITU-R BS.775; as there, the low-frequency channel is
# left out.  Channels without a place go into both.
STEREO_GAINS = {
    "FL": (1.0, 0.0),
    "FR": (0.0, 1.0),
    "FC": (0.7071, 0.7071),
    "BL": (0.7071, 0.0),
    "BR": (0.0, 0.7071),
    "SL": (0.7071, 0.0),
    "SR": (0.0, 0.7071),
    "BC": (0.5, 0.5),
    "LFE": (0.0, 0.0),
}
UNPLACED = (0.5, 0.5)
# A downmix that is weaker than the loudest channel by more than this has lost what a listener
# hears.  A sound in one of two channels alone, and so heard at half its height, loses 6.02 dB.
LOST_DB = 6.5


@dataclass
class Stretch:
    """Frames of sound that follow each other without a gap, in one format.

    parts: samples [channels, n] in [-1, 1] of each frame.  starts_s: where the frames that tell
    their own time put the stretch's first sample, from the first shown picture.
    """

    rate_hz: int
    channels: tuple[str, ...]
    end_s: float
    parts: list[np.ndarray] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    length: int = 0

    @property
    def start_s(self) -> float:
        """The time of the first sample: the median of what the frames tell, as stamps jitter."""
        return float(np.median(self.starts_s))

    def continues(self, rate_hz: int, channels: tuple[str, ...], start_s: float | None) -> bool:
        """Whether a frame in this format, with this start where it tells one, follows at once."""
        if (rate_hz, channels) != (self.rate_hz, self.channels):
            return False
        if start_s is None:
            return True
        counted_s = self.starts_s[0] + self.length / self.rate_hz
        return abs(start_s - self.end_s) <= GAP_S and abs(start_s - counted_s) <= DRIFT_S

    def add(self, samples: np.ndarray, start_s: float, told: bool) -> None:
        """Append a frame's samples [channels, n]; told: whether `start_s` is its own time."""
        if told or not self.starts_s:
            self.starts_s.append(start_s - self.length / self.rate_hz)
        self.parts.append(samples)
        self.length += samples.shape[1]
        self.end_s = start_s + samples.shape[1] / self.rate_hz

    def cut_last(self, length: int) -> None:
        """Shorten the last frame to `length` samples."""
        self.length += length - self.parts[-1].shape[1]
        self.parts[-1] = self.parts[-1][:, :length]


# Before a part of a file decoding begins so much earlier, s: codecs need what went before (Opus
# 0.08 s, MP3 up to 0.5 s).
SEEK_BACK_S = 1.0


def decode_sound(file: File, start_s: float, duration_s: float, seek: bool = False) -> np.ndarray:
    """Decode a file's sound from its first shown picture on.

    start_s: that picture's time on the file's clock, or that of a part's start
    (`pictures.ShownFrames`).  seek: for a part: not all that lies before it is decoded.

    Returns [round(duration_s x 16000)] int16, mono, 16 kHz, with silence where the track has none.
    Of several tracks it is the one flagged as default, else the first.  Packets that cannot be
    decoded leave silence, too.  Raises MediaError where none can be.
    """
    stretches = _read_stretches(file, start_s, duration_s, seek) if seek else []
    # Nothing at the start: the track is silent there, or seeking led behind it.
    if not stretches or stretches[0].start_s > 0:
        stretches = _read_stretches(file, start_s, duration_s, seek=False)
    with untrusted.bounded_memory():
        line = np.zeros(round(duration_s * SAMPLE_RATE_HZ), np.float32)
        for stretch in stretches:
            samples = np.concatenate(stretch.parts, axis=1)
            start_s = stretch.start_s
            if seek:
                samples, start_s = _within(samples, start_s, stretch.rate_hz, duration_s)
            mono = to_mono(samples, stretch.channels)
            _place(line, resample(mono, stretch.rate_hz), start_s)
    # A damaged packet may hold any number.
    return np.clip(np.rint(line.clip(-1, 1) * 32768), -32768, 32767).astype(np.int16)


def _read_stretches(file: File, origin_s: float, duration_s: float, seek: bool) -> list[Stretch]:
    """The sound between the first shown picture and `duration_s` later; none where all is later."""
    stretches: list[Stretch] = []
    decoded = False
    last_duration_s = 0.0
    with untrusted.open_container(file) as container:
        stream = _audio_stream(container)
        if seek and any(name in container.format.name for name in pictures.SEEKABLE):
            from_s = max(0.0, origin_s - SEEK_BACK_S)
            container.seek(round(from_s / stream.time_base), stream=stream)
        for frame, told in _frames(container, stream):
            decoded = True
            rate_hz = frame.sample_rate
            if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
                raise MediaError("unreadable", f"its sound claims {rate_hz} samples a second")
            if frame.pts is not None:
                start_s = float(frame.pts * frame.time_base) - origin_s
            elif stretches:
                start_s = stretches[-1].end_s
            else:
                continue
            if start_s > duration_s:
                break
            if start_s + frame.samples / rate_hz < 0:
                continue

            channels = tuple(channel.name for channel in frame.layout.channels)
            own_start_s = start_s if told else None
            if not stretches or not stretches[-1].continues(rate_hz, channels, own_start_s):
                stretches.append(Stretch(rate_hz, channels, start_s))
            stretches[-1].add(_float_samples(frame), start_s, told)
            last_duration_s = float((frame.duration or 0) * frame.time_base)

    if not decoded and not seek:
        raise MediaError("unreadable", "its audio stream decodes to nothing")
    if stretches:
        _cut_to_duration(stretches[-1], last_duration_s)
    return stretches


def _frames(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """Decoded frames of sound, each with whether its time stamp is its own.

    Transport and program streams stamp groups of frames.  FFmpeg counts the others' stamps up from
    the group's by the duration that the stream's first format has; their packets have no position.
    Damaged packets are left out, as `ffmpeg` does.
    """
    own_stamps = set()
    for packet in untrusted.packets(container, stream):
        if packet.pos is not None:
            own_stamps.add(packet.pts)
        try:
            frames = untrusted.decode(packet)
        except av.error.FFmpegError:
            continue
        for frame in frames:
            yield frame, frame.pts in own_stamps


def _cut_to_duration(stretch: Stretch, duration_s: float) -> None:
    """Leave out what a codec appended to the track's last frame to fill it up.

    duration_s: of that frame as its packet tells it; 0 where unknown.
    """
    length = stretch.parts[-1].shape[1]
    if 0 < duration_s < length / stretch.rate_hz - ROUNDING_S:
        stretch.cut_last(round(duration_s * stretch.rate_hz))


def _audio_stream(container: Any) -> Any:
    """The track that a player would choose."""
    streams = list(container.streams.audio)
    if not streams:
        raise MediaError("unreadable", "the file has no audio stream")
    default = [s for s in streams if s.disposition & av.stream.Disposition.default]
    return (default or streams)[0]


def _float_samples(frame: Any) -> np.ndarray:
    """A decoded frame as samples [channels, n] float32, full scale 1; what is no number is 0."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        full_scale = -float(np.iinfo(samples.dtype).min)
        return (samples / full_scale).astype(np.float32)
    return np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _within(
    samples: np.ndarray, start_s: float, rate_hz: int, duration_s: float
) -> tuple[np.ndarray, float]:
    """Samples [channels, n] that lie within 0..duration_s, and when the first of them begins.

    What lies before and after a part has no say in how the part is mixed and resampled, as it is in
    a cut copy.
    """
    before = max(0, round(-start_s * rate_hz))
    end = max(before, round((duration_s - start_s) * rate_hz))
    return samples[:, before:end], start_s + before / rate_hz


def to_mono(samples: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Mix samples [channels, n] down to one channel [n] without losing what a listener hears.

    The mix is the mean of left and right after ITU-R BS.775, scaled down where it would clip.
    Where it is weaker than the loudest channel by more than LOST_DB (left and right out of phase
    cancel each other), the loudest channel stands for the sound.
    """
    if len(samples) == 1:
        return samples[0]

    gains = np.array([STEREO_GAINS.get(name, UNPLACED) for name in channels], np.float32)
    mix = gains.mean(axis=1) @ samples
    peak = float(np.abs(mix).max(initial=0))
    if peak > 1:
        mix = mix / peak
    levels = [level_dbfs(channel) for channel in samples]
    loudest = int(np.argmax(levels))
    return samples[loudest] if levels[loudest] - level_dbfs(mix) > LOST_DB else mix


def resample(mono: np.ndarray, rate_hz: int) -> np.ndarray:
    """Bring samples [n] float32 from `rate_hz` to 16 kHz, by FFmpeg's resampler."""
    if rate_hz == SAMPLE_RATE_HZ or not len(mono):
        return mono

    resampler = av.AudioResampler(format="fltp", layout="mono", rate=SAMPLE_RATE_HZ)
    frame = av.AudioFrame.from_ndarray(
        np.ascontiguousarray(mono)[None], format="fltp", layout="mono"
    )
    frame.sample_rate = rate_hz
    frame.pts = 0
    frame.time_base = Fraction(1, rate_hz)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([part.to_ndarray()[0] for part in frames] or [mono[:0]])


def _place(line: np.ndarray, samples: np.ndarray, start_s: float) -> None:
    """Write samples into the time line from `start_s` on, as far as they lie within it."""
    start = round(start_s * SAMPLE_RATE_HZ)
    first = max(start, 0)
    end = min(start + len(samples), len(line))
    if end > first:
        line[first:end] = samples[first - start : end - start]
