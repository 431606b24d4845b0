"""Resizing against Pillow itself, for each of its filters."""

import numpy as np
import PIL
import PIL.Image
import pytest
import torch

from audio_from_video.backbones import resampling

ROWS_FIRST = ((100, 64), (40, 40))  # Pillow begins with the rows
SIZES = [  # height and width before and after
    ((64, 100), (50, 78)),
    ROWS_FIRST,
    ((24, 24), (56, 56)),
    ((33, 31), (1, 2)),
    ((3, 2), (40, 70)),
    ((32, 32), (32, 20)),
    ((32, 32), (32, 32)),
]


@pytest.mark.parametrize("resample", sorted(resampling.NUMBERS))
@pytest.mark.parametrize("old, new", SIZES)
def test_pixels_are_pillows(old, new, resample):
    images = np.random.default_rng(0).integers(0, 256, (3, *old, 3), dtype=np.uint8)
    images[0] = np.where(images[0] > 127, 255, 0)  # hard edges, where bicubic overshoots
    height, width = new
    if (old, new) == ROWS_FIRST and int(PIL.__version__.split(".")[0]) < 13:
        pytest.skip("earlier versions of Pillow always begin with the columns")
    expected = [
        np.asarray(PIL.Image.fromarray(image).resize((width, height), resample)) for image in images
    ]
    resized = resampling.resize(
        torch.from_numpy(images).permute(0, 3, 1, 2), height, width, resample
    )
    assert resized.dtype == torch.uint8
    assert np.array_equal(resized.permute(0, 2, 3, 1).numpy(), np.stack(expected))


@pytest.mark.parametrize("resample", sorted(resampling.FILTERS))
def test_weights_of_a_pixel_sum_to_one(resample):
    weights = resampling.taps(77, 30, resample).weights.sum(1) / 2**resampling.PRECISION_BITS
    assert np.allclose(weights, 1, atol=1e-5)
