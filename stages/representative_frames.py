"""Representative frames: those in which more moves than is usual in their clip.

Reads    data/frames; for metrics alone data/truth.parquet
Writes   data/representative_frames, a row per clip of T = `frames.count` steps:
             magnitudes tensor float32 [T]   mean magnitude of the flow from the frame before, px of
             the stored frames per
                                             step; the first frame, which has none before it, takes
                                             the second's
             chosen     list<bool> [T]       magnitude above `representative_frames.threshold` x the
             mean of `magnitudes`;
                                             where no frame is above, the largest (the first of
                                             equals)
             steps      list<int32>          the chosen frames' indices, ascending, at least one
         metrics/figures/representative_frames.png
Flow is found by dense inverse search (Kroeger et al.  2016; cv2.DISOpticalFlow) on grey frames.
`camera: subtract` takes the camera's motion off first: the translation, rotation and zoom on which
most of the flow agrees (RANSAC, Fischler and Bolles 1981).  The metrics compare thresholds
(research description: 1.1 takes too many frames, 1.3 loses real moments) on all clips but the test
clips.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from audio_from_video.evaluation import motion as motion_evaluation
from audio_from_video.media import codecs
from audio_from_video.reporting import motion_figure
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

CODE_VERSION = (
    1  # of `mean_magnitudes`; raise it when the output for the same input and parameters changes
)
LIBRARIES = ("numpy", "opencv-contrib-python-headless")
FRAMES, OUTPUT = layout.FRAMES, layout.REPRESENTATIVE_FRAMES
THRESHOLDS = (1.1, 1.2, 1.3)  # of the table, beside the current one
MEASURED = ("training", "validation", "unlabelled")  # the threshold is a choice: no test clips
SMALLEST_PX = 16  # DISOpticalFlow fails on smaller images
GRID = 24  # vectors along each side of the image, from which the camera's motion is estimated
AGREE_PX = 1.0  # vectors that lie so close to the camera's motion agree with it
AGREE_FRACTION = 0.25  # where fewer agree, rotation and zoom are guesswork


class RepresentativeFramesParams(params.Section):
    threshold: float = Field(gt=0, le=10)
    camera: Literal["keep", "subtract"]


def camera_motion(flow: np.ndarray) -> np.ndarray:
    """The part [H, W, 2] of a flow field [H, W, 2] that moving the camera explains; the median where too little agrees."""
    import cv2

    height, width = flow.shape[:2]
    x, y = np.meshgrid(
        np.linspace(0, width - 1, GRID).astype(int), np.linspace(0, height - 1, GRID).astype(int)
    )
    points, vectors = (
        np.stack([x, y], -1).reshape(-1, 2).astype(np.float32),
        flow[y, x].reshape(-1, 2),
    )
    matrix, agree = cv2.estimateAffinePartial2D(
        points, points + vectors, method=cv2.RANSAC, ransacReprojThreshold=AGREE_PX
    )
    if matrix is None or agree.mean() < AGREE_FRACTION:
        return np.broadcast_to(np.median(vectors, axis=0), flow.shape)
    places = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)  # [H, W, 2] (x, y)
    return places @ (matrix[:, :2] - np.eye(2)).T + matrix[:, 2]


def mean_magnitudes(task: tuple[list[bytes], str]) -> dict:
    """How much moves in each frame of one clip (runs in a worker)."""
    import cv2

    jpegs, camera = task
    cv2.setNumThreads(1)
    cv2.setRNGSeed(0)  # RANSAC draws: the same for a clip whatever was computed before it
    # MEDIUM takes 12 ms a clip at 96 px (FAST 3, Farneback 21) and smears small things least: what
    # a 20 px object moves comes out 1.6 times too large, with FAST 2.1 times.
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(codecs.decode_jpeg(jpeg), cv2.COLOR_BGR2GRAY) for jpeg in jpegs]
    height, width = grey[0].shape
    margin = ((0, max(0, SMALLEST_PX - height)), (0, max(0, SMALLEST_PX - width)))
    grey = [np.pad(image, margin, mode="edge") for image in grey]
    found = []
    for previous, following in zip(grey, grey[1:], strict=False):
        flow = search.calc(previous, following, None)[:height, :width]
        if camera == "subtract":
            flow = flow - camera_motion(flow)
        found.append(np.hypot(flow[..., 0], flow[..., 1]).mean(dtype=np.float64))
    return {"magnitudes": np.array([found[0], *found]), "status": "ok", "reason": ""}


def above(magnitudes: np.ndarray, threshold: float) -> np.ndarray:
    """Which of [..., T] magnitudes exceed `threshold` x their clip's mean."""
    magnitudes = magnitudes.astype(np.float64)
    return magnitudes > threshold * magnitudes.mean(-1, keepdims=True)


def choose(magnitudes: np.ndarray, threshold: float) -> np.ndarray:
    """The representative frames, bool [..., T]: those above, else the largest."""
    moving = above(magnitudes, threshold)
    largest = np.arange(magnitudes.shape[-1]) == magnitudes.argmax(-1)[..., None]
    return np.where(moving.any(-1, keepdims=True), moving, largest)


def decide(row: dict, threshold: float) -> dict:
    """A stored row with its decisions; they are no part of the item, so that a new threshold costs no flow."""
    if row["status"] != "ok":
        return row
    chosen = choose(row["magnitudes"], threshold)
    return row | {"chosen": chosen.tolist(), "steps": np.flatnonzero(chosen).tolist()}


def compare_thresholds(thresholds: set[float]) -> dict:
    """What each threshold chooses and, in rendered clips, whether that is when something happens."""
    source = {row["clip_id"]: row["source_id"] for row in shards.ok_rows(OUTPUT)}
    times_s = {
        row["clip_id"]: row["times_s"] for row in shards.iter_rows(FRAMES, ["times_s"], MEASURED)
    }
    clips = list(shards.iter_rows(OUTPUT, ["magnitudes"], MEASURED))
    if not clips:
        return {}
    events = motion_evaluation.event_steps(
        {clip["clip_id"]: times_s[clip["clip_id"]] for clip in clips}
    )
    magnitudes = np.stack([clip["magnitudes"] for clip in clips])  # [N, T]
    found = {}
    for threshold in sorted(thresholds):
        chosen = choose(magnitudes, threshold)
        exact = motion_evaluation.hits(chosen, list(events.values()), 0)
        found[f"{threshold:g}"] = {
            "clips": len(clips),
            "sources": len({source[clip["clip_id"]] for clip in clips}),
            "frames_per_clip": float(chosen.sum(1).mean()),
            "clips_without": float(1 - above(magnitudes, threshold).any(1).mean()),
            **motion_evaluation.hits(chosen, list(events.values())),
            **{f"{name}_exact": value for name, value in exact.items()},
        }
    return found


def draw(path: Path, index: list[dict], threshold: float) -> None:
    """The figure: the first validation clip (else training clip) of some actions."""
    for split in ("validation", "training"):
        first = {
            row["action"]: row["clip_id"]
            for row in reversed(index)
            if row["split"] == split and row["status"] == "ok"
        }
        if first:
            break
    names = [first[action] for action in sorted(first)]
    wanted = [
        names[i]
        for i in np.linspace(0, len(names) - 1, min(motion_evaluation.STRIPS, len(names))).astype(
            int
        )
    ]
    frames = {
        row["clip_id"]: row
        for row in shards.iter_rows(FRAMES, ["jpegs", "times_s"], [split])
        if row["clip_id"] in wanted
    }
    motion = [
        row
        for row in shards.iter_rows(OUTPUT, ["magnitudes", "chosen"], [split])
        if row["clip_id"] in wanted
    ]
    motion_figure.draw_strips(path, [frames[row["clip_id"]] | row for row in motion], threshold)


def main(stage: stage_run.StageRun) -> None:
    p = params.load("representative_frames", RepresentativeFramesParams)
    clips = shards.inputs(FRAMES)
    stored = pa.schema(
        [("magnitudes", shards.tensor(pa.float32(), *shards.tensor_shape(FRAMES, "times_s")))]
    )
    columns = pa.schema(
        [*stored, ("chosen", pa.list_(pa.bool_())), ("steps", pa.list_(pa.int32()))]
    )
    version = item_store.version(
        "representative_frames", CODE_VERSION, p.camera, libraries=LIBRARIES
    )
    with ClipItems("representative_frames", version, stored) as items:
        rows = shards.iter_rows(FRAMES, ["jpegs"])
        frames = ((row["clip_id"], (row["jpegs"], p.camera)) for row in rows)
        items.fill(
            stage,
            clips,
            frames,
            lambda tasks: parallel.map_items(mean_magnitudes, tasks, stage.workers, time_limit_s()),
        )
        index = items.pack(
            OUTPUT,
            clips,
            columns,
            finish=lambda row: decide(row, p.threshold),
            finished_by=(p.threshold,),
        )
    draw(layout.REPRESENTATIVE_FRAMES_FIGURE, index, p.threshold)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "thresholds": compare_thresholds({*THRESHOLDS, p.threshold}),
        }
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "representative_frames")
