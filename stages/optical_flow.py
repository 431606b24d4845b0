"""Dense optical flow between consecutive frames, drawn as colour images.

Reads    data/frames
Writes   data/optical_flow, a row per clip:
             jpegs    list<binary>[count]   BGR images: hue = direction, value = magnitude; the
                                            first one is the second's copy
Farneback's polynomial expansion (Farneback 2003; cv2.calcOpticalFlowFarneback) on grey frames.  The
magnitude is drawn on a fixed scale (`optical_flow.full_scale_px`): normalising each frame, as is
often done, would erase how much moves.
"""

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from audio_from_video.media import codecs
from audio_from_video.media.settings import OpticalFlowParams
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `draw_clip`; raise it when the output for the same input and parameters changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "opencv-contrib-python-headless")
COLUMNS = pa.schema([("jpegs", pa.list_(pa.binary()))])


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


def main(stage: stage_run.StageRun) -> None:
    p = params.load("optical_flow", OpticalFlowParams)
    clips = shards.inputs(layout.FRAMES)
    version = item_store.version("optical_flow", CODE_VERSION, p.model_dump(), libraries=LIBRARIES)

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return parallel.map_items(draw_clip, tasks, stage.workers, time_limit_s())

    with ClipItems("optical_flow", version, COLUMNS) as items:
        rows = shards.iter_rows(layout.FRAMES, ["jpegs"])
        tasks = ((row["clip_id"], (row["jpegs"], p)) for row in rows)
        items.fill(stage, clips, tasks, compute)
        index = items.pack(layout.OPTICAL_FLOW, clips)
    stage.write_metrics({"clips": accounting.status_counts(index)})


if __name__ == "__main__":
    stage_run.main(main, __doc__, "optical_flow")
