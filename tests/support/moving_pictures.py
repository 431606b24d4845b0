"""Pictures whose motion is known exactly."""

import numpy as np

from audio_from_video.media import codecs


def texture(dx_px: float, dy_px: float, size_px: int = 96) -> np.ndarray:
    """Return a smooth grey pattern [size, size] uint8, moved by (dx, dy).

    It is a formula and no shifted picture, so that half pixels are exact.
    """
    y, x = np.mgrid[:size_px, :size_px].astype(float)
    x = x - dx_px
    y = y - dy_px
    straight = np.sin(x / 3.1 + 1) * np.cos(y / 4.3)
    diagonal = np.sin((x + y) / 6.7)
    steep = np.cos((x - 2 * y) / 9.1 + 2)
    return np.rint(127.5 + 40 * (straight + diagonal + steep)).astype(np.uint8)


def moving_clip(px_per_frame: float, count: int = 6) -> list[bytes]:
    """Return JPEG files of the pattern, which moves to the right at a constant speed."""
    jpegs = []
    for k in range(count):
        grey = texture(k * px_per_frame, 0)
        jpegs.append(codecs.encode_jpeg(np.repeat(grey[..., None], 3, 2), 100))
    return jpegs
