"""What the report's clip browser shows of a test clip: pictures, sound, captions, labels, decisions, answers, truth.

Reads, of the drawn clips alone, data/{frames,optical_flow,audio,audio_features,representative_frames,captions,mapping},
data/predicted_labels, data/filter/semantic_validation.parquet, data/filter/caption_mapping.parquet, data/predictions and, to stand beside the answers,
data/truth.parquet.  Whatever but frames and predictions is absent is left out: not every run has both architectures.
"""

import base64
import json
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from safetensors import safe_open
from scipy.signal import stft

from audio_from_video.audioset import labels as audioset_labels
from audio_from_video.evaluation.motion import shown_at
from audio_from_video.media import codecs
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.layout import DATA

FRAME_PX, FLOW_PX, QUALITY = 96, 64, 70  # heights on the page
TOP = 3  # labels shown of each kind
WAVE_BINS, MEL_BANDS, MEL_FLOOR_DB = 240, 64, -80.0
LISTEN_BITS = (
    10  # of the sound to listen to: half the bytes of 16, and its noise at -60 dB is not heard
)
WINDOW, HOP = 512, 160  # samples of the log-mel's windows: 32 ms every 10 ms


def records(count: int, conditions: list[str], seed: int = 0) -> list[dict]:
    """A JSON-able dict for each of at most `count` test clips, drawn so that actions are balanced, in the order of clip_id."""
    chosen = draw(shards.ok_rows(DATA / "frames"), count, seed)
    names = [row["clip_id"] for row in chosen]
    pictures, flow = (
        stored("frames", ["jpegs", "times_s"], names),
        stored("optical_flow", ["jpegs"], names),
    )
    answered = answers(conditions, names)
    parts: dict[str, dict] = {
        "sound": sounds(names),
        "moving": motion(names),
        "captions": captions(names),
        "heard": heard(names),
        "architectures": architectures(names),
        "truth": truth({name: row["times_s"] for name, row in pictures.items()}),
    }
    found = []
    for row in chosen:
        name, times = row["clip_id"], pictures[row["clip_id"]]["times_s"]
        found.append(
            {
                "id": name,
                "action": row["action"],
                "source": row["source_id"],
                "steps": len(times),
                "duration": round(float(times[-1] + times[min(1, len(times) - 1)]), 3),
                "frames": sprite(pictures[name]["jpegs"], FRAME_PX),
                "flow": sprite(flow[name]["jpegs"], FLOW_PX) if name in flow else None,
                **{key: part.get(name) for key, part in parts.items()},
                "answers": {condition: known.get(name) for condition, known in answered.items()},
            }
        )
    return found


def draw(clips: list[dict], count: int, seed: int) -> list[dict]:
    """At most `count` test clips of the index rows: by turns of each action, whose clips come in the order of their hash."""
    by_action: dict[str, list[dict]] = {}
    for row in sorted(clips, key=lambda row: digest(seed, row["clip_id"])):
        if row["split"] == "test":
            by_action.setdefault(row["action"], []).append(row)
    turns = (row for turn in zip_longest(*by_action.values()) for row in turn if row is not None)
    return sorted(
        [row for row, _ in zip(turns, range(count), strict=False)], key=lambda row: row["clip_id"]
    )


def stored(stage: str, columns: list[str], names: list[str]) -> dict[str, dict]:
    """The rows of test clips in a stage's shards, by clip_id; none where the stage has not run or refused the clip."""
    directory = DATA / stage
    found = (
        ds.dataset(directory, format="parquet", partitioning="hive") if directory.is_dir() else None
    )
    if not found or not found.files or not names:
        return {}
    table = found.to_table(
        ["clip_id", *columns],
        filter=(ds.field("split") == "test") & ds.field("clip_id").isin(names),
    )
    return {row["clip_id"]: row for row in shards.to_rows(table)}


def rows_of(path: Path, columns: list[str] | None, names: list[str]) -> dict[str, dict]:
    """The rows of clips in one Parquet file, by clip_id, `columns` or all; none where there is no file."""
    if not path.is_file() or not names:
        return {}
    table = pq.read_table(
        path, columns=columns and ["clip_id", *columns], filters=[("clip_id", "in", names)]
    )
    return {row["clip_id"]: row for row in table.to_pylist()}


def uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def sprite(jpegs: list[bytes], height: int) -> str:
    """Images side by side as one JPEG of `height` px, as a data URI."""
    images = [codecs.decode_jpeg(data) for data in jpegs]
    tall, wide = images[0].shape[:2]
    size = (max(1, round(wide * height / tall)), height)
    row = np.hstack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images])
    return uri("image/jpeg", codecs.encode_jpeg(row, QUALITY))


def sounds(names: list[str]) -> dict[str, dict]:
    """Per clip the status of its sound and its level in dBFS; where it is audible FLAC, envelope and log-mel."""
    index = rows_of(DATA / "audio" / shards.INDEX, None, names)
    audible = stored("audio", ["flac"], names)
    found = {}
    for name in names:
        row = index.get(name, {})
        found[name] = {
            "status": row.get("status", "unknown"),
            "level": rounded(row.get("rms_dbfs"), 1),
        }
        if name in audible:
            samples = codecs.decode_flac(audible[name]["flac"])
            found[name] |= {
                "flac": uri("audio/flac", to_listen(samples)),
                "wave": envelope(samples),
                "mel": log_mel_picture(samples),
            }
    return found


def to_listen(samples: np.ndarray) -> bytes:
    """Samples as FLAC, as loud as they can be, in steps of LISTEN_BITS."""
    full = 2 ** (LISTEN_BITS - 1) - 1
    steps = np.round(samples / max(np.abs(samples).max(initial=0), 1e-9) * full)
    return codecs.encode_flac(steps.astype(np.int16) << (16 - LISTEN_BITS))


def envelope(samples: np.ndarray) -> list[int]:
    """The largest magnitude in each of WAVE_BINS stretches of time, in per cent of the clip's largest."""
    peaks = np.array([np.abs(part).max(initial=0) for part in np.array_split(samples, WAVE_BINS)])
    return np.round(100 * peaks / max(peaks.max(), 1e-9)).astype(int).tolist()


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Power in dB [MEL_BANDS, time] from 0 to half the rate, low bands first, relative to the largest, not below MEL_FLOOR_DB."""
    hz, _, spectrum = stft(samples, codecs.SAMPLE_RATE_HZ, nperseg=WINDOW, noverlap=WINDOW - HOP)
    top = 2595 * np.log10(1 + codecs.SAMPLE_RATE_HZ / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, MEL_BANDS + 2) / 2595) - 1)  # of the triangles, Hz
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    bands = np.clip(np.minimum((hz - low) / (middle - low), (high - hz) / (high - middle)), 0, None)
    bands[np.arange(MEL_BANDS), np.abs(hz - middle).argmin(1)] += (
        1e-3  # the lowest triangles lie between two bins
    )
    level = 10 * np.log10(bands @ np.abs(spectrum) ** 2 + 1e-12)
    return np.maximum(level - level.max(), MEL_FLOOR_DB)


def log_mel_picture(samples: np.ndarray) -> str:
    """The log-mel as a JPEG, low bands below, as a data URI."""
    level = 1 - log_mel(samples)[::-1] / MEL_FLOOR_DB
    image = cv2.applyColorMap(np.round(255 * level).astype(np.uint8), cv2.COLORMAP_MAGMA)
    return uri("image/jpeg", codecs.encode_jpeg(image, 85))


def motion(names: list[str]) -> dict[str, dict]:
    """Per clip the motion of each step, px per step, and the representative frames' steps."""
    found = stored("representative_frames", ["magnitudes", "steps"], names)
    return {
        name: {
            "motion": [rounded(value, 2) for value in row["magnitudes"].tolist()],
            "chosen": row["steps"],
        }
        for name, row in found.items()
    }


def captions(names: list[str]) -> dict[str, list[dict]]:
    """Per clip its captions with their step and the labels that each was mapped to, [name, weight]."""
    mapped = stored("mapping", ["labels", "similarity"], names)
    known = label_names() if mapped else []
    found = {}
    for name, row in stored("captions", ["steps", "captions"], names).items():
        found[name] = [
            {"step": step, "text": text}
            for step, text in zip(row["steps"], row["captions"], strict=True)
        ]
        for caption in found[name] if name in mapped else ():
            labels, weights = (
                mapped[name][key][caption["step"]] for key in ("labels", "similarity")
            )
            caption["labels"] = [
                [known[label], rounded(weight)]
                for label, weight in zip(labels, weights, strict=True)
                if label >= 0
            ]
    return found


def label_names() -> list[str]:
    """Names of the labels that `mapping` numbers."""
    with safe_open(DATA / "mapping/_labels.safetensors", "numpy") as file:
        return json.loads(next(iter(file.metadata().values())))["names"]


def best(scores: np.ndarray) -> list[list]:
    """The TOP labels of highest score, [name, score]."""
    names = audioset_labels.load_labels()
    return [
        [names[i].display_name, rounded(scores[i])]
        for i in np.argsort(-scores.astype(np.float32), kind="stable")[:TOP]
    ]


def heard(names: list[str]) -> dict[str, list[list]]:
    """Per audible clip the labels that AST finds in its real sound."""
    return {
        name: best(row["label_scores"])
        for name, row in stored("audio_features", ["label_scores"], names).items()
    }


def architectures(names: list[str]) -> dict[str, dict]:
    """Per clip and architecture the labels its generated audio sounds like, and the filter's score and decision."""
    found: dict[str, dict] = {name: {} for name in names}
    for architecture in ARCHITECTURES:
        labels = stored(f"predicted_labels/{architecture}", ["generated"], names)
        decisions = rows_of(
            layout.decisions(architecture), ["predicted_action", "score", "keep"], names
        )
        for name in labels.keys() | decisions.keys():
            entry: dict = {"labels": best(labels[name]["generated"])} if name in labels else {}
            if row := decisions.get(name):
                entry |= {
                    "against": row["predicted_action"],
                    "score": rounded(row["score"]),
                    "keep": row["keep"],
                }
            found[name][architecture] = entry
    return found


def answers(conditions: Iterable[str], names: list[str]) -> dict[str, dict[str, list]]:
    """By condition and clip: the action that most seeds answered (of equals the more probable), how many did, of how many."""
    found = {}
    for condition in conditions:
        test = predictions.read(condition).of("test")
        place = {name: i for i, name in enumerate(test.clips.clip_id)}
        asked = [name for name in names if name in place]
        probabilities = test.probabilities[:, [place[name] for name in asked]]
        votes = (probabilities.argmax(2)[..., None] == np.arange(len(test.actions))).sum(
            0
        )  # [clips, actions]
        winners = (votes + probabilities.mean(0) / 2).argmax(1)
        found[condition] = {
            name: [test.actions[winner], int(count[winner]), len(probabilities)]
            for name, winner, count in zip(asked, winners, votes, strict=True)
        }
    return found


def truth(times_s: dict[str, np.ndarray]) -> dict[str, dict]:
    """Per rendered clip what is audible, whether it belongs to the action, its labels, and the steps that show its events."""
    columns = ["sound_kind", "audible", "sound_belongs", "audio_labels", "event_times_s"]
    return {
        name: {
            "kind": row["sound_kind"],
            "audible": row["audible"],
            "belongs": row["sound_belongs"],
            "labels": row["audio_labels"] or [],
            "events": sorted(
                set(shown_at(np.array(row["event_times_s"] or []), times_s[name]).tolist())
            ),
        }
        for name, row in rows_of(DATA / "truth.parquet", columns, list(times_s)).items()
    }


def rounded(value: float | None, places: int = 3) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), places)
