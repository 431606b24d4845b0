"""Dense optical flow between consecutive frames, drawn as colour images.

Reads    data/frames
Writes   data/optical_flow, a row per clip:
             jpegs    list<binary>[count]   BGR images: hue = direction, value = magnitude; the
                                            first one is the second's copy
How flow is computed and drawn: audio_from_video/media/optical_flow.py.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from audio_from_video.media.optical_flow import draw_clip
from audio_from_video.media.settings import OpticalFlowParams
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `draw_clip` (media/optical_flow.py); raise it when the output for the same input and parameters
# changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "opencv-contrib-python-headless")
COLUMNS = pa.schema([("jpegs", pa.list_(pa.binary()))])


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
    stage_run.main(main, __doc__, "optical_flow", in_parts=True)
