"""From a file or an array of frames to windows: the pictures and the sound of one answer each.

A video of up to LONGEST_WHOLE times a clip's length (`frames.count` / `frames.fps`) is one window
and is sampled as in training.  A longer one is cut into windows of a clip's length.
"""

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from audio_from_video.media import codecs, pictures, sound, untrusted
from audio_from_video.media.frames import on_screen, refusal, sample_times, small_jpeg
from audio_from_video.media.settings import FramesParams
from audio_from_video.runtime.parallel import time_limit_s

LONGEST_WHOLE = 1.25
# Bytes of a file that the time limit of a clip is for: a long video has that of several.
BYTES_IN_TIME = 4 * 2**20


@dataclass(frozen=True)
class VideoArray:
    """A video that the caller has decoded.

    frames [T, H, W, 3] uint8, RGB, at `fps` frames a second.  sound [n]: 16 kHz, mono, int16 or
    floating-point in [-1, 1]; None without.  name: stands in answers and decides, as a clip's id,
    which noise architecture 2 adds.
    """

    frames: np.ndarray
    fps: float
    sound: np.ndarray | None = None
    name: str = "array"


@dataclass(frozen=True)
class Window:
    """A part of a video.

    start_s, end_s: from the first shown frame.  jpegs: T frames.  samples [n] int16: its sound at
    16 kHz, None where the video has no audio track.
    """

    start_s: float
    end_s: float
    jpegs: list[bytes]
    samples: np.ndarray | None


@dataclass(frozen=True)
class ReadVideo:
    """A video as windows, or why there are none: status and reason, as in the stages' outputs."""

    windows: list[Window]
    status: str = "ok"
    reason: str = ""


@dataclass(frozen=True)
class ReadingTask:
    """A file or an array to read; stride_s: between the starts of a longer video's windows."""

    video: str | os.PathLike | VideoArray
    frames: FramesParams
    stride_s: float


def reading_limit_s(task: ReadingTask) -> float:
    """Return after how long the reading of a video is given up, in seconds, by its size."""
    try:
        if isinstance(task.video, VideoArray):
            size = task.video.frames.nbytes
        else:
            size = os.path.getsize(task.video)
    except OSError:  # `read` says what is wrong
        size = 0
    return time_limit_s() * max(1, size / BYTES_IN_TIME)


def clip_length_s(p: FramesParams) -> float:
    """Return the length of a clip."""
    return p.count / p.fps


def window_starts_s(duration_s: float, p: FramesParams, stride_s: float) -> list[float]:
    """Return where the windows of a video begin; [0] where it is one window.

    The last one ends with the video, so that nothing is left out.
    """
    length_s = clip_length_s(p)
    if duration_s <= LONGEST_WHOLE * length_s:
        return [0.0]
    last_s = duration_s - length_s
    starts_s = np.arange(0, last_s, stride_s).tolist()
    if last_s - starts_s[-1] > 0.5 / p.fps:
        starts_s.append(last_s)
    return starts_s


def window_times_s(duration_s: float, p: FramesParams, stride_s: float) -> np.ndarray:
    """Return the times [windows, count] at which frames are taken."""
    starts_s = window_starts_s(duration_s, p, stride_s)
    if len(starts_s) == 1:
        return sample_times(duration_s, p)[None]
    return np.array(starts_s)[:, None] + np.arange(p.count) / p.fps


def read(task: ReadingTask) -> ReadVideo:
    """Return the windows of a video (runs in a worker)."""
    if isinstance(task.video, VideoArray):
        return read_array(task.video, task.frames, task.stride_s)
    return read_file(Path(task.video), task.frames, task.stride_s)


def read_file(path: Path, p: FramesParams, stride_s: float) -> ReadVideo:
    """Return the windows of a file."""
    places = np.array([], int)  # of the windows' frames among those that are decoded
    refused: dict[str, str] = {}

    def choose(shown: pictures.ShownFrames) -> np.ndarray:
        nonlocal places, refused
        refused = _refusal(shown.duration_s, len(shown.times_s), p)
        if refused["status"] != "ok":
            return np.array([], int)
        times_s = window_times_s(shown.duration_s, p, stride_s)
        indices, places = np.unique(on_screen(shown.times_s, times_s), return_inverse=True)
        return indices

    try:
        has_audio = pictures.probe(path)["has_audio"]
        shown, jpegs = pictures.read_frames(path, choose, partial(small_jpeg, p=p))
        if refused["status"] != "ok":
            return ReadVideo([], **refused)
        samples = None
        if has_audio:
            samples = sound.decode_sound(path, shown.start_s, shown.duration_s)
    except untrusted.MediaError as error:
        return ReadVideo([], error.status, error.reason)
    in_windows = [jpegs[place] for place in places.ravel()]
    return ReadVideo(cut(in_windows, samples, shown.duration_s, p, stride_s))


def read_array(video: VideoArray, p: FramesParams, stride_s: float) -> ReadVideo:
    """Return the windows of decoded frames."""
    shape = video.frames.shape
    if len(shape) != 4 or shape[3] != 3 or video.frames.dtype != np.uint8 or not video.fps > 0:
        reason = f"frames {video.frames.dtype} {list(shape)} at {video.fps:g} fps"
        return ReadVideo([], "unreadable", f"{reason}, not uint8 [T, H, W, 3] at fps > 0")
    duration_s = len(video.frames) / video.fps
    refused = _refusal(duration_s, len(video.frames), p)
    if refused["status"] != "ok":
        return ReadVideo([], **refused)

    shown_s = np.arange(len(video.frames)) / video.fps
    indices = on_screen(shown_s, window_times_s(duration_s, p, stride_s)).ravel()
    jpegs = {}
    for index in np.unique(indices):
        bgr = np.ascontiguousarray(video.frames[index][..., ::-1])
        jpegs[index] = small_jpeg(bgr, p)
    samples = video.sound
    if samples is not None and samples.dtype != np.int16:
        samples = np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
    return ReadVideo(cut([jpegs[i] for i in indices], samples, duration_s, p, stride_s))


def _refusal(duration_s: float, shown: int, p: FramesParams) -> dict[str, str]:
    """Status and reason of a video; a longer one has windows of the exact number of frames."""
    frame_count = min(round(duration_s * p.fps), p.count) if shown > 1 else 0
    if duration_s <= LONGEST_WHOLE * clip_length_s(p):
        frame_count = round(duration_s * p.fps)
    return refusal(shown, frame_count, p)


def cut(
    jpegs: list[bytes],
    samples: np.ndarray | None,
    duration_s: float,
    p: FramesParams,
    stride_s: float,
) -> list[Window]:
    """Return the windows of a video's sampled frames, one window's after the other, and sound."""
    starts_s = window_starts_s(duration_s, p, stride_s)
    length_s = duration_s if len(starts_s) == 1 else clip_length_s(p)
    size = round(length_s * codecs.SAMPLE_RATE_HZ)
    windows = []
    for number, start_s in enumerate(starts_s):
        own_samples = None
        if samples is not None:
            first = round(start_s * codecs.SAMPLE_RATE_HZ)
            own_samples = samples[first : first + size]
        own_jpegs = jpegs[number * p.count : (number + 1) * p.count]
        windows.append(Window(start_s, start_s + length_s, own_jpegs, own_samples))
    return windows
