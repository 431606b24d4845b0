"""Find, check and split the clips of `clips.root`.

Reads    a folder in Moments in Time layout: `training/<action>/*`, `validation/<action>/*` (the
         test set) and, optionally, `unlabelled/*` (clips without action labels, which only
         generators use); or CSV lists in MiT's form; or a list of clips with their parts of longer
         files (audio_from_video/clipset/lists.py).
Writes   data/clips.parquet, a row per clip:
             clip_id     string   <action>/<file stem>; for unlabelled clips unlabelled/<file stem>;
                                  of listed clips <action>/<path>[@<start>-<end>]
             path        string   relative to the root
             action      string   null for unlabelled clips
             split       string   training, validation (a source-grouped part of the training
                                  folder), test, unlabelled
             source_id   string   the video it was cut from (`clips.source_pattern`)
             content_hash string  BLAKE2b-128 of the file's bytes, hex
             start_s, end_s       float64    the part of the file that is the clip, from its first
                                             shown frame; null: all of it
             duration_s  float32  of the video stream, or of the part
             fps         float32  of the video stream
             width_px, height_px  int32
             has_audio   bool     an audio track is there (it may be silent)
             status, reason       ok, or why the clip is refused
         data/truth.parquet, what is true of rendered clips (from `<root>/truth.parquet`; no rows
         where there is none); only code that computes metrics may read it.
         data/fit_on.parquet: the clip_id of each clip that models are fitted on (`clips.fit_on`);
         the others stand behind these in all outputs, by split and action
         data/missing_audio.parquet: which test clips lack their audio at which missing rate
         (`missing_audio_table`).
What ends no run but spoils its figures is told on stderr: actions short of clips or sources (they
are counted in metrics/clips.json), the rendered data set's models for other clips, frames smaller
than the video model sees them, look-alike pairs of other actions.
The root is no DVC dependency (DVC would hash all of it), so this stage always runs.  The hash and
the probe of a file are remembered by path, size and modification time; where the root is a URL, by
what its listing tells.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

from audio_from_video.backbones import vision
from audio_from_video.clipset import discovery, fit_list, truth
from audio_from_video.clipset.fit_list import FitList
from audio_from_video.clipset.settings import ClipsParams
from audio_from_video.clipset.shortage import shortage
from audio_from_video.clipset.splits import (
    assign_splits,
    mark_refused,
    missing_audio_table,
)
from audio_from_video.media import pictures, untrusted
from audio_from_video.media.untrusted import Place
from audio_from_video.media.workers import map_files
from audio_from_video.runtime import params, remote, stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.runtime.remote import RemoteFile
from audio_from_video.storage import accounting, item_store, layout, shards
from audio_from_video.storage.item_store import ItemStore

CODE_VERSION = 3  # of `examine`
LIBRARIES = ("av", "numpy")
FAILED = {
    "unreadable",
    "no_video",
    "timeout",
    "worker_died",
    "missing",
    "outside_root",
    "unreachable",
}
# Published lists name files that are gone: a row without a file is told, and no failure.
FAILED_OF_LIST = FAILED - {"missing"}
MAX_SIDE_PX = 65_500  # of a JPEG picture, as libjpeg writes it
SPLITS = ("training", "validation", "test", "unlabelled")
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
NAMES = pa.schema(
    [(name, pa.string()) for name in ("clip_id", "path", "action", "split", "source_id")]
)
PART = pa.schema([("start_s", pa.float64()), ("end_s", pa.float64())])
SCHEMA = pa.schema([*NAMES, *PART, *FACTS])


def choose_actions(clips: list[dict], p: ClipsParams) -> set[str]:
    """Return the actions that take part: all, those listed, or a number drawn with `clips.seed`.

    Raises UserError where the root lacks a listed action, or has fewer than the number.
    """
    known = sorted({clip["action"] for clip in clips if clip["action"]})
    if p.actions == "all":
        return set(known)
    if isinstance(p.actions, int):
        if not 1 <= p.actions <= len(known):
            raise UserError(
                f"clips.actions = {p.actions}: {p.root} has {len(known)} actions to draw from"
            )
        return set(Random(f"{p.seed} actions").sample(known, p.actions))
    unknown = sorted(set(p.actions) - set(known))
    if unknown:
        raise UserError(
            f"clips.actions names {', '.join(unknown)}, which {p.root} does not have; "
            f"it has {', '.join(known[:10])}, ..."
        )
    return set(p.actions)


def limit_per_action(clips: list[dict], p: ClipsParams) -> list[dict]:
    """Return at most `clips.max_per_action` clips (0: all) per folder and action, by path.

    They are drawn by hash, so that growth keeps the draw.
    """
    if not p.max_per_action:
        return clips
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for clip in clips:
        groups[clip["folder"], clip["action"]].append(clip)
    drawn = []
    for group in groups.values():
        group.sort(key=lambda clip: _draw_key(clip, p.seed))
        drawn += group[: p.max_per_action]
    return sorted(drawn, key=lambda clip: (clip["path"], clip["start_s"] or 0))


def _draw_key(clip: dict, seed: int) -> str:
    """The order in which clips are drawn: by path, and parts of a file by their name."""
    if clip["start_s"] is None:
        return digest(seed, clip["path"])
    return digest(seed, clip["path"], clip["name"])


def examine(place: Place) -> dict:
    """Return content hash and facts of one file (runs in a worker)."""
    row = dict.fromkeys(FACTS.names) | {"status": "ok", "reason": ""}
    try:
        file = untrusted.of_place(place)
        # Before the probe, so that a file that cannot be decoded has its hash, too.
        row["content_hash"] = untrusted.content_hash(file)
        row |= pictures.probe(file)
    except OSError as error:
        row["status"] = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
        row["reason"] = error.strerror or str(error)
    except untrusted.MediaError as error:
        row |= {"status": error.status, "reason": error.reason}
    return row


def add_facts(clips: list[dict], p: ClipsParams, stage: stage_run.StageRun) -> None:
    """Add facts, status and reason to every clip, in place; only files that changed are opened."""
    version = item_store.version("clips", CODE_VERSION, libraries=LIBRARIES)
    for clip in clips:
        clip |= dict.fromkeys(FACTS.names)
    tasks: dict[str, tuple[str, Place]]
    if remote.is_url(p.root):
        examined = _refuse_unlisted(clips)
        tasks = {clip["path"]: _remote_task(p.root, clip) for clip in examined}
    else:
        examined = clips if p.links == "all" else _refuse_outside(clips, p.root)
        # Keys hold the whole path: several roots may share an item store.
        root = Path(p.root).absolute()
        paths = dict.fromkeys(clip["path"] for clip in examined)
        tasks = {path: _task(f"{root}/{path}") for path in paths}

    def compute(places: Iterator[Any]) -> Iterator[Any]:
        return map_files(examine, places, stage.workers, p.root)

    with ItemStore("clips", version, FACTS) as store:
        failures = stage.fill(store, tasks.values(), len(tasks), compute)
        for clip in examined:
            key, _ = tasks[clip["path"]]
            failure = failures.get(key)
            if failure:
                clip |= {"status": failure.kind, "reason": failure.reason}
            else:
                clip |= store[key]
            _take_part(clip)
            _limit_size(clip, p)


def _take_part(clip: dict) -> None:
    """Set the duration to that of the clip's part of the file; refuse a part beyond the file's end.

    `frames`, which decodes, has the last word.
    """
    if clip["status"] != "ok" or clip["start_s"] is None:
        return
    start_s = clip["start_s"]
    end_s = min(clip["end_s"], clip["duration_s"])
    if end_s <= start_s or end_s < clip["end_s"] - pictures.END_TOLERANCE_S:
        reason = pictures.beyond_end(start_s, clip["end_s"], clip["duration_s"])
        mark_refused(clip, "beyond_end", reason)
        return
    clip["duration_s"] = end_s - start_s


def _refuse_outside(clips: list[dict], root: str) -> list[dict]:
    """Refuse clips whose file lies outside the root, links followed; return the others."""
    real_root = os.path.realpath(root) + os.sep
    real_folders: dict[str, str] = {}  # each folder is looked up once
    inside = []
    for clip in clips:
        folder, name = os.path.split(clip["path"])
        if folder not in real_folders:
            real_folders[folder] = os.path.realpath(os.path.join(root, folder))
        path = os.path.join(real_folders[folder], name)
        if os.path.islink(path):
            path = os.path.realpath(path)
        if path.startswith(real_root):
            inside.append(clip)
        else:
            clip["status"] = "outside_root"
            clip["reason"] = "a link leads out of clips.root; clips.links = all follows it"
    return inside


def _refuse_unlisted(clips: list[dict]) -> list[dict]:
    """Refuse clips of a URL that its listing lacks or that are too large to be fetched.

    Returns the others.
    """
    listed = []
    for clip in clips:
        if clip["listed"] is None:
            clip["status"] = "missing"
            clip["reason"] = "the listing of clips.root has no such file"
        elif clip["listed"].size_bytes > remote.MAX_BYTES:
            clip["status"] = "too_large"
            clip["reason"] = (
                f"{clip['listed'].size_bytes / 2**20:.0f} MiB; of a URL, files of at most "
                f"{remote.MAX_BYTES / 2**20:.0f} MiB are read"
            )
        else:
            listed.append(clip)
    return listed


def _remote_task(root: str, clip: dict) -> tuple[str, RemoteFile]:
    """Return item key and place of a URL's file; a new state in the listing gives another key."""
    file = RemoteFile(root, clip["path"])
    return digest(str(file), clip["listed"].size_bytes, clip["listed"].state), file


def _task(path: str) -> tuple[str, str]:
    """Return item key and path of a file; a new size or modification time gives another key."""
    try:
        state = os.stat(path)
    except OSError:  # `examine` says what is wrong with it
        return digest(path, None, None), path
    return digest(path, state.st_size, state.st_mtime_ns), path


def _limit_size(clip: dict, p: ClipsParams) -> None:
    """Refuse a clip that is too short, too long or too large.

    This is no part of the stored item, as the limits may change.
    """
    if clip["status"] != "ok":
        return
    if not p.min_duration_s <= clip["duration_s"] <= p.max_duration_s:
        status = "too_short" if clip["duration_s"] < p.min_duration_s else "too_long"
        mark_refused(clip, status, f"lasts {clip['duration_s']:.3f} s")
        return
    size = f"{clip['width_px']} x {clip['height_px']} pixels"
    if clip["width_px"] * clip["height_px"] > p.max_pixels:
        mark_refused(clip, "too_large", f"has {size}, more than clips.max_pixels")
    elif max(clip["width_px"], clip["height_px"]) > MAX_SIDE_PX:
        mark_refused(clip, "too_large", f"has {size}, and a JPEG no side above {MAX_SIDE_PX}")


def order(clip: dict, listed: FitList | None) -> tuple:
    """Return what clips are sorted by: those that models are fitted on, then later ones.

    Clips that come later then shift no row of those that were there.
    """
    is_later = listed is not None and clip["clip_id"] not in listed.contents
    return clip["split"], clip["action"] or "", is_later, clip["clip_id"]


def fit_on_table(clips: list[dict], listed: FitList | None) -> pa.Table:
    """Return the table of the clips that models are fitted on."""
    return pa.table({"clip_id": pa.array(fit_list.fitted_clip_ids(clips, listed), pa.string())})


def clip_figures(clips: list[dict], actions: set[str]) -> dict:
    """Return counts for the metrics file: clips by status and split, actions, sources, tracks."""
    ok = [clip for clip in clips if clip["status"] == "ok"]
    clip_counts = {}
    source_counts = {}
    for split in SPLITS:
        members = [clip for clip in ok if clip["split"] == split]
        clip_counts[split] = len(members)
        source_counts[split] = len({clip["source_id"] for clip in members})
    return {
        "clips": accounting.status_counts(clips),
        "actions": len(actions),
        "split": clip_counts,
        "sources": source_counts,
        "actions_short_of": shortage(clips).figures(),
        "with_audio_track": sum(clip["has_audio"] for clip in ok),
    }


def require_splits(clips: list[dict], p: ClipsParams) -> None:
    """Raise UserError where what is left cannot make an experiment, before other stages run."""
    ok = [clip for clip in clips if clip["status"] == "ok"]
    members = {split: [clip for clip in ok if clip["split"] == split] for split in SPLITS}
    actions = {clip["action"] for clip in members["training"]}
    if len(actions) < 2:
        names = ", ".join(sorted(actions)) or "none"
        raise UserError(
            f"a classifier needs training clips of at least two actions; {p.root} has: {names} "
            "(metrics/clips.json says why clips were refused)"
        )
    if not members["test"]:
        raise UserError(
            f"no test clip is left in {p.root}: put clips into validation/<action>/, or name some "
            "by clips.test_list or in clips.clip_list"
        )
    if not members["validation"]:
        raise UserError(
            f"no validation clip is left in {p.root}: an action needs training clips of at least "
            "two sources (clips.source_pattern says what a source is)"
        )
    learned_from = [*members["training"], *members["unlabelled"]]
    if not any(clip["has_audio"] for clip in learned_from):
        raise UserError(
            f"none of the {len(learned_from)} training and unlabelled clips in {p.root} has an "
            "audio track: generators learn from clips with sound, labelled or not"
        )


def unfit_models(root: str, models: dict[str, str]) -> list[str]:
    """Return a sentence where models that know the rendered data set alone meet another root.

    models: their directories or hub names, by key of params.yaml.
    """
    if discovery.is_sample(root):
        return []
    tiny = layout.TINY_MODELS.resolve()
    unfit = [key for key, model in models.items() if Path(model).resolve().is_relative_to(tiny)]
    if not unfit:
        return []
    return [
        f"{', '.join(unfit)}: these models know the rendered data set alone, and clips.root = "
        f"{root!r} is another one; `python -m tools.settings params/real.yaml` names published ones"
    ]


def small_frames(size_px: int, model: str) -> list[str]:
    """Return a sentence where frames are stored smaller than the model sees them.

    size_px: their shorter side.  model: directory or hub name; nothing is downloaded for it here.
    """
    seen_px = vision.seen_px(model, offline=True)
    if seen_px is None or size_px >= seen_px:
        return []
    return [
        f"frames.size_px = {size_px}: video_features.model = {model!r} sees {seen_px} px, so "
        f"frames are enlarged for it and lack detail; give frames.size_px = {seen_px} or more"
    ]


def ignored_pairs(pairs: list[list[str]], clips: list[dict]) -> list[str]:
    """Return a sentence where report.look_alike_pairs names actions that no test clip shows."""
    tested = {clip["action"] for clip in clips if clip["split"] == "test"}
    ignored = ["/".join(pair) for pair in pairs if not set(pair) <= tested]
    if not ignored:
        return []
    return [
        f"report.look_alike_pairs: {', '.join(ignored)} are left out of the tables, as test clips "
        "do not show these actions"
    ]


def main(stage: stage_run.StageRun) -> None:
    p = params.load("clips", ClipsParams)
    models = {
        "video_features.model": params.read("video_features", "model", str),
        "audio_features.model": params.read("audio_features", "model", str),
        "captions.model": params.read("captions", "model", str),
    }
    size_px = params.read("frames", "size_px", int)
    pairs = params.read("report", "look_alike_pairs", list[list[str]])
    lists = {"training": p.training_list, "validation": p.validation_list}
    clips = discovery.find_clips(p.root, lists, p.clip_list)
    actions = choose_actions(clips, p)
    clips = [clip for clip in clips if clip["action"] is None or clip["action"] in actions]
    # Before files are opened, as opening takes the time.
    clips = limit_per_action(clips, p)
    add_facts(clips, p, stage)
    listed = fit_list.read(p.fit_on) if p.fit_on else None
    assign_splits(clips, p, listed.splits if listed else None)
    clips.sort(key=lambda clip: order(clip, listed))
    failed = FAILED_OF_LIST if p.clip_list else FAILED
    accounting.check_failed_fraction(clips, failed, p.max_failed_fraction, "clips")
    table = pa.Table.from_pylist(clips, schema=SCHEMA)
    shards.write_table(shards.with_clip_set(table), layout.CLIPS)
    shards.write_table(fit_on_table(clips, listed), layout.FIT_ON)
    shards.write_table(missing_audio_table(clips, p.seed), layout.MISSING_AUDIO)
    truth.pass_on(p.root)
    figures = clip_figures(clips, actions)
    if listed:
        fit_list.check(clips, listed)
        fitted = len(fit_list.fitted_clip_ids(clips, listed))
        figures["fit_on"] = {"list": listed.path, "digest": listed.digest, "clips": fitted}
    stage.write_metrics(figures)
    require_splits(clips, p)
    ok = [clip for clip in clips if clip["status"] == "ok"]
    warnings = [
        *unfit_models(p.root, models),
        *small_frames(size_px, models["video_features.model"]),
        *shortage(ok).sentences(),
        *ignored_pairs(pairs, ok),
    ]
    for sentence in warnings:
        print(f"clips: {printable(sentence)}", file=sys.stderr)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "clips", in_parts=True)
