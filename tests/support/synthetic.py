"""A small data folder as the stages before the generator leave it.

Sound is a linear function of what is seen. `make_clips` gives a dict per clip, which a test may
change, and `write_data` puts them below data/ of the current directory.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.numpy import save_file

from audio_from_video.clipset.truth import TRUTH_SCHEMA
from audio_from_video.media import codecs
from audio_from_video.runtime import stage_run
from audio_from_video.storage import predictions, shards
from stages import generator, mapping

ACTIONS = ("boiling", "clapping", "waving")
STEPS = 6
HIDDEN = 4  # width of what happens in a clip, of which picture and sound are linear functions
WIDTH = 8  # of rgb and of flow
COMPONENTS = 5  # of the audio features
POOLED = 24
LABELS = 12
SOUND_HZ = 16_000
NETWORK = {
    "hidden": 12,
    "projection": 12,
    "dropout": 0.0,
    "learning_rate": 0.02,
    "batch_size": 8,
    "epochs": 3,
    "min_steps": 0,
    "patience": 3,
    "patience_steps": 0,
}
SIZES = {"training": 12, "validation": 6, "test": 6}
LABEL_NAMES = (  # AudioSet's
    "Crowd",
    "Hands",
    "Applause",
    "Rain",
    "Dog",
    "Saw",
    "Boiling",
    "Hammer",
    "Guitar",
    "Wind",
    "Laughter",
    "Bell",
)
CAPTIONS = (
    "a dog in the rain",
    "two people clap their hands in a crowd",
    "a saw and a hammer",
    "wind",
    "rain",
    "a bell and laughter",
)
AST = {  # a model that hears 1.2 s
    "num_labels": LABELS,
    "hidden_size": POOLED,
    "num_hidden_layers": 1,
    "max_length": 120,
}


def make_clips(
    seed: int = 0,
    actions=ACTIONS,
    sizes=SIZES,
    unlabelled: int = 12,
    noise: float = 0.05,
    head: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[dict]:
    """Return clips with their features, in the order of the shards.

    `sizes` are numbers of clips per split and action. Two clips have one source, and every fifth
    has no sound; the first unlabelled ones share their source with training clips. `head` maps
    pooled [N, POOLED] to label scores [N, LABELS]: AST's own where it matters, else a linear one.
    """
    rng = np.random.default_rng(seed)
    directions = {action: rng.normal(size=HIDDEN) for action in actions}
    to_rgb = rng.normal(size=(HIDDEN, WIDTH))
    to_flow = rng.normal(size=(HIDDEN, WIDTH))
    to_audio = rng.normal(size=(HIDDEN, COMPONENTS))
    to_pooled = rng.normal(size=(COMPONENTS, POOLED))
    to_labels = rng.normal(size=(POOLED, LABELS)) / 4

    clips = []
    for number, (split, action, i) in enumerate(_places(actions, sizes, unlabelled)):
        direction = directions[action or actions[i % len(actions)]]
        of_clip = direction + rng.normal(size=HIDDEN)
        hidden = of_clip + 0.7 * rng.normal(size=(STEPS, HIDDEN))
        audio = hidden @ to_audio
        pooled = audio.mean(0) @ to_pooled
        label_scores = 1 / (1 + np.exp(-pooled @ to_labels))
        if head is not None:
            label_scores = head(pooled[None])[0]
        is_borrowed = split == "unlabelled" and i < 4
        source = f"training-{actions[0]}" if is_borrowed else f"{split}-{action}"
        audible = number % 5 != 3
        clip = {
            "clip_id": f"set/{split}-{number:03d}",
            "split": split,
            "action": action,
            "source_id": f"{source}-{i // 2}",
            "item_key": None,
            "status": "ok",
            "reason": "",
            "rgb": hidden @ to_rgb + noise * rng.normal(size=(STEPS, WIDTH)),
            "flow": hidden @ to_flow + noise * rng.normal(size=(STEPS, WIDTH)),
            "audio": audio,
            "audible": audible,
            "pooled": pooled,
            "label_scores": label_scores,
            "flac": _tone(300 + 40 * number),
            "frame_count": STEPS - (number % 7 == 0),
            "sound_belongs": bool(audible and rng.random() < 0.8),
        }
        clips.append(clip)
    return clips


def _places(actions, sizes: dict[str, int], unlabelled: int) -> list[tuple[str, str | None, int]]:
    """Return each clip's split, action and number within them."""
    places: list[tuple[str, str | None, int]] = []
    for split, count in sizes.items():
        for action in actions:
            places += [(split, action, i) for i in range(count)]
    places += [("unlabelled", None, i) for i in range(unlabelled)]
    return places


@cache  # coding them takes most of `make_clips`
def _tone(frequency_hz: float) -> bytes:
    """Return a second of a tone that grows louder, as FLAC."""
    seconds = np.arange(SOUND_HZ) / SOUND_HZ
    wave = 0.3 * np.sin(2 * np.pi * frequency_hz * seconds) * np.linspace(0.2, 1, SOUND_HZ)
    return codecs.encode_flac((wave * 32767).astype(np.int16))


def in_order(rows: list[dict]) -> list[dict]:
    """Return clips in the order of the shards."""
    return sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))


def write_data(rows: list[dict], truth: bool = True) -> None:
    """Write what the stages write of these clips that generator and classifier read.

    These are the outputs of video_features, audio, audio_features and frames, the projection, the
    table of missing audio, and the truth (empty without `truth`).
    """
    rows = in_order(rows)
    audible = [row for row in rows if row["audible"]]
    for name in ("rgb", "flow"):
        features = [row | {"features": row[name]} for row in rows]
        directory = Path("data/video_features") / name
        write_shards(directory, {"features": (STEPS, WIDTH)}, features)
    shapes = {"features": (STEPS, COMPONENTS), "pooled": (POOLED,), "label_scores": (LABELS,)}
    features = [row | {"features": row["audio"]} for row in audible]
    write_shards(Path("data/audio_features"), shapes, features)

    index = [row if row["audible"] else row | {"status": "silent"} for row in rows]
    shards.write(Path("data/audio"), pa.schema([("flac", pa.binary())]), audible, index, "v")
    facts = [pa.field("frame_count", pa.int32())]
    shards.write(Path("data/frames"), pa.schema([]), [], rows, "v", facts)

    Path("models").mkdir(exist_ok=True)
    projection = {
        "mean": np.ones(POOLED, np.float32),
        "components": np.eye(COMPONENTS, POOLED, dtype=np.float32),
        "explained": np.full(COMPONENTS, 1 / COMPONENTS),
    }
    save_file(projection, "models/audio_projection.safetensors")
    write_missing(rows)

    columns = ("clip_id", "split", "action", "sound_belongs")
    empty = dict.fromkeys(TRUTH_SCHEMA.names)
    known = [empty | {name: row[name] for name in columns} for row in rows] if truth else []
    table = pa.Table.from_pylist(known, schema=TRUTH_SCHEMA)
    shards.write_table(table, Path("data/truth.parquet"))


def write_missing(rows: list[dict], draws: int = 2) -> None:
    """Write data/missing_audio.parquet.

    Test clips lose their audio in the order of their number; in the second draw in the reverse.
    """
    names = [row["clip_id"] for row in rows if row["split"] == "test"]
    order = [(i + 0.5) / len(names) for i in range(len(names))]
    table = {
        "draw": np.repeat(np.arange(draws), len(names)),
        "clip_id": names * draws,
        "order": order + order[::-1],
    }
    shards.write_table(pa.table(table), Path("data/missing_audio.parquet"))


def write_shards(directory: Path, shapes: dict[str, tuple[int, ...]], rows: list[dict]) -> None:
    """Write a directory of float16 tensor columns, whose shapes are given by name."""
    columns = [(name, shards.tensor(pa.float16(), *shape)) for name, shape in shapes.items()]
    shards.write(directory, pa.schema(columns), rows, rows, "v")


def write_captions(rows: list[dict], seed: int = 0) -> None:
    """Write data/captions.

    A clip's captions {step: text} are its own `captions`; else one of CAPTIONS at one or two steps,
    drawn by clip.
    """
    rng = np.random.default_rng(seed)
    for row in rows:
        steps = sorted(rng.choice(STEPS, size=rng.integers(1, 3), replace=False).tolist())
        row.setdefault("captions", {step: str(rng.choice(CAPTIONS)) for step in steps})
    rows = in_order(rows)
    stored = []
    for row in rows:
        if row["status"] == "ok":
            captions = row["captions"]
            stored.append(row | {"steps": list(captions), "captions": list(captions.values())})
    schema = pa.schema([("steps", pa.list_(pa.int32())), ("captions", pa.list_(pa.string()))])
    shards.write(Path("data/captions"), schema, stored, rows, "v")


def write_label_audio(
    names=LABEL_NAMES, folds: int = 3, seed: int = 0, spread: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Write data/label_audio and return it: whole [L, A], and folds [K, L, A].

    The folds differ from the whole by `spread`.
    """
    rng = np.random.default_rng(seed)
    whole = rng.normal(size=(len(names), COMPONENTS)).astype(np.float32)
    by_fold = (whole + spread * rng.normal(size=(folds, *whole.shape))).astype(np.float32)
    Path("data/label_audio").mkdir(parents=True, exist_ok=True)
    save_file({"whole": whole, "folds": by_fold}, "data/label_audio/features.safetensors")
    table = {
        "label": list(names),
        "mid": [f"/m/{i}" for i in range(len(names))],
        "evidence": [9.0] * len(names),
    }
    known = {"borrowed": [False] * len(names), "neighbours": [[] for _ in names]}
    shards.write_table(pa.table(table | known), Path("data/label_audio/labels.parquet"))
    return whole, by_fold


def write_dictionary(
    actions=ACTIONS, seed: int = 0, width: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Write data/dictionary.parquet, three labels an action, and its embeddings.

    Returns the embeddings of actions [A, D] and labels [L, D], all off centre.
    """
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(actions) + LABELS, width)).astype(np.float32) + 0.6
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    of_actions = vectors[: len(actions)]
    of_labels = vectors[len(actions) :]
    names = {"actions": list(actions), "labels": [f"label {i}" for i in range(LABELS)]}
    Path("data").mkdir(exist_ok=True)
    save_file(
        {"actions": of_actions, "labels": of_labels},
        "data/dictionary_embeddings.safetensors",
        {"names": json.dumps(names)},
    )

    entries = []
    for a, action in enumerate(actions):
        similarities = of_labels @ of_actions[a]
        for rank, label in enumerate(np.argsort(-similarities)[:3]):
            entry = {
                "action": action,
                "rank": rank + 1,
                "audio_label": f"label {label}",
                "similarity": float(similarities[label]),
            }
            entries.append(entry)
    shards.write_table(pa.Table.from_pylist(entries), Path("data/dictionary.parquet"))
    return of_actions, of_labels


def write_predictions(
    condition: str, rows: list[dict], seed: int = 0, skill: float = 1.0, actions=ACTIONS
) -> predictions.Predictions:
    """Write and return a classifier's random answers for the labelled clips, of two seeds.

    They are better than chance by `skill`.
    """
    rng = np.random.default_rng(seed)
    rows = in_order([row for row in rows if row["action"]])
    is_right = np.array([row["action"] for row in rows])[:, None] == np.array(actions)
    logits = rng.normal(size=(2, *is_right.shape)) + skill * is_right
    probabilities = (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).astype(np.float32)
    clips = pd.DataFrame(rows)[predictions.CLIP_COLUMNS]
    answers = predictions.Predictions(clips, list(actions), probabilities)
    predictions.write(condition, answers)
    return answers


def map_captions(workers: int = 1) -> dict:
    """Run the mapping; return its metrics."""
    mapping.main(stage_run.StageRun("mapping", "", workers))
    return json.loads(Path("metrics/mapping.json").read_text())


def generate(workers: int = 1, architecture: str = "semantic_validation") -> dict:
    """Run the generator; return its metrics."""
    generator.main(stage_run.StageRun("generator", architecture, workers))
    return json.loads(Path(f"metrics/generator/{architecture}.json").read_text())


def generated_bytes(architecture: str = "semantic_validation") -> dict[str, bytes]:
    """Return the bytes of each clip's generated features."""
    columns = shards.read_columns(Path("data/generated") / architecture, ["features"])
    pairs = zip(columns["clip_id"], columns["features"], strict=True)
    return {clip_id: features.tobytes() for clip_id, features in pairs}
