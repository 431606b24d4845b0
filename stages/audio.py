"""Extract the sound of the clips that have frames: 16 kHz, mono, 16 bit.

Silent clips are recorded and left out.

Reads    data/frames (which clips, how long), data/clips.parquet and the clip files
Writes   data/audio, a row per audible clip:
             flac       binary    16 kHz mono PCM-16 as FLAC, from the first video frame on, as
                                  long as the video
         and in its index rms_dbfs float32 for every clip that has a track.
Statuses: ok, no_audio_track, silent (RMS below `audio.silence_db`), unreadable, timeout,
worker_died, unreachable.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from audio_from_video.clipset import roots
from audio_from_video.media import codecs, sound, untrusted
from audio_from_video.media.settings import AudioParams
from audio_from_video.media.untrusted import Place
from audio_from_video.media.workers import map_files
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.clip_items import ClipItems

CODE_VERSION = 3  # of `extract`; raise it when the output for the same input changes
LIBRARIES = ("av", "numpy", "soundfile")
FAILED = {"unreadable", "timeout", "worker_died", "unreachable"}
# Of a clip: the file, when its video begins and how long it lasts in seconds, whether the file has
# an audio track, and whether the clip is a part of it.
Task = tuple[Place, float, float, bool, bool]
COLUMNS = pa.schema([("flac", pa.binary())])
FACTS = [pa.field("rms_dbfs", pa.float32())]


def extract(task: Task) -> dict:
    """Return sound and level of one clip (runs in a worker)."""
    place, start_s, duration_s, has_audio, is_part = task
    row = {"flac": None, "rms_dbfs": None}
    if not has_audio:
        return row | {"status": "no_audio_track", "reason": "the file has no audio stream"}
    try:
        file = untrusted.of_place(place)
        samples = sound.decode_sound(file, start_s, duration_s, seek=is_part)
    except untrusted.MediaError as error:
        return row | {"status": error.status, "reason": error.reason}
    return {
        "flac": codecs.encode_flac(samples),
        "rms_dbfs": codecs.rms_dbfs(samples),
        "status": "ok",
        "reason": "",
    }


def drop_silent(row: dict, silence_db: float) -> dict:
    """Return a stored row, refused where its level is below `silence_db`.

    This is no part of the stored item, so that a new level costs nothing.
    """
    if row["status"] == "ok" and row["rms_dbfs"] < silence_db:
        reason = f"{row['rms_dbfs']:.1f} dBFS, below {silence_db:g}"
        return row | {"status": "silent", "reason": reason}
    return row


def main(stage: stage_run.StageRun) -> None:
    p = params.load("audio", AudioParams)
    root = params.read("clips", "root", str)
    max_failed_fraction = params.read("clips", "max_failed_fraction", float)
    facts_of = {clip["clip_id"]: clip for clip in shards.read_table(layout.CLIPS).to_pylist()}
    clips = shards.ok_rows(layout.FRAMES)
    for clip in clips:
        facts = facts_of[clip["clip_id"]]
        named = [facts["content_hash"], clip["start_s"], clip["duration_s"]]
        if facts["start_s"] is not None:
            named.append("part")  # it sounds otherwise than a file of that start and length
        clip["input_key"] = digest(*named)

    def tasks(missing: set[str]) -> Iterator[tuple[str, Task]]:
        for clip in clips:
            if clip["clip_id"] not in missing:
                continue
            facts = facts_of[clip["clip_id"]]
            place = roots.place(root, facts["path"])
            is_part = facts["start_s"] is not None
            task = (place, clip["start_s"], clip["duration_s"], facts["has_audio"], is_part)
            yield clip["clip_id"], task

    def compute(missing: Iterator[Any]) -> Iterator[Any]:
        return map_files(extract, missing, stage.workers, root)

    version = item_store.version("audio", CODE_VERSION, libraries=LIBRARIES)
    with ClipItems("audio", version, COLUMNS, FACTS) as items:
        items.fill(stage, clips, tasks(items.missing(clips)), compute)
        index = items.pack(
            layout.AUDIO,
            clips,
            finish=lambda row: drop_silent(row, p.silence_db),
            packed_by=(p.silence_db,),
            check=lambda index: accounting.check_failed_fraction(
                index, FAILED, max_failed_fraction, "audio"
            ),
        )
    stage.write_metrics({"clips": accounting.status_counts(index)})


if __name__ == "__main__":
    stage_run.main(main, __doc__, "audio", in_parts=True)
