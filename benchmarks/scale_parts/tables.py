"""The stages after the features, on the outputs of a run with every clip many times.

A copy of a clip has a name and a source of its own, and noise on its features.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import chdir
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from audio_from_video.clipset import truth
from audio_from_video.clipset.splits import missing_audio_table
from audio_from_video.storage import layout, shards
from benchmarks.scale_parts.measuring import Folder, Measurement, Record

# What is copied: directory, columns, and those of them that get noise.
COPIED = {
    "data/video_features/rgb": (["features"], {"features"}),
    "data/video_features/flow": (["features"], {"features"}),
    "data/audio_features": (["features", "label_scores", "pooled"], {"features"}),
    "data/captions": (["steps", "captions"], set()),
}
NOISE = 0.05  # of the values' deviation
SEED = 0
RETRIEVAL = {
    "model": "lstm",
    "train_audio": "retrieved",
    "test_audio": "retrieved",
    "real_audio": "data/audio_features",
    **dict.fromkeys(
        ("generated_audio", "teacher_predictions", "decisions"), "data/video_features/rgb"
    ),
}
# One training of one epoch: more of them cost as much again.
CHANGES: dict[str, dict[str, Any]] = {
    "classifier": {
        "seeds": 1,
        "repeats": 0,
        "missing_rates": [0.0],
        "lstm": {"epochs": 1, "min_steps": 1},
        "logistic": {"inverse_regularisation": [0.01]},
        "heads": {"audio_gains": [1.0]},
        "conditions": {"retrieval": RETRIEVAL, "video_only": {"out_of_fold": 2}},
    },
    "generator": {"seeds": 1, "folds": 2, "lstm": {"epochs": 1, "min_steps": 1}},
}
STAGES = (
    "label_audio",
    "mapping",
    "classifier logistic",
    "classifier video_only",
    "classifier retrieval",
    "generator semantic_validation",
    "generator caption_mapping",
)


def copy_output(
    run: Path,
    folder: Path,
    name: str,
    copies: int,
    noisy: set[str],
    columns: list[str] | None = None,
) -> int:
    """Write an output with every clip `copies` times; return the number of clips.

    noisy: columns that get noise.  columns: that are copied; None: all.
    """
    source = run / name
    stored_schema = pq.read_schema(shards.shard_paths(source)[0])
    columns = columns or [column for column in stored_schema.names if column != "clip_id"]
    stored = {row["clip_id"]: row for row in shards.iter_rows(source, columns)}
    index = []
    for row in shards.read_index(source).to_pylist():
        for copy in range(copies):
            names = {key: f"{row[key]}~{copy}" for key in ("clip_id", "source_id")}
            index.append(row | names | {"original": row["clip_id"]})
    index.sort(key=lambda row: (row["split"], row["action"] or "", row["clip_id"]))

    def rows() -> Iterator[dict]:
        for number, row in enumerate(index):
            if row["status"] == "ok":
                values = stored[row["original"]]
                rng = np.random.default_rng([SEED, number])
                with_noise = {key: add_noise(values[key], rng) for key in noisy}
                yield {**values, **with_noise, **{key: row[key] for key in row}}

    schema = pa.schema([stored_schema.field(column) for column in columns])
    shards.write(folder / name, schema, rows(), index, shards.item_version(source), facts(source))
    return len(index)


def facts(source: Path) -> list[pa.Field]:
    """Return the fields that an output's index has beside those of all indices."""
    schema = pq.read_schema(source / shards.INDEX)
    common = {field.name for field in shards.INDEX_FIELDS}
    return [field for field in schema if field.name not in common]


def add_noise(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return features with normal noise."""
    noise = rng.normal(0, NOISE * values.std(), values.shape)
    return (values + noise).astype(values.dtype)


def write_facts(folder: Path) -> None:
    """Write what the stages know of copied clips: which lack their audio, and no truth."""
    clips = shards.ok_rows(folder / "data/video_features/rgb")
    shards.write_table(missing_audio_table(clips, 0), folder / layout.MISSING_AUDIO)
    with chdir(folder):
        truth.pass_on(str(folder))


def prepare(run: Path, folder: Path, copies: int) -> tuple[Folder, int]:
    """Write all that the stages read; return the folder and the number of clips."""
    place = Folder(folder / f"tables-{copies}", CHANGES)
    counts = [
        copy_output(run, place.path, name, copies, noisy, columns)
        for name, (columns, noisy) in COPIED.items()
    ]
    write_facts(place.path)
    (place.path / "models").mkdir()
    shutil.copy(run / layout.AUDIO_PROJECTION, place.path / layout.AUDIO_PROJECTION)
    return place, max(counts)


def measure(
    folder: Path, run: Path, sizes: list[int], stages: list[str], limit_s: float, record: Record
) -> None:
    """Measure the stages with every clip of a run 1, 10, ... times.

    stages: which of STAGES; []: all of them.
    """
    chosen = [stage for stage in STAGES if not stages or stage in stages]
    measure_stages(chosen, partial(prepare, run, folder), sizes, limit_s, "tables", record)


def measure_stages(
    stages: Iterable[str],
    prepare: Callable[[int], tuple[Folder, int]],
    sizes: list[int],
    limit_s: float,
    part: str,
    record: Record,
) -> None:
    """Measure stages of a part for each number of copies.

    prepare: makes the folder for so many copies; see `prepare` of this module.  A stage that would
    take longer than `limit_s` at the next size is left out there.
    """
    last_s: dict[str, float] = {}
    last_copies = 1
    for copies in sizes:
        place, clips = prepare(copies)
        for stage in stages:
            if last_s.get(stage, 0.0) * copies / last_copies > limit_s:
                print(f"{stage}: left out at {clips} clips")
                continue
            cpu_s, memory_mib = place.run(*stage.split())
            last_s[stage] = cpu_s
            record(Measurement(part, stage, clips, cpu_s, memory_mib))
        last_copies = copies
        shutil.rmtree(place.path)
