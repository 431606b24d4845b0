"""A small data folder as the stages before the generator leave it: sound is a linear function of what is seen.

`make` gives a dict per clip, which a test may change, `write` puts them below data/ of the current directory.
"""

import json
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
STEPS, WIDTH, COMPONENTS, POOLED, LABELS = 6, 8, 5, 24, 12
NETWORK = {
    "hidden": 12,
    "projection": 12,
    "dropout": 0.0,
    "learning_rate": 0.02,
    "batch_size": 8,
    "epochs": 3,
    "patience": 3,
}
SIZES = {"training": 12, "validation": 6, "test": 6}
LABEL_NAMES = (
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
)  # AudioSet's
CAPTIONS = (
    "a dog in the rain",
    "two people clap their hands in a crowd",
    "a saw and a hammer",
    "wind",
    "rain",
    "a bell and laughter",
)
AST = {
    "num_labels": LABELS,
    "hidden_size": POOLED,
    "num_hidden_layers": 1,
    "max_length": 120,
}  # hears 1.2 s


def make(
    seed: int = 0,
    actions=ACTIONS,
    sizes=SIZES,
    unlabelled: int = 12,
    noise: float = 0.05,
    head=None,
) -> list[dict]:
    """Clips in the shards' order; two of a source, every fifth without sound; the first unlabelled ones share their source
    with training clips.  `head`: pooled [N, POOLED] -> label scores [N, LABELS], AST's own where it matters."""
    rng = np.random.default_rng(seed)
    ways = {action: rng.normal(size=4) for action in actions}
    to_rgb, to_flow, to_audio = (
        rng.normal(size=(4, WIDTH)),
        rng.normal(size=(4, WIDTH)),
        rng.normal(size=(4, COMPONENTS)),
    )
    to_pooled, to_labels = (
        rng.normal(size=(COMPONENTS, POOLED)),
        rng.normal(size=(POOLED, LABELS)) / 4,
    )
    kinds = [
        (split, action, i)
        for split, count in sizes.items()
        for action in actions
        for i in range(count)
    ]
    kinds += [("unlabelled", None, i) for i in range(unlabelled)]
    rows = []
    for number, (split, action, i) in enumerate(kinds):
        way = ways[action] if action else ways[actions[i % len(actions)]]
        hidden = way + rng.normal(size=4) + 0.7 * rng.normal(size=(STEPS, 4))  # what happens [T, 4]
        audio = hidden @ to_audio
        pooled = audio.mean(0) @ to_pooled
        source = (
            f"training-{actions[0]}-{i // 2}"
            if split == "unlabelled" and i < 4
            else f"{split}-{action}-{i // 2}"
        )
        wave = (
            0.3
            * np.sin(2 * np.pi * (300 + 40 * number) * np.arange(16_000) / 16_000)
            * np.linspace(0.2, 1, 16_000)
        )
        rows.append(
            {
                "clip_id": f"set/{split}-{number:03d}",
                "split": split,
                "action": action,
                "source_id": source,
                "item_key": None,
                "status": "ok",
                "reason": "",
                "rgb": hidden @ to_rgb + noise * rng.normal(size=(STEPS, WIDTH)),
                "flow": hidden @ to_flow + noise * rng.normal(size=(STEPS, WIDTH)),
                "audio": audio,
                "audible": number % 5 != 3,
                "pooled": pooled,
                "label_scores": 1 / (1 + np.exp(-pooled @ to_labels))
                if head is None
                else head(pooled[None])[0],
                "flac": codecs.encode_flac((wave * 32767).astype(np.int16)),
                "frame_count": STEPS - (number % 7 == 0),
                "sound_belongs": bool(number % 5 != 3 and rng.random() < 0.8),
            }
        )
    return rows


def write(rows: list[dict], truth: bool = True) -> None:
    """The outputs of video_features, audio, audio_features and frames, the projection and the truth."""
    rows = sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    audible = [row for row in rows if row["audible"]]
    for name in ("rgb", "flow"):
        write_shards(
            Path("data/video_features") / name,
            {"features": (STEPS, WIDTH)},
            [row | {"features": row[name]} for row in rows],
        )
    shapes = {"features": (STEPS, COMPONENTS), "pooled": (POOLED,), "label_scores": (LABELS,)}
    write_shards(
        Path("data/audio_features"), shapes, [row | {"features": row["audio"]} for row in audible]
    )
    index = [row if row["audible"] else row | {"status": "silent"} for row in rows]
    shards.write(Path("data/audio"), pa.schema([("flac", pa.binary())]), audible, index, "v")
    shards.write(
        Path("data/frames"), pa.schema([]), [], rows, "v", [pa.field("frame_count", pa.int32())]
    )
    Path("models").mkdir(exist_ok=True)
    eye = np.eye(COMPONENTS, POOLED, dtype=np.float32)
    save_file(
        {"mean": np.ones(POOLED, np.float32), "components": eye},
        "models/audio_projection.safetensors",
    )
    write_missing(rows)
    columns = ("clip_id", "split", "action", "sound_belongs")
    known = [
        dict.fromkeys(TRUTH_SCHEMA.names) | {key: row[key] for key in columns}
        for row in rows
        if truth
    ]
    shards.write_table(pa.Table.from_pylist(known, schema=TRUTH_SCHEMA), Path("data/truth.parquet"))


def write_missing(rows: list[dict], draws: int = 2) -> None:
    """data/missing_audio.parquet: test clips lose their audio in the order of their number; the second draw in the reverse."""
    names = [row["clip_id"] for row in rows if row["split"] == "test"]
    order = [(i + 0.5) / len(names) for i in range(len(names))]
    table = {
        "draw": [draw for draw in range(draws) for _ in names],
        "clip_id": names * draws,
        "order": order + order[::-1],
    }
    shards.write_table(pa.table(table), Path("data/missing_audio.parquet"))


def write_shards(directory: Path, shapes: dict[str, tuple[int, ...]], rows: list[dict]) -> None:
    """A directory of float16 tensor columns."""
    shards.write(
        directory,
        pa.schema([(name, shards.tensor(pa.float16(), *shape)) for name, shape in shapes.items()]),
        rows,
        rows,
        "v",
    )


def write_captions(rows: list[dict], seed: int = 0) -> None:
    """data/captions: a row's own `captions` {step: text}, else one of CAPTIONS at one or two steps, drawn by clip."""
    rng = np.random.default_rng(seed)
    for row in rows:
        steps = sorted(rng.choice(STEPS, size=rng.integers(1, 3), replace=False).tolist())
        drawn = {step: str(rng.choice(CAPTIONS)) for step in steps}
        row.setdefault("captions", drawn)
    rows = sorted(rows, key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))
    stored = [
        row | {"steps": list(row["captions"]), "captions": list(row["captions"].values())}
        for row in rows
        if row["status"] == "ok"
    ]
    schema = pa.schema([("steps", pa.list_(pa.int32())), ("captions", pa.list_(pa.string()))])
    shards.write(Path("data/captions"), schema, stored, rows, "v")


def write_label_audio(
    names=LABEL_NAMES, folds: int = 3, seed: int = 0, spread: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """data/label_audio: whole [L, A], and folds [K, L, A] that differ from it by `spread`."""
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
    """data/dictionary.parquet (three labels an action) and its embeddings, all off centre: actions [A, D] and labels [L, D]."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(actions) + LABELS, width)).astype(np.float32) + 0.6
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    own, labels = vectors[: len(actions)], vectors[len(actions) :]
    names = {"actions": list(actions), "labels": [f"label {i}" for i in range(LABELS)]}
    Path("data").mkdir(exist_ok=True)
    save_file(
        {"actions": own, "labels": labels},
        "data/dictionary_embeddings.safetensors",
        {"names": json.dumps(names)},
    )
    entries = [
        {
            "action": action,
            "rank": rank + 1,
            "audio_label": f"label {label}",
            "similarity": float((labels @ own[a])[label]),
        }
        for a, action in enumerate(actions)
        for rank, label in enumerate(np.argsort(-labels @ own[a])[:3])
    ]
    shards.write_table(pa.Table.from_pylist(entries), Path("data/dictionary.parquet"))
    return own, labels


def write_predictions(
    condition: str, rows: list[dict], seed: int = 0, skill: float = 1.0, actions=ACTIONS
) -> predictions.Predictions:
    """Random answers of a classifier, two seeds, for the labelled rows, better than chance by `skill`."""
    rng = np.random.default_rng(seed)
    rows = sorted(
        (row for row in rows if row["action"]),
        key=lambda row: (row["split"], row["action"], row["clip_id"]),
    )
    right = np.array([row["action"] for row in rows])[:, None] == np.array(actions)
    logits = rng.normal(size=(2, *right.shape)) + skill * right
    probabilities = (np.exp(logits) / np.exp(logits).sum(2, keepdims=True)).astype(np.float32)
    made = predictions.Predictions(
        pd.DataFrame(rows)[predictions.CLIP_COLUMNS], list(actions), probabilities
    )
    predictions.write(condition, made)
    return made


def map_captions(workers: int = 1) -> dict:
    """Run the mapping; its metrics."""
    mapping.main(stage_run.StageRun("mapping", "", workers))
    return json.loads(Path("metrics/mapping.json").read_text())


def generate(workers: int = 1, architecture: str = "semantic_validation") -> dict:
    """Run the generator; its metrics."""
    generator.main(stage_run.StageRun("generator", architecture, workers))
    return json.loads(Path(f"metrics/generator/{architecture}.json").read_text())


def generated(architecture: str = "semantic_validation") -> dict[str, bytes]:
    """The bytes of each clip's generated features."""
    found = shards.read_columns(Path("data/generated") / architecture, ["features"])
    return {
        name: features.tobytes()
        for name, features in zip(found["clip_id"], found["features"], strict=True)
    }
