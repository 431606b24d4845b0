"""Dense optical flow between the frames of a clip, drawn as colour images.

Farneback's polynomial expansion (Farneback 2003; cv2.calcOpticalFlowFarneback) on grey frames.  The
magnitude is drawn on a fixed scale (`optical_flow.full_scale_px`): normalising each frame, as is
often done, would erase how much moves.
"""

import cv2
import numpy as np

from audio_from_video.media import codecs
from audio_from_video.media.settings import OpticalFlowParams


def farneback(previous: np.ndarray, following: np.ndarray, p: OpticalFlowParams) -> np.ndarray:
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


def draw_clip(task: tuple[list[bytes], OpticalFlowParams]) -> dict:
    """Return the flow images of one clip's frames (runs in a worker)."""
    jpegs, p = task
    frames = [cv2.cvtColor(codecs.decode_jpeg(jpeg), cv2.COLOR_BGR2GRAY) for jpeg in jpegs]
    images = []
    for previous, following in zip(frames, frames[1:], strict=False):
        flow = farneback(previous, following, p)
        images.append(codecs.encode_jpeg(flow_image(flow, p.full_scale_px), p.jpeg_quality))
    return {"jpegs": [images[0], *images], "status": "ok", "reason": ""}
