"""Sampling the frames of a video by time stamp, and shrinking them.

A sample is the frame on screen at k / fps.  `int(fps / 6)` as a step would give 18 frames at 24, 30
and 60 fps, but 19 at 25 and 23 at 29.97: keeping "exactly 18" would then select by camera.
"""

from functools import partial
from typing import Any

import cv2
import numpy as np

from audio_from_video.media import codecs, pictures, untrusted
from audio_from_video.media.settings import FramesParams
from audio_from_video.media.untrusted import Place

MAX_COUNT = 2**31 - 1  # what frame_count can hold; a file may claim any duration
# Absorbs the rounding of container time bases (Matroska's is a millisecond).  At exactly 1 ms, the
# frames of 29.97 fps would meet the grid in ties that rounding decides.
TOLERANCE_S = 1.2e-3


def sample_times(duration_s: float, p: FramesParams) -> np.ndarray:
    """Return the times [count or n] in seconds at which frames are taken.

    `exact`: the grid k / fps, n = round(duration x fps).  `all`: `count` times spread evenly over
    the whole clip.
    """
    if p.keep == "all":
        return np.arange(p.count) * (duration_s / p.count)
    return np.arange(round(duration_s * p.fps)) / p.fps


def on_screen(frame_times_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return the index [n] of the frame on screen at each time [n].

    That is the last one whose time stamp is not after it, by TOLERANCE_S.
    """
    return np.searchsorted(frame_times_s, times_s + TOLERANCE_S, side="right").clip(1) - 1


def extract(task: tuple[Place, pictures.Part | None, FramesParams]) -> dict:
    """Return the frames of one clip as JPEG, and their times (runs in a worker).

    task: the file, the part of it that is the clip (None: all of it), and the parameters.
    """
    place, part, p = task
    row: dict[str, Any] = {"jpegs": [], "frame_count": 0, "duration_s": 0.0, "start_s": 0.0}
    row |= {"times_s": np.zeros(p.count), "status": "ok", "reason": ""}

    def choose(shown: pictures.ShownFrames) -> np.ndarray:
        row["duration_s"] = shown.duration_s
        row["frame_count"] = min(round(shown.duration_s * p.fps), MAX_COUNT)
        row.update(refusal(shown.count, row["frame_count"], p))
        if row["status"] != "ok":
            return np.array([], int)
        row["times_s"] = sample_times(shown.duration_s, p)
        return on_screen(shown.times_s, row["times_s"])

    try:
        shrink = partial(small_jpeg, p=p)
        file = untrusted.of_place(place)
        shown, row["jpegs"] = pictures.read_frames(file, choose, shrink, part)
        row["start_s"] = shown.start_s
    except untrusted.MediaError as error:
        row |= {"status": error.status, "reason": error.reason}
    return row


def refusal(shown: int, frame_count: int, p: FramesParams) -> dict[str, str]:
    """Return status and reason of a clip that shows so many frames, `frame_count` at `fps`."""
    if shown < 2:
        return {"status": "too_short", "reason": "one frame only: nothing moves"}
    if p.keep == "exact" and frame_count != p.count:
        reason = f"{frame_count} frames at {p.fps:g} fps, not {p.count}"
        return {"status": "wrong_frame_count", "reason": reason}
    return {"status": "ok", "reason": ""}


def small_jpeg(image: np.ndarray, p: FramesParams) -> bytes:
    """Return a BGR image [H, W, 3] as JPEG whose shorter side has at most `size_px`."""
    return codecs.encode_jpeg(shrunk(image, p.size_px), p.jpeg_quality)


def shrunk(image: np.ndarray, size_px: int) -> np.ndarray:
    """Return an image [H, W, C] whose shorter side has at most `size_px`.

    Larger images are scaled by area averaging; smaller ones stay as they are.
    """
    height, width = image.shape[:2]
    scale = size_px / min(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)
