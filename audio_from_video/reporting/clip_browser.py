"""What the report's clip browser shows of a test clip.

These are pictures, sound, captions, labels, decisions, answers and, to stand beside the answers,
what is true of rendered clips.  Only the drawn clips are read, from the outputs of the stages.
Outputs other than frames and predictions may be absent: not every run has both architectures.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

import cv2
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from safetensors import safe_open

from audio_from_video.audioset import labels as audioset_labels
from audio_from_video.clipset import truth
from audio_from_video.evaluation.motion import steps_at
from audio_from_video.media import codecs
from audio_from_video.reporting import mel_picture
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout, predictions, shards

# Largest heights of the stored pictures, and the quality of their JPEG.
FRAME_PX = 128
FLOW_PX = 64
JPEG_QUALITY = 70

TOP_LABELS = 3  # labels shown of each kind
WAVE_BINS = 240

# Of the sound to listen to: half the bytes of 16 bits, and its noise at -60 dB is not heard.
LISTENING_BITS = 10


def clip_records(count: int, conditions: list[str], seed: int = 0) -> list[dict]:
    """Return what the page shows of at most `count` test clips, in the order of clip_id.

    conditions: those whose answers are shown.  seed: draws the clips, balanced over actions.
    Each record is JSON-able; its parts are None where the stage before them did not run.
    """
    drawn = draw_test_clips(shards.ok_rows(layout.FRAMES), count, seed)
    names = [row["clip_id"] for row in drawn]
    frames = shard_rows(layout.FRAMES, ["jpegs", "times_s"], names)
    flow = shard_rows(layout.OPTICAL_FLOW, ["jpegs"], names)
    mels = shard_rows(layout.LOG_MELS, None, names)
    answers = condition_answers(conditions, names)
    parts: dict[str, dict] = {
        "sound": sound_records(names),
        "moving": motion_records(names),
        "captions": caption_records(names),
        "real_labels": real_labels(names),
        "architectures": architecture_records(names),
        "truth": truth_records({name: row["times_s"] for name, row in frames.items()}),
    }
    records = []
    for row in drawn:
        name = row["clip_id"]
        times_s = frames[name]["times_s"]
        duration_s = clip_duration_s(times_s)
        record = {
            "id": name,
            "action": row["action"],
            "source": row["source_id"],
            "steps": len(times_s),
            "duration": round(duration_s, 3),
            "frames": sprite(frames[name]["jpegs"], FRAME_PX),
            "flow": sprite(flow[name]["jpegs"], FLOW_PX) if name in flow else None,
        }
        record |= {key: part.get(name) for key, part in parts.items()}
        record["mels"] = mel_pictures(mels.get(name, {}), duration_s)
        record["answers"] = {condition: by_clip.get(name) for condition, by_clip in answers.items()}
        records.append(record)
    return records


@dataclass(frozen=True)
class NewClip:
    """What is known of a clip, or of a window of a video, that has no place in a data set.

    name: stands as its id.  recommended: the condition whose answer `action` is.
    jpegs, flow_jpegs: T images each.  magnitudes [T] and chosen: motion and representative steps.
    samples [n] int16: its sound, None without.  audible, level_dbfs: of it.
    captions: by step.  real_scores [L]: of labels, None where it is not audible.
    generated: by architecture what the browser shows of it (`generated_entry`).
    log_mels: by architecture, [frames, mel bins].
    answers: by condition [action, seeds that gave it, seeds, probability].
    """

    name: str
    action: str
    recommended: str
    duration_s: float
    jpegs: list[bytes]
    flow_jpegs: list[bytes]
    magnitudes: np.ndarray
    chosen: list[int]
    samples: np.ndarray | None
    audible: bool
    level_dbfs: float | None
    captions: dict[int, str]
    real_scores: np.ndarray | None
    generated: dict[str, dict]
    log_mels: dict[str, np.ndarray]
    answers: dict[str, list]


def new_clip_record(clip: NewClip) -> dict:
    """Return what the page shows of a clip that no stage knows; see `clip_records`."""
    sound: dict = {"status": "no_audio_track", "level": rounded(clip.level_dbfs, 1)}
    if clip.samples is not None:
        sound["status"] = "ok" if clip.audible else "silent"
    if clip.samples is not None and clip.audible:
        sound |= heard_sound(clip.samples / 32768)
    jpegs = {name: mel_picture.encode(log_mel) for name, log_mel in clip.log_mels.items()}
    motion = [rounded(value, 2) for value in clip.magnitudes.tolist()]
    return {
        "id": clip.name,
        "action": clip.action,
        "recommended": clip.recommended,
        "source": "",
        "steps": len(clip.jpegs),
        "duration": round(clip.duration_s, 3),
        "frames": sprite(clip.jpegs, FRAME_PX),
        "flow": sprite(clip.flow_jpegs, FLOW_PX),
        "sound": sound,
        "moving": {"motion": motion, "chosen": clip.chosen},
        "captions": [{"step": step, "text": text} for step, text in clip.captions.items()],
        "real_labels": None if clip.real_scores is None else strongest_labels(clip.real_scores),
        "architectures": clip.generated,
        "truth": None,
        "mels": mel_pictures(jpegs, clip.duration_s),
        "answers": clip.answers,
    }


def generated_entry(
    label_scores: np.ndarray, against: str, score: float, threshold: float, keep: bool
) -> dict:
    """Return what the browser shows of generated sound: labels [L] and the filter's decision."""
    return {
        "labels": strongest_labels(label_scores),
        "against": against,
        "score": rounded(score),
        "threshold": threshold,
        "keep": keep,
    }


def clip_duration_s(times_s: np.ndarray) -> float:
    """Return a clip's duration by the times of its frames; the last lasts as long as the first."""
    return float(times_s[-1] + times_s[min(1, len(times_s) - 1)])


def telling_clip(records: list[dict], right: str, wrong: str) -> str | None:
    """Return the id of a clip that one condition answers right and the other one wrong.

    It is the one about which the seeds of both agree most; None where there is no such clip.
    """
    telling = []
    for record in records:
        first = record["answers"].get(right)
        second = record["answers"].get(wrong)
        if first and second and first[0] == record["action"] != second[0]:
            telling.append((first[1] + second[1], record["id"]))
    # Of equals the first one.
    return max(telling, key=lambda pair: pair[0])[1] if telling else None


def draw_test_clips(clips: list[dict], count: int, seed: int) -> list[dict]:
    """Return at most `count` test clips among the index rows `clips`, in the order of clip_id.

    The actions take turns; each gives its clips in the order of their hash with `seed`.
    """
    by_action: dict[str, list[dict]] = {}
    for row in sorted(clips, key=lambda row: digest(seed, row["clip_id"])):
        if row["split"] == "test":
            by_action.setdefault(row["action"], []).append(row)
    turns = zip_longest(*by_action.values())
    in_turn = (row for row in chain.from_iterable(turns) if row is not None)
    return sorted(islice(in_turn, count), key=lambda row: row["clip_id"])


# ---- reading ----


def shard_rows(directory: Path, columns: list[str] | None, names: list[str]) -> dict[str, dict]:
    """Return the rows of test clips in a stage's shards, by clip_id.

    columns: those to read, None for all.  There are no rows where the stage has not run or refused
    the clip.
    """
    if not directory.is_dir() or not names:
        return {}
    dataset = ds.dataset(directory, format="parquet", partitioning="hive")
    if not dataset.files:
        return {}
    is_shown = (ds.field("split") == "test") & ds.field("clip_id").isin(names)
    read_columns = None if columns is None else ["clip_id", *columns]
    table = dataset.to_table(read_columns, filter=is_shown)
    return {row["clip_id"]: row for row in shards.to_rows(table)}


def table_rows(path: Path, columns: list[str] | None, names: list[str]) -> dict[str, dict]:
    """Return the rows of clips in one Parquet file, by clip_id; none where there is no file.

    columns: those to read, None for all.
    """
    if not path.is_file() or not names:
        return {}
    read_columns = None if columns is None else ["clip_id", *columns]
    table = pq.read_table(path, columns=read_columns, filters=[("clip_id", "in", names)])
    return {row["clip_id"]: row for row in table.to_pylist()}


# ---- pictures ----


def data_uri(media_type: str, content: bytes) -> str:
    """Return content as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


def sprite(jpegs: list[bytes], most_px: int) -> str:
    """Return images side by side as one JPEG, at most `most_px` high, as a data URI."""
    images = [codecs.decode_jpeg(jpeg) for jpeg in jpegs]
    full_height, full_width = images[0].shape[:2]
    height_px = min(full_height, most_px)
    size = (max(1, round(full_width * height_px / full_height)), height_px)
    scaled = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    return data_uri("image/jpeg", codecs.encode_jpeg(np.hstack(scaled), JPEG_QUALITY))


def motion_records(names: list[str]) -> dict[str, dict]:
    """Return each clip's motion by step, in px per step, and its representative frames' steps."""
    rows = shard_rows(layout.REPRESENTATIVE_FRAMES, ["magnitudes", "steps"], names)
    records = {}
    for name, row in rows.items():
        motion = [rounded(value, 2) for value in row["magnitudes"].tolist()]
        records[name] = {"motion": motion, "chosen": row["steps"]}
    return records


# ---- sound ----


def sound_records(names: list[str]) -> dict[str, dict]:
    """Return the status of each clip's sound and its level in dBFS.

    Where it is audible there are also FLAC and envelope.
    """
    index = table_rows(layout.AUDIO / shards.INDEX, None, names)
    audible = shard_rows(layout.AUDIO, ["flac"], names)
    records: dict[str, dict] = {}
    for name in names:
        row = index.get(name, {})
        record = {"status": row.get("status", "unknown"), "level": rounded(row.get("rms_dbfs"), 1)}
        if name in audible:
            record |= heard_sound(codecs.decode_flac(audible[name]["flac"]))
        records[name] = record
    return records


def heard_sound(samples: np.ndarray) -> dict:
    """Return samples [N] to listen to, as a data URI, and their envelope."""
    flac = data_uri("audio/flac", listening_flac(samples))
    return {"flac": flac, "wave": envelope(samples)}


def listening_flac(samples: np.ndarray) -> bytes:
    """Return samples [N] as FLAC, as loud as they can be, in steps of LISTENING_BITS."""
    largest = 2 ** (LISTENING_BITS - 1) - 1
    steps = np.round(samples / max(np.abs(samples).max(initial=0), 1e-9) * largest)
    return codecs.encode_flac(steps.astype(np.int16) << (16 - LISTENING_BITS))


def envelope(samples: np.ndarray) -> list[int]:
    """Return the largest magnitude in each of WAVE_BINS stretches, in per cent of the clip's."""
    parts = np.array_split(samples, WAVE_BINS)
    peaks = np.array([np.abs(part).max(initial=0) for part in parts])
    return np.round(100 * peaks / max(peaks.max(), 1e-9)).astype(int).tolist()


def mel_pictures(row: dict, duration_s: float) -> dict[str, str]:
    """Return a clip's log-mels as data URIs: `real` where it is audible, and by architecture.

    row: of the stage label_predictor, {} where it has none.
    """
    pictures = {}
    for name in ("real", *ARCHITECTURES):
        if row.get(name):
            jpeg = mel_picture.coloured(row[name], duration_s)
            pictures[name] = data_uri("image/jpeg", jpeg)
    return pictures


# ---- captions and labels ----


def caption_records(names: list[str]) -> dict[str, list[dict]]:
    """Return each clip's captions with their step and the labels they map to, [name, weight]."""
    mapped = shard_rows(layout.MAPPING, ["labels", "similarity"], names)
    label_names = mapping_label_names() if mapped else []
    records: dict[str, list[dict]] = {}
    for name, row in shard_rows(layout.CAPTIONS, ["steps", "captions"], names).items():
        records[name] = []
        for step, text in zip(row["steps"], row["captions"], strict=True):
            caption: dict = {"step": step, "text": text}
            if name in mapped:
                labels = mapped[name]["labels"][step]
                weights = mapped[name]["similarity"][step]
                caption["labels"] = [
                    [label_names[label], rounded(weight)]
                    for label, weight in zip(labels, weights, strict=True)
                    if label >= 0
                ]
            records[name].append(caption)
    return records


def mapping_label_names() -> list[str]:
    """Return the names of the labels that the stage `mapping` numbers."""
    with safe_open(layout.MAPPING / "_labels.safetensors", "numpy") as file:
        return json.loads(next(iter(file.metadata().values())))["names"]


def strongest_labels(scores: np.ndarray) -> list[list]:
    """Return the TOP_LABELS labels of highest score among [L], [name, score]."""
    labels = audioset_labels.load_labels()
    order = np.argsort(-scores.astype(np.float32), kind="stable")
    return [[labels[i].display_name, rounded(scores[i])] for i in order[:TOP_LABELS]]


def real_labels(names: list[str]) -> dict[str, list[list]]:
    """Return the labels that the audio model finds in the real sound of each audible clip."""
    rows = shard_rows(layout.AUDIO_FEATURES, ["label_scores"], names)
    return {name: strongest_labels(row["label_scores"]) for name, row in rows.items()}


def architecture_records(names: list[str]) -> dict[str, dict]:
    """Return, by clip and architecture, labels of the generated audio and the filter's decision."""
    records: dict[str, dict] = {name: {} for name in names}
    columns = ["predicted_action", "score", "keep"]
    for architecture in ARCHITECTURES:
        labels = shard_rows(layout.predicted_labels(architecture), ["generated"], names)
        decisions = table_rows(layout.decisions(architecture), columns, names)
        for name in labels.keys() | decisions.keys():
            entry: dict = {}
            if name in labels:
                entry["labels"] = strongest_labels(labels[name]["generated"])
            if name in decisions:
                decision = decisions[name]
                entry["against"] = decision["predicted_action"]
                entry["score"] = rounded(decision["score"])
                entry["keep"] = decision["keep"]
            records[name][architecture] = entry
    return records


# ---- answers and truth ----


def condition_answers(conditions: Iterable[str], names: list[str]) -> dict[str, dict[str, list]]:
    """Return, by condition and clip, the action that most seeds answered.

    Of equally frequent actions it is the more probable one.  Each answer is
    [action, number of seeds that gave it, number of seeds].
    """
    answers = {}
    for condition in conditions:
        test = predictions.read(condition).of("test")
        position = {name: i for i, name in enumerate(test.clips.clip_id)}
        answered = [name for name in names if name in position]
        probabilities = test.probabilities[:, [position[name] for name in answered]]
        seeds = len(probabilities)
        is_answer = probabilities.argmax(2)[..., None] == np.arange(len(test.actions))
        votes = is_answer.sum(0)  # [clips, actions]
        winners = (votes + probabilities.mean(0) / 2).argmax(1)
        answers[condition] = {
            name: [test.actions[winner], int(count[winner]), seeds]
            for name, winner, count in zip(answered, winners, votes, strict=True)
        }
    return answers


def truth_records(times_s: dict[str, np.ndarray]) -> dict[str, dict]:
    """Return what is true of rendered clips.

    times_s: times of the frames [T] by clip_id.  `events` are the steps that show the events.
    """
    columns = ["sound_kind", "audible", "sound_belongs", "audio_labels", "event_times_s"]
    records = {}
    for name, row in truth.rows(columns).items():
        if name not in times_s:
            continue
        events = steps_at(np.array(row["event_times_s"] or []), times_s[name])
        records[name] = {
            "kind": row["sound_kind"],
            "audible": row["audible"],
            "belongs": row["sound_belongs"],
            "labels": row["audio_labels"] or [],
            "events": sorted(set(events.tolist())),
        }
    return records


def rounded(value: float | None, places: int = 3) -> float | None:
    """Return a number rounded for JSON, None for what is no finite number."""
    if value is None or not np.isfinite(value):
        return None
    return round(float(value), places)
