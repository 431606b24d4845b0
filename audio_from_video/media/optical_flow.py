"""Dense optical flow between the frames of a clip, drawn as colour images.

Farneback's polynomial expansion (Farneback 2003; cv2.calcOpticalFlowFarneback) on grey frames.  The
magnitude is drawn on a fixed scale (`optical_flow.full_scale_px`): normalising each frame, as is
often done, would erase how much moves.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from audio_from_video.media import codecs
from audio_from_video.media.frames import shrunk
from audio_from_video.media.settings import FlowParams

QUANTILES = 1001  # of a clip's displacements, evenly spaced
# 8 px, the scale of the rendered sample at 96 px, is the 99th percentile of its displacements.
SCALE_PERCENTILE = 99
SMALLEST_SCALE_PX = 0.1  # where nothing moves
THUMBNAIL_PX = 64  # shorter side, as high as the report shows flow


def farneback(previous: np.ndarray, following: np.ndarray, p: FlowParams) -> np.ndarray:
    """Return displacements [H, W, 2] (x, y) in px per step between grey images [H, W] uint8."""
    return cv2.calcOpticalFlowFarneback(
        previous,
        following,
        None,
        p.pyramid_scale,
        p.levels,
        p.window_px,
        p.iterations,
        p.polynomial_px,
        p.polynomial_sigma,
        0,
    )


def flow_image(flow: np.ndarray, full_scale_px: float) -> np.ndarray:
    """Return a flow field [H, W, 2] as a BGR image [H, W, 3] uint8.

    Hue is direction (0-179 for 360 degrees), value is magnitude, clipped at `full_scale_px`.
    """
    magnitude, angle = cv2.cartToPolar(flow[..., 0], flow[..., 1], angleInDegrees=True)
    hsv = np.full((*flow.shape[:2], 3), 255, np.uint8)
    hsv[..., 0] = (np.rint(angle / 2) % 180).astype(np.uint8)
    hsv[..., 2] = np.rint(np.minimum(magnitude / full_scale_px, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def draw_clip(task: tuple[list[bytes], FlowParams]) -> dict:
    """Return the flow images of one clip's frames (runs in a worker).

    The scale must be a number: `optical_flow` has found it where params.yaml says `auto`.
    """
    jpegs, p = task
    scale_px = float(p.full_scale_px)
    images = []
    for flow in _fields(jpegs, p):
        images.append(codecs.encode_jpeg(flow_image(flow, scale_px), p.jpeg_quality))
    return {"jpegs": [images[0], *images], "status": "ok", "reason": ""}


def draw_thumbnails(task: tuple[list[bytes], FlowParams]) -> dict:
    """Return small flow images of one clip, drawn from small frames (runs in a worker).

    They are to look at: models know those of `draw_clip`.
    """
    jpegs, p = task
    small = []
    for jpeg in jpegs:
        image = codecs.decode_jpeg(jpeg)
        thumbnail = shrunk(image, THUMBNAIL_PX)
        small.append(codecs.encode_jpeg(thumbnail, p.jpeg_quality))
    zoom = thumbnail.shape[0] / image.shape[0]
    return draw_clip((small, p.with_scale(float(p.full_scale_px) * zoom)))


def displacements(task: tuple[list[bytes], FlowParams]) -> dict:
    """Return QUANTILES of the displacements in one clip, px per step (runs in a worker)."""
    jpegs, p = task
    magnitudes = [np.hypot(flow[..., 0], flow[..., 1]) for flow in _fields(jpegs, p)]
    quantiles = np.quantile(np.stack(magnitudes), np.linspace(0, 1, QUANTILES))
    return {"quantiles_px": quantiles, "status": "ok", "reason": ""}


def scale_of(quantiles_px: np.ndarray) -> float:
    """Return the scale that displacements [clips, QUANTILES] call for, px, to two digits.

    SCALE_PERCENTILE of all displacements are below it.  Rounded, as it should not change with every
    clip that is added: all images would be drawn anew.
    """
    scale_px = np.percentile(quantiles_px, SCALE_PERCENTILE)
    return max(SMALLEST_SCALE_PX, float(f"{scale_px:.1e}"))


def _fields(jpegs: list[bytes], p: FlowParams) -> Iterator[np.ndarray]:
    """Yield the flow fields [H, W, 2] between a clip's frames."""
    frames = [cv2.cvtColor(codecs.decode_jpeg(jpeg), cv2.COLOR_BGR2GRAY) for jpeg in jpegs]
    for previous, following in zip(frames, frames[1:], strict=False):
        yield farneback(previous, following, p)
