"""Dense optical flow between consecutive frames, drawn as colour images.

Reads    data/frames
Writes   data/optical_flow, a row per clip:
             jpegs    list<binary>[count]   BGR images: hue = direction, value = magnitude; the
                                            first one is the second's copy
With `optical_flow.store: thumbnails` they are small ones, to look at, and `video_features` draws
those that it encodes.
Where `optical_flow.full_scale_px` is `auto`, the scale is found on training clips and stands in the
metrics; whoever draws flow images with these models needs it.
How flow is computed and drawn: audio_from_video/media/optical_flow.py.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from audio_from_video.media.optical_flow import (
    QUANTILES,
    THUMBNAIL_PX,
    displacements,
    draw_clip,
    draw_thumbnails,
    scale_of,
)
from audio_from_video.media.settings import FlowParams, OpticalFlowParams
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, fit_on, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems
from audio_from_video.storage.item_store import ItemStore

# Of media/optical_flow.py; raise it when the output for the same input and parameters changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "opencv-contrib-python-headless")
COLUMNS = pa.schema([("jpegs", pa.list_(pa.binary()))])


SCALE_COLUMNS = pa.schema(
    [
        ("quantiles_px", shards.tensor(pa.float32(), QUANTILES)),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
SCALE_CLIPS = 200  # training clips on which the scale is found, at most


def find_scale_px(clips: list[dict], p: FlowParams, stage: stage_run.StageRun) -> float:
    """Return the scale that the displacements in training clips call for.

    clips: rows of the index of data/frames.  Which of them count is drawn by hash, so that growth
    keeps most of the draw.
    """
    fitted = fit_on.fitted(clip["clip_id"] for clip in clips)
    training = [
        clip
        for clip, is_fitted in zip(clips, fitted, strict=True)
        if clip["split"] == "training" and is_fitted
    ]
    if not training:
        raise UserError("optical_flow.full_scale_px = auto needs training clips; give a number")
    training.sort(key=lambda clip: digest("scale", clip["clip_id"]))
    keys = {clip["clip_id"]: clip["input_key"] for clip in training[:SCALE_CLIPS]}
    method = p.model_dump(exclude={"full_scale_px", "jpeg_quality"})
    version = item_store.version("flow_scale", CODE_VERSION, method, libraries=LIBRARIES)

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return parallel.map_items(displacements, tasks, stage.workers, time_limit_s())

    with ItemStore("flow_scale", version, SCALE_COLUMNS) as store:
        rows = shards.iter_rows(layout.FRAMES, ["jpegs"], ["training"])
        chosen = (row for row in rows if row["clip_id"] in keys)
        tasks = ((keys[row["clip_id"]], (row["jpegs"], p)) for row in chosen)
        # Not by `stage.fill`: every part of a run needs the scale of all.
        failures = store.fill(tasks, compute, lambda items: stage.progress(items, len(keys)))
        found = [store[key]["quantiles_px"] for key in keys.values() if key not in failures]
    if not found:
        raise UserError("optical_flow.full_scale_px = auto: no clip's flow could be computed")
    return scale_of(np.stack(found))


def main(stage: stage_run.StageRun) -> None:
    settings = params.load("optical_flow", OpticalFlowParams)
    p = settings.drawing()
    clips = shards.inputs(layout.FRAMES)
    found: dict[str, float] = {}
    if p.full_scale_px == "auto":
        found["full_scale_px"] = find_scale_px(clips, p, stage)
        p = p.with_scale(found["full_scale_px"])
    draw = draw_clip
    described = [p.model_dump()]
    if settings.store == "thumbnails":
        draw = draw_thumbnails
        described.append({"thumbnail_px": THUMBNAIL_PX})
    version = item_store.version("optical_flow", CODE_VERSION, *described, libraries=LIBRARIES)

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return parallel.map_items(draw, tasks, stage.workers, time_limit_s())

    with ClipItems("optical_flow", version, COLUMNS) as items:
        rows = shards.iter_rows(layout.FRAMES, ["jpegs"], clip_ids=items.missing(clips))
        tasks = ((row["clip_id"], (row["jpegs"], p)) for row in rows)
        items.fill(stage, clips, tasks, compute)
        index = items.pack(layout.OPTICAL_FLOW, clips)
    stage.write_metrics({"clips": accounting.status_counts(index), **found})


if __name__ == "__main__":
    stage_run.main(main, __doc__, "optical_flow", in_parts=True)
