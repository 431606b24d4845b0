"""Sample RGB frames at 6 fps by time stamp and keep 18 per clip.

Reads    data/clips.parquet and the clip files
Writes   data/frames, a row per clip:
             jpegs      list<binary>[count]      BGR frames as JPEG, shorter side at most
                                                 `frames.size_px`
             times_s    tensor float32 [count]   the grid times the frames stand for, from the
                                                 first frame
         and in its index frame_count int32 (how many samples at `frames.fps` the clip has),
         duration_s float32 (of its decoded video; 0 where unknown) and start_s float64 (of the
         first shown frame, or of a part's start, on the file's own clock, by which `audio` places
         the sound).
How frames are chosen: audio_from_video/media/frames.py.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from audio_from_video.clipset import roots
from audio_from_video.media.frames import extract
from audio_from_video.media.pictures import Part
from audio_from_video.media.settings import FramesParams
from audio_from_video.media.untrusted import Place
from audio_from_video.media.workers import map_files
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

# Of `extract` (media/frames.py); raise it when the output for the same input and parameters
# changes.
CODE_VERSION = 5
# PyAV decodes, OpenCV shrinks and encodes.
LIBRARIES = ("av", "numpy", "opencv-contrib-python-headless")
FAILED = {"unreadable", "no_video", "timeout", "worker_died", "unreachable"}
FACTS = [
    pa.field("frame_count", pa.int32()),
    pa.field("duration_s", pa.float32()),
    pa.field("start_s", pa.float64()),
]


def drop_long(row: dict, max_duration_s: float) -> dict:
    """Return a stored row, refused where its frames span more than the file's header claimed.

    This is no part of the stored item, as the limit may change.
    """
    if row["status"] == "ok" and row["duration_s"] > max_duration_s:
        return row | {"status": "too_long", "reason": f"its frames span {row['duration_s']:.3f} s"}
    return row


def input_key(clip: dict) -> str:
    """Return the key of what a clip's frames are computed from: its file, and which part of it."""
    if clip["start_s"] is None:
        return clip["content_hash"]
    return digest(clip["content_hash"], clip["start_s"], clip["end_s"])


def task(root: str, clip: dict, p: FramesParams) -> tuple[Place, Part | None, FramesParams]:
    """Return what `extract` needs for a clip, a row of data/clips.parquet."""
    part = None
    if clip["start_s"] is not None:
        part = Part(clip["start_s"], clip["end_s"])
    return roots.place(root, clip["path"]), part, p


def main(stage: stage_run.StageRun) -> None:
    p = params.load("frames", FramesParams)
    root = params.read("clips", "root", str)
    max_duration_s = params.read("clips", "max_duration_s", float)
    max_failed_fraction = params.read("clips", "max_failed_fraction", float)
    clips = [clip for clip in shards.read_table(layout.CLIPS).to_pylist() if clip["status"] == "ok"]
    for clip in clips:
        clip["input_key"] = input_key(clip)
    columns = pa.schema(
        [("jpegs", pa.list_(pa.binary())), ("times_s", shards.tensor(pa.float32(), p.count))]
    )
    version = item_store.version("frames", CODE_VERSION, p.model_dump(), libraries=LIBRARIES)

    def compute(tasks: Iterator[Any]) -> Iterator[Any]:
        return map_files(extract, tasks, stage.workers, root)

    with ClipItems("frames", version, columns, FACTS) as items:
        missing = items.missing(clips)
        to_do = (clip for clip in clips if clip["clip_id"] in missing)
        tasks = ((clip["clip_id"], task(root, clip, p)) for clip in to_do)
        items.fill(stage, clips, tasks, compute)
        index = items.pack(
            layout.FRAMES,
            clips,
            finish=lambda row: drop_long(row, max_duration_s),
            packed_by=(max_duration_s,),
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
    stage_run.main(main, __doc__, "frames", in_parts=True)
