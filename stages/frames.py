"""Sample RGB frames at 6 fps by time stamp and keep 18 per clip.

Reads    data/clips.parquet and the clip files
Writes   data/frames, a row per clip:
             jpegs      list<binary>[count]      BGR frames as JPEG, shorter side at most
                                                 `frames.size_px`
             times_s    tensor float32 [count]   the grid times the frames stand for, from the
                                                 first frame
         and in its index frame_count int32 (how many samples at `frames.fps` the clip has),
         duration_s float32 (of its decoded video; 0 where unknown) and start_s float64 (of the
         first shown frame on the file's own clock, by which `audio` places the sound).
Sampling follows the time stamps: a sample is the frame on screen at k / fps.  `int(fps / 6)` as a
step would give 18 frames at 24, 30 and 60 fps, but 19 at 25 and 23 at 29.97: keeping "exactly 18"
would then select by camera.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from audio_from_video.media import codecs, pictures, untrusted
from audio_from_video.media.settings import FramesParams
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

CODE_VERSION = 5  # of `extract`; raise it when the output for the same input and parameters changes
# PyAV decodes, OpenCV shrinks and encodes.
LIBRARIES = ("av", "numpy", "opencv-contrib-python-headless")
FAILED = {"unreadable", "no_video", "timeout", "worker_died"}
MAX_COUNT = 2**31 - 1  # what frame_count can hold; a file may claim any duration
# Absorbs the rounding of container time bases (Matroska's is a millisecond).  At exactly 1 ms, the
# frames of 29.97 fps would meet the grid in ties that rounding decides.
TOLERANCE_S = 1.2e-3
FACTS = [
    pa.field("frame_count", pa.int32()),
    pa.field("duration_s", pa.float32()),
    pa.field("start_s", pa.float64()),
]


def sample_times(duration_s: float, p: FramesParams) -> np.ndarray:
    """Return the times [count or n] in seconds at which frames are taken.

    `exact`: the grid k / fps, n = round(duration x fps).  `all`: `count` times spread evenly over
    the whole clip.
    """
    if p.keep == "all":
        return np.arange(p.count) * (duration_s / p.count)
    return np.arange(round(duration_s * p.fps)) / p.fps


def on_screen(frame_times_s: np.ndarray, times_s: np.ndarray) -> np.ndarray:
    """Return the index [n] of the frame on screen at each time [n].

    That is the last one whose time stamp is not after it, by TOLERANCE_S.
    """
    return np.searchsorted(frame_times_s, times_s + TOLERANCE_S, side="right").clip(1) - 1


def extract(task: tuple[str, FramesParams]) -> dict:
    """Return the frames of one clip file as JPEG, and their times (runs in a worker)."""
    path, p = task
    row: dict[str, Any] = {"jpegs": [], "frame_count": 0, "duration_s": 0.0, "start_s": 0.0}
    row |= {"times_s": np.zeros(p.count), "status": "ok", "reason": ""}

    def choose(shown: pictures.ShownFrames) -> np.ndarray:
        row["duration_s"] = shown.duration_s
        row["frame_count"] = min(round(shown.duration_s * p.fps), MAX_COUNT)
        row.update(refusal(len(shown.times_s), row["frame_count"], p))
        if row["status"] != "ok":
            return np.array([], int)
        row["times_s"] = sample_times(shown.duration_s, p)
        return on_screen(shown.times_s, row["times_s"])

    try:
        shown, row["jpegs"] = pictures.read_frames(Path(path), choose, partial(_small_jpeg, p=p))
        row["start_s"] = shown.start_s
    except untrusted.MediaError as error:
        row |= {"status": error.status, "reason": error.reason}
    return row


def refusal(shown: int, frame_count: int, p: FramesParams) -> dict[str, str]:
    """Return status and reason of a clip that shows so many frames, `frame_count` at `fps`."""
    if shown < 2:
        return {"status": "too_short", "reason": "one frame only: nothing moves"}
    if p.keep == "exact" and frame_count != p.count:
        reason = f"{frame_count} frames at {p.fps:g} fps, not {p.count}"
        return {"status": "wrong_frame_count", "reason": reason}
    return {"status": "ok", "reason": ""}


def _small_jpeg(image: np.ndarray, p: FramesParams) -> bytes:
    """Return a BGR image [H, W, 3] as JPEG whose shorter side has at most `size_px`.

    Larger images are scaled by area averaging; smaller ones stay as they are.
    """
    height, width = image.shape[:2]
    scale = p.size_px / min(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return codecs.encode_jpeg(image, p.jpeg_quality)


def drop_long(row: dict, max_duration_s: float) -> dict:
    """Return a stored row, refused where its frames span more than the file's header claimed.

    This is no part of the stored item, as the limit may change.
    """
    if row["status"] == "ok" and row["duration_s"] > max_duration_s:
        return row | {"status": "too_long", "reason": f"its frames span {row['duration_s']:.3f} s"}
    return row


def main(stage: stage_run.StageRun) -> None:
    p = params.load("frames", FramesParams)
    root = params.read("clips", "root", str)
    max_duration_s = params.read("clips", "max_duration_s", float)
    max_failed_fraction = params.read("clips", "max_failed_fraction", float)
    clips = [clip for clip in shards.read_table(layout.CLIPS).to_pylist() if clip["status"] == "ok"]
    for clip in clips:
        clip["input_key"] = clip["content_hash"]
    columns = pa.schema(
        [("jpegs", pa.list_(pa.binary())), ("times_s", shards.tensor(pa.float32(), p.count))]
    )
    version = item_store.version("frames", CODE_VERSION, p.model_dump(), libraries=LIBRARIES)

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return parallel.map_items(
            extract, tasks, stage.workers, time_limit_s(), untrusted.decoding_process
        )

    with ClipItems("frames", version, columns, FACTS) as items:
        tasks = ((clip["clip_id"], (str(Path(root) / clip["path"]), p)) for clip in clips)
        items.fill(stage, clips, tasks, compute)
        index = items.pack(
            layout.FRAMES,
            clips,
            finish=lambda row: drop_long(row, max_duration_s),
            check=lambda index: accounting.check_failed_fraction(
                index, FAILED, max_failed_fraction, "frames"
            ),
        )
    counts = Counter(row["frame_count"] for row in index if row["frame_count"] is not None)
    stage.write_metrics(
        {
            "clips": accounting.status_counts(index),
            "clips_by_frame_count": dict(sorted(counts.items())),
        }
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "frames")
