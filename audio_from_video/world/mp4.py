"""Writing a small video file with sound: h264 and AAC in mp4, byte for byte reproducible."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_mp4(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: Fraction,
    size_px: int,
    sound: np.ndarray | None,
    sound_rate_hz: int,
) -> None:
    """Write a file whose bytes depend on the input alone.

    frames: RGB [size_px, size_px, 3] uint8 each, `rate` a second.
    sound: float32 [n], mono, -1..1; None for a file without audio track.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    # One thread, as more of them divide the work by the machine's cores.  The fastest preset and
    # coder take half the time of the next ones, at the same error and in files a fifth larger.
    video_options = {"preset": "ultrafast", "crf": "23", "threads": "1"}
    audio_options = {"aac_coder": "fast"}
    with av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream("libx264", rate, options=video_options)
        video.width = size_px
        video.height = size_px
        video.pix_fmt = "yuv420p"
        if sound is not None:
            audio = container.add_stream("aac", sound_rate_hz, audio_options, layout="mono")
            audio.bit_rate = 48_000
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate = sound_rate_hz
            block.pts = 0
            block.time_base = Fraction(1, sound_rate_hz)
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    os.replace(temporary, path)
