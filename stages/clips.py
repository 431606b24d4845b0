"""Find, check and split the clips of `clips.root`.

Reads    a folder in Moments in Time layout: `training/<action>/*`, `validation/<action>/*` (the
test set) and, optionally,
         `unlabelled/*` (clips without action labels, which only generators use); or CSV lists in
         MiT's form.
Writes   data/clips.parquet, a row per clip:
             clip_id     string   <action>/<file stem>; for unlabelled clips unlabelled/<file stem>
             path        string   relative to the root action      string   null for unlabelled
             clips split       string   training, validation (a source-grouped part of the training
             folder), test, unlabelled source_id   string   the video it was cut from
             (`clips.source_pattern`) content_hash string  BLAKE2b-128 of the file's bytes, hex
             duration_s, fps      float32    of the video stream width_px, height_px  int32
             has_audio   bool     an audio track is there (it may be silent) status, reason
             ok, or why the clip is refused
         data/truth.parquet, what is true of rendered clips (from `<root>/truth.parquet`; no rows
         where there is none); only code that computes metrics may read it.
         data/missing_audio.parquet: which test clips lack their audio at which missing rate
         (`draw_missing`).
The root is no DVC dependency (DVC would hash all of it), so this stage always runs; the hash and
the probe of a file are remembered by path, size and modification time.
"""

import hashlib
import os
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import Literal

import pyarrow as pa
from pydantic import Field

from audio_from_video.clipset import discovery, truth
from audio_from_video.clipset.splits import SplitParams, draw_missing, refuse, split
from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel, params, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import time_limit_s
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.item_store import ItemStore

CODE_VERSION = 2  # of `examine`
FAILED = {"unreadable", "no_video", "timeout", "worker_died", "missing", "outside_root"}
FACTS = pa.schema(
    [
        ("content_hash", pa.string()),
        ("duration_s", pa.float32()),
        ("fps", pa.float32()),
        ("width_px", pa.int32()),
        ("height_px", pa.int32()),
        ("has_audio", pa.bool_()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "path", "action", "split", "source_id")),
        *FACTS,
    ]
)


class ClipsParams(SplitParams):
    actions: Literal["all"] | int | list[str]
    max_per_action: int = Field(ge=0)
    training_list: str
    validation_list: str
    min_duration_s: float = Field(ge=0)
    max_duration_s: float = Field(gt=0)
    max_pixels: int = Field(gt=0)
    links: Literal["inside", "all"]
    max_failed_fraction: float = Field(ge=0, le=1)


def choose_actions(clips: list[dict], p: ClipsParams) -> set[str]:
    """The actions that take part: all, those listed, or a number of them drawn with `clips.seed`."""
    known = sorted({clip["action"] for clip in clips if clip["action"]})
    if p.actions == "all":
        return set(known)
    if isinstance(p.actions, int):
        if not 1 <= p.actions <= len(known):
            raise UserError(
                f"clips.actions = {p.actions}: {p.root} has {len(known)} actions to draw from"
            )
        return set(Random(f"{p.seed} actions").sample(known, p.actions))
    if unknown := sorted(set(p.actions) - set(known)):
        raise UserError(
            f"clips.actions names {', '.join(unknown)}, which {p.root} does not have; it has {', '.join(known[:10])}, ..."
        )
    return set(p.actions)


def examine(path: str) -> dict:
    """Content hash and facts of one file (runs in a worker)."""
    row = dict.fromkeys(FACTS.names) | {"status": "ok", "reason": ""}
    try:
        with untrusted.open_file(Path(path)) as file:
            row["content_hash"] = hashlib.file_digest(
                file, lambda: hashlib.blake2b(digest_size=16)
            ).hexdigest()
        row |= untrusted.probe(Path(path))
    except OSError as error:
        row |= {
            "status": "missing" if isinstance(error, FileNotFoundError) else "unreadable",
            "reason": error.strerror or str(error),
        }
    except untrusted.MediaError as error:
        row |= {"status": error.status, "reason": error.reason}
    return row


def describe(clips: list[dict], p: ClipsParams, stage: stage_run.StageRun) -> None:
    """Add facts, status and reason to every clip; only files that changed are opened."""
    version = item_store.version("clips", CODE_VERSION, libraries=("av",))
    for clip in clips:
        clip |= dict.fromkeys(FACTS.names)
    inside = clips if p.links == "all" else _inside(clips, p.root)
    root = Path(p.root).absolute()
    tasks = [_task(f"{root}/{clip['path']}") for clip in inside]
    with ItemStore("clips", version, FACTS) as store:
        failures = stage.fill(
            store,
            tasks,
            len(tasks),
            lambda paths: parallel.map_items(
                examine, paths, stage.workers, time_limit_s(), untrusted.decoding_process
            ),
        )
        for clip, (key, _) in zip(inside, tasks, strict=True):
            failure: Failure | None = failures.get(key)
            clip |= {"status": failure.kind, "reason": failure.reason} if failure else store[key]
            _limit_size(clip, p)


def _inside(clips: list[dict], root: str) -> list[dict]:
    """The clips whose file lies below the root, links followed; the others are refused."""
    names = [os.path.split(clip["path"]) for clip in clips]
    real = {
        folder: os.path.realpath(os.path.join(root, folder))
        for folder in {folder for folder, _ in names}
    }
    found, within = [], os.path.realpath(root) + os.sep
    for clip, (folder, name) in zip(clips, names, strict=True):
        path = os.path.join(real[folder], name)
        if (os.path.realpath(path) if os.path.islink(path) else path).startswith(within):
            found.append(clip)
        else:
            clip |= {
                "status": "outside_root",
                "reason": "a link leads out of clips.root; clips.links = all follows it",
            }
    return found


def _task(path: str) -> tuple[str, str]:
    """Item key and path of a file: it is opened again when its size or modification time changed."""
    try:
        found = os.stat(path)
    except OSError:  # `examine` says what is wrong with it
        return digest(path, None, None), path
    return digest(path, found.st_size, found.st_mtime_ns), path


def _limit_size(clip: dict, p: ClipsParams) -> None:
    """Refuse a clip that is too short, too long or too large; not part of the stored item, as the limits may change."""
    if clip["status"] != "ok":
        return
    if not p.min_duration_s <= clip["duration_s"] <= p.max_duration_s:
        status = "too_short" if clip["duration_s"] < p.min_duration_s else "too_long"
        refuse(clip, status, f"lasts {clip['duration_s']:.3f} s")
    elif clip["width_px"] * clip["height_px"] > p.max_pixels:
        refuse(
            clip,
            "too_large",
            f"has {clip['width_px']} x {clip['height_px']} pixels, more than clips.max_pixels",
        )


def main(stage: stage_run.StageRun) -> None:
    p = params.load("clips", ClipsParams)
    clips = discovery.find(p.root, {"training": p.training_list, "validation": p.validation_list})
    actions = choose_actions(clips, p)
    clips = [clip for clip in clips if clip["action"] is None or clip["action"] in actions]
    clips = limit(clips, p)
    describe(clips, p, stage)
    split(clips, p)
    clips.sort(key=lambda clip: (clip["split"], clip["action"] or "", clip["clip_id"]))
    accounting.check_failed_fraction(clips, FAILED, p.max_failed_fraction, "clips")
    shards.write_table(pa.Table.from_pylist(clips, schema=SCHEMA), layout.CLIPS)
    shards.write_table(draw_missing(clips, p.seed), layout.MISSING_AUDIO)
    truth.pass_on(Path(p.root))
    ok = [clip for clip in clips if clip["status"] == "ok"]
    splits = ("training", "validation", "test", "unlabelled")
    stage.write_metrics(
        {
            "clips": accounting.status_counts(clips),
            "actions": len(actions),
            "split": {name: sum(clip["split"] == name for clip in ok) for name in splits},
            "sources": {
                name: len({clip["source_id"] for clip in ok if clip["split"] == name})
                for name in splits
            },
            "with_audio_track": sum(clip["has_audio"] for clip in ok),
        }
    )


def limit(clips: list[dict], p: ClipsParams) -> list[dict]:
    """At most `clips.max_per_action` clips (0: all) per folder and action, drawn by hash so that growth keeps the draw."""
    if not p.max_per_action:
        return clips
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for clip in clips:
        groups[clip["folder"], clip["action"]].append(clip)
    drawn = (
        sorted(group, key=lambda clip: digest(p.seed, clip["path"]))[: p.max_per_action]
        for group in groups.values()
    )
    return sorted((clip for group in drawn for clip in group), key=lambda clip: clip["path"])


if __name__ == "__main__":
    stage_run.main(main, __doc__, "clips")
