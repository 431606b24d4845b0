"""Representative frames: those in which more moves than is usual in their clip.

Reads    data/frames; for metrics and figure alone data/truth.parquet
Writes   data/representative_frames, a row per clip of T = `frames.count` steps:
             magnitudes tensor float32 [T]   mean magnitude of the flow from the frame before, in px
                                             of the stored frames per step; the first frame, which
                                             has none before it, takes the second's
             chosen     list<bool> [T]       magnitude above `representative_frames.threshold` x the
                                             mean of `magnitudes`; where no frame is above, the
                                             largest (the first of equals)
             steps      list<int32>          the chosen frames' indices, ascending, at least one
         metrics/figures/representative_frames.png
How motion is measured: audio_from_video/media/motion.py.  The metrics compare thresholds on all
clips but the test clips.  In the research this pipeline follows, 1.1 took too many frames and 1.3
lost real moments.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from audio_from_video.evaluation import motion as motion_evaluation
from audio_from_video.media.motion import above, choose, mean_magnitudes
from audio_from_video.media.settings import RepresentativeFramesParams
from audio_from_video.reporting import motion_figure
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `mean_magnitudes` (media/motion.py); raise it when the output for the same input and parameters
# changes.
CODE_VERSION = 1
LIBRARIES = ("numpy", "opencv-contrib-python-headless")
OUTPUT = layout.REPRESENTATIVE_FRAMES
THRESHOLDS = (1.1, 1.2, 1.3)  # of the table, beside the current one
TABLE_SPLITS = ("training", "validation", "unlabelled")  # the threshold is a choice: no test clips
FIGURE_CLIPS = 5


def decide(row: dict, threshold: float) -> dict:
    """Return a stored row with its decisions.

    They are no part of the stored item, so that a new threshold costs no flow.
    """
    if row["status"] != "ok":
        return row
    chosen = choose(row["magnitudes"], threshold)
    return row | {"chosen": chosen.tolist(), "steps": np.flatnonzero(chosen).tolist()}


def threshold_figures(thresholds: set[float]) -> dict[str, dict[str, float]]:
    """Return by threshold what it chooses and whether events of rendered clips happen then."""
    clips = list(shards.iter_rows(OUTPUT, ["magnitudes"], TABLE_SPLITS))
    if not clips:
        return {}
    times_s = {}
    for row in shards.iter_rows(layout.FRAMES, ["times_s"], TABLE_SPLITS):
        times_s[row["clip_id"]] = row["times_s"]
    names = [clip["clip_id"] for clip in clips]
    events = list(motion_evaluation.event_steps({name: times_s[name] for name in names}).values())
    source_ids = {row["clip_id"]: row["source_id"] for row in shards.ok_rows(OUTPUT)}
    sources = len({source_ids[name] for name in names})
    magnitudes = np.stack([clip["magnitudes"] for clip in clips])  # [N, T]

    figures = {}
    for threshold in sorted(thresholds):
        chosen = choose(magnitudes, threshold)
        exact = motion_evaluation.event_agreement(chosen, events, tolerance=0)
        figures[f"{threshold:g}"] = {
            "clips": len(clips),
            "sources": sources,
            "frames_per_clip": float(chosen.sum(1).mean()),
            "clips_without": float(1 - above(magnitudes, threshold).any(1).mean()),
            **motion_evaluation.event_agreement(chosen, events),
            **{f"{name}_exact": value for name, value in exact.items()},
        }
    return figures


def figure_clips(index: list[dict]) -> list[dict]:
    """Return rows of the figure's clips: the first validation clip of some actions.

    Without any validation clip they are training clips.
    """
    ok = [row for row in index if row["status"] == "ok"]
    split = "validation" if any(row["split"] == "validation" for row in ok) else "training"
    first: dict[str, str] = {}
    for row in ok:
        if row["split"] == split:
            first.setdefault(row["action"], row["clip_id"])
    names = [first[action] for action in sorted(first)]
    count = min(FIGURE_CLIPS, len(names))
    spread = np.linspace(0, len(names) - 1, count).astype(int)
    drawn = {names[i] for i in spread}

    frames = {}
    for row in shards.iter_rows(layout.FRAMES, ["jpegs", "times_s"], [split]):
        if row["clip_id"] in drawn:
            frames[row["clip_id"]] = row
    clips = []
    for row in shards.iter_rows(OUTPUT, ["magnitudes", "chosen"], [split]):
        if row["clip_id"] in drawn:
            clips.append(frames[row["clip_id"]] | row)
    return clips


def main(stage: stage_run.StageRun) -> None:
    p = params.load("representative_frames", RepresentativeFramesParams)
    clips = shards.inputs(layout.FRAMES)
    steps = shards.tensor_shape(layout.FRAMES, "times_s")
    stored = pa.schema([("magnitudes", shards.tensor(pa.float32(), *steps))])
    columns = pa.schema(
        [*stored, ("chosen", pa.list_(pa.bool_())), ("steps", pa.list_(pa.int32()))]
    )
    version = item_store.version(
        "representative_frames", CODE_VERSION, p.camera, libraries=LIBRARIES
    )

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return parallel.map_items(mean_magnitudes, tasks, stage.workers, time_limit_s())

    with ClipItems("representative_frames", version, stored) as items:
        rows = shards.iter_rows(layout.FRAMES, ["jpegs"], clip_ids=items.missing(clips))
        tasks = ((row["clip_id"], (row["jpegs"], p.camera)) for row in rows)
        items.fill(stage, clips, tasks, compute)
        index = items.pack(
            OUTPUT,
            clips,
            columns,
            finish=lambda row: decide(row, p.threshold),
            finished_by=(p.threshold,),
        )

    drawn = figure_clips(index)
    events = motion_evaluation.event_steps({clip["clip_id"]: clip["times_s"] for clip in drawn})
    motion_figure.write_motion_figure(
        layout.REPRESENTATIVE_FRAMES_FIGURE, drawn, events, p.threshold
    )
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "thresholds": threshold_figures({*THRESHOLDS, p.threshold}),
        }
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "representative_frames", in_parts=True)
