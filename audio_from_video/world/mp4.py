"""Writing a small video file with sound: h264 and AAC in mp4, byte for byte reproducible."""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def encode(
    path: Path,
    frames: Iterator[np.ndarray],
    rate: Fraction,
    size_px: int,
    sound: np.ndarray | None,
    sound_rate_hz: int,
) -> None:
    """Write frames [size_px, size_px, 3] (RGB) and sound [n] (mono, -1..1, or None) as mp4; the same input gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with av.open(str(temporary), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        video = container.add_stream(
            "libx264", rate, options={"preset": "superfast", "crf": "23", "threads": "1"}
        )
        video.width = video.height = size_px
        video.pix_fmt = "yuv420p"
        if sound is not None:
            audio = container.add_stream("aac", sound_rate_hz, layout="mono")
            audio.bit_rate = 48_000
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts, block.time_base = (
                sound_rate_hz,
                0,
                Fraction(1, sound_rate_hz),
            )
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
        for image in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
    os.replace(temporary, path)
