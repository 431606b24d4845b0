"""How much moves in each frame of a clip, and in which of them more moves than is usual.

The flow is that of dense inverse search (Kroeger et al. 2016; cv2.DISOpticalFlow) on grey frames.
`camera: subtract` takes the camera's motion off first: the translation, rotation and zoom on which
most of the flow agrees (RANSAC, Fischler and Bolles 1981).
"""

import cv2
import numpy as np

from audio_from_video.media import codecs

SMALLEST_PX = 16  # DISOpticalFlow fails on smaller images
GRID = 24  # vectors along each side of the image, from which the camera's motion is estimated
# Vectors agree with the camera's motion that lie so close to it, as a share of the shorter side: a
# pixel at 96 px.
AGREE_SHARE = 1 / 96
AGREE_FRACTION = 0.25  # where fewer agree, rotation and zoom are guesswork


def camera_motion(flow: np.ndarray) -> np.ndarray:
    """Return the part [H, W, 2] of a flow field [H, W, 2] that moving the camera explains.

    Where too little of the field agrees on a motion, it is the median.
    """
    height, width = flow.shape[:2]
    columns = np.linspace(0, width - 1, GRID).astype(int)
    rows = np.linspace(0, height - 1, GRID).astype(int)
    x, y = np.meshgrid(columns, rows)
    points = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    vectors = flow[y, x].reshape(-1, 2)
    matrix, agree = cv2.estimateAffinePartial2D(
        points,
        points + vectors,
        method=cv2.RANSAC,
        ransacReprojThreshold=AGREE_SHARE * min(height, width),
    )
    if matrix is None or agree.mean() < AGREE_FRACTION:
        return np.broadcast_to(np.median(vectors, axis=0), flow.shape)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)  # [H, W, 2] (x, y)
    return places @ (matrix[:, :2] - np.eye(2)).T + matrix[:, 2]


def mean_magnitudes(task: tuple[list[bytes], str]) -> dict:
    """Return `magnitudes` [T] of one clip's frames as JPEG (runs in a worker)."""
    jpegs, camera = task
    cv2.setNumThreads(1)
    # RANSAC draws: the same for a clip whatever was computed before it.
    cv2.setRNGSeed(0)
    # MEDIUM takes 12 ms a clip at 96 px (FAST 3, Farneback 21) and smears small things least: what
    # a 20 px object moves comes out 1.6 times too large, with FAST 2.1 times.
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    images = [cv2.cvtColor(codecs.decode_jpeg(jpeg), cv2.COLOR_BGR2GRAY) for jpeg in jpegs]
    height, width = images[0].shape
    margin = ((0, max(0, SMALLEST_PX - height)), (0, max(0, SMALLEST_PX - width)))
    padded = [np.pad(image, margin, mode="edge") for image in images]
    magnitudes = []
    for previous, following in zip(padded, padded[1:], strict=False):
        flow = search.calc(previous, following, None)[:height, :width]
        if camera == "subtract":
            flow = flow - camera_motion(flow)
        magnitudes.append(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64))
    return {"magnitudes": np.array([magnitudes[0], *magnitudes]), "status": "ok", "reason": ""}


def above(magnitudes: np.ndarray, threshold: float) -> np.ndarray:
    """Return which of [..., T] magnitudes exceed `threshold` x their clip's mean."""
    magnitudes = magnitudes.astype(np.float64)
    return magnitudes > threshold * magnitudes.mean(-1, keepdims=True)


def choose(magnitudes: np.ndarray, threshold: float) -> np.ndarray:
    """Return the representative frames, bool [..., T]: those above, else the largest."""
    moving = above(magnitudes, threshold)
    largest = np.arange(magnitudes.shape[-1]) == magnitudes.argmax(-1)[..., None]
    return np.where(moving.any(-1, keepdims=True), moving, largest)
