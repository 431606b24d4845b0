"""The stages that judge and tell, on the outputs of a run with every clip many times.

Their settings are those of params.yaml.  The run must be of the present code.
"""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audio_from_video.storage import shards
from benchmarks.scale_parts.measuring import Folder, Record
from benchmarks.scale_parts.tables import copy_output, measure_stages, write_facts

STAGES = ("label_predictor", "filter", "missingness", "bundle", "report")
FEATURES = {"features"}  # the column that gets noise
# Directories with a row per clip, and those of their columns that get noise.
OUTPUTS: dict[str, set[str]] = {
    "data/video_features/rgb": FEATURES,
    "data/video_features/flow": FEATURES,
    "data/audio_features": FEATURES,
    "data/generated/semantic_validation": FEATURES,
    "data/generated/caption_mapping": FEATURES,
    "data/audio": set(),
    "data/captions": set(),
    "data/frames": set(),
    "data/log_mels": set(),
    "data/mapping": set(),
    "data/optical_flow": set(),
    "data/predicted_labels/semantic_validation": set(),
    "data/predicted_labels/caption_mapping": set(),
    "data/representative_frames": set(),
}
# Files with rows of clips.
TABLES = ("data/clips.parquet", "data/predictions/*.parquet", "data/missing_rates/*.parquet")
# What does not grow with the clips.
AS_IT_IS = (
    "data/dictionary*",
    "data/mapping/_captions.parquet",
    "data/mapping/_labels.safetensors",
    "metrics",
    "models",
)
MOST_COPIES = 10  # pictures and sounds are written for each of them


def copy_table(source: Path, target: Path, copies: int) -> None:
    """Write a file with every row `copies` times, each of a clip and a source of its own.

    Rows of a seed stay together.
    """
    table = pq.read_table(source)
    metadata = {k: v for k, v in (table.schema.metadata or {}).items() if k != shards.CLIP_SET}
    rows = np.tile(np.arange(len(table)), copies)
    number = np.repeat(np.arange(copies), len(table))
    if "seed" in table.column_names:
        order = table["seed"].to_numpy()[rows].argsort(kind="stable")
        rows, number = rows[order], number[order]
    table = table.take(rows)
    ending = pa.array([f"~{copy}" for copy in number], pa.string())
    for name in ("clip_id", "source_id"):
        if name in table.column_names:
            named = pc.binary_join_element_wise(table[name], ending, "")
            table = table.set_column(table.column_names.index(name), name, named)
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.replace_schema_metadata(metadata), target)


def prepare(run: Path, folder: Path, copies: int) -> tuple[Folder, int]:
    """Write all that the stages read; return the folder and the number of clips."""
    place = Folder(folder / f"evaluation-{copies}", {})
    counts = [copy_output(run, place.path, name, copies, noisy) for name, noisy in OUTPUTS.items()]
    for pattern in TABLES:
        for source in sorted(run.glob(pattern)):
            copy_table(source, place.path / source.relative_to(run), copies)
    for pattern in AS_IT_IS:
        for source in sorted(run.glob(pattern)):
            target = place.path / source.relative_to(run)
            if source.is_dir():
                shutil.copytree(source, target)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
    write_facts(place.path)
    return place, max(counts)


def measure(
    folder: Path, run: Path, sizes: list[int], stages: list[str], limit_s: float, record: Record
) -> None:
    """Measure the stages with every clip of a run 1, 10, ... times, up to MOST_COPIES.

    stages: which of STAGES; []: all of them.
    """
    sizes = [copies for copies in sizes if copies <= MOST_COPIES]
    chosen = [stage for stage in STAGES if not stages or stage in stages]
    measure_stages(chosen, partial(prepare, run, folder), sizes, limit_s, "evaluation", record)
