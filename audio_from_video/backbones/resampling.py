"""Pillow's resampling of 8-bit images, bit for bit, for batches on any device.

Models were trained on pictures that Pillow resized.  torch.nn.functional.interpolate has the same
filters with antialias, but rounds elsewhere: measured on noise, its uint8 kernel differs by up to
2 of 255 where Pillow goes along the width first, and by up to 25 where it does not.  The filters
and the fixed-point arithmetic are those of Pillow's src/libImaging/Resample.c.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

PRECISION_BITS = 22  # behind the point of a weight: 32 without 8 of the pixel and 2 for overshoot
NEAREST = 0


def _box(x: np.ndarray) -> np.ndarray:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.maximum(0, 1 - np.abs(x))


def _hamming(x: np.ndarray) -> np.ndarray:
    window = np.float32(0.54) + np.float64(np.float32(0.46)) * np.cos(np.pi * x)
    return np.where(np.abs(x) < 1, np.sinc(x) * window, 0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981 with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0)


# PIL.Image.Resampling's numbers, as `resample` of a preprocessor has them: filter and its support.
FILTERS = {
    1: (_lanczos, 3.0),
    2: (_bilinear, 1.0),
    3: (_bicubic, 2.0),
    4: (_box, 0.5),
    5: (_hamming, 1.0),
}
NUMBERS = {NEAREST, *FILTERS}


class Taps(NamedTuple):
    """Which pixels make a new one along an axis: their positions and weights [new, K].

    Weights are integers, in units of 2 ** -PRECISION_BITS; those of unused taps are 0.
    """

    positions: np.ndarray
    weights: np.ndarray


@lru_cache(maxsize=64)
def taps(old: int, new: int, resample: int) -> Taps:
    """Return the taps of an axis of `old` pixels that gets `new` ones."""
    scale = old / new
    if resample == NEAREST:
        # Pillow adds the scale up, and its rounding decides where a centre lies between two pixels.
        centres = np.cumsum([scale * 0.5] + [scale] * (new - 1))
        positions = np.minimum(np.floor(centres), old - 1).astype(np.int64)
        return Taps(positions[:, None], np.full((new, 1), 1 << PRECISION_BITS, np.int64))

    centres = (np.arange(new) + 0.5) * scale
    function, support = FILTERS[resample]
    widening = max(scale, 1.0)
    reach = support * widening
    first = np.maximum(np.trunc(centres - reach + 0.5), 0)
    last = np.minimum(np.trunc(centres + reach + 0.5), old)  # exclusive
    steps = np.arange(int((last - first).max()))
    positions = first[:, None] + steps  # [new, K]
    values = function((positions - centres[:, None] + 0.5) / widening)
    values = np.where(positions < last[:, None], values, 0)
    values = values / values.sum(1, keepdims=True)
    scaled = values * (1 << PRECISION_BITS)
    weights = np.trunc(scaled + np.copysign(0.5, scaled))
    return Taps(np.minimum(positions, old - 1).astype(np.int64), weights.astype(np.int64))


def resize(images, height: int, width: int, resample: int):
    """Return images [..., H, W] uint8 as [..., height, width] uint8 on the same device.

    resample: a number of PIL.Image.Resampling.
    """
    rows_lost = images.shape[-2] - height
    columns_lost = images.shape[-1] - width
    # The order of Pillow 13; earlier ones always begin with the columns.
    if rows_lost > max(0, 2 * columns_lost):
        return _along(_along(images, -2, height, resample), -1, width, resample)
    return _along(_along(images, -1, width, resample), -2, height, resample)


def _along(images, axis: int, new: int, resample: int):
    """Return images resampled along one axis, rounded to uint8 as Pillow does between axes."""
    import torch

    old = images.shape[axis]
    if new == old:
        return images
    positions, weights = (
        torch.from_numpy(part).to(images.device) for part in taps(old, new, resample)
    )
    column = (new, 1) if axis == -2 else (new,)
    shape = list(images.shape)
    shape[axis] = new
    sums = torch.full(shape, 1 << (PRECISION_BITS - 1), dtype=torch.int32, device=images.device)
    for tap in range(weights.shape[1]):
        pixels = images.index_select(axis, positions[:, tap])
        sums += pixels * weights[:, tap].int().view(column)
    return (sums >> PRECISION_BITS).clamp(0, 255).to(torch.uint8)
