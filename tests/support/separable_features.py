"""Features whose truth is known, and the conditions that learn from them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from audio_from_video.runtime import stage_run
from audio_from_video.storage import shards
from stages import classifier
from tests.support import synthetic
from tests.support.conditions import condition_keys
from tests.support.shard_rows import index_row

ACTIONS = ["a", "b", "c", "d"]
STEPS = 6
VIDEO_WIDTH = 8  # of rgb and of flow
AUDIO_WIDTH = 5
CONDITIONS = {
    "logistic": condition_keys(model="logistic"),
    "video_only": condition_keys(),
    "matched": condition_keys(match_parameters=True),
    "real_audio": condition_keys(train_audio="real", test_audio="real"),
    "zero_fill": condition_keys(train_audio="real", test_audio="zeros"),
    "missing_token": condition_keys(train_audio="real", test_audio="token", missing_rate=0.5),
}


def write_features(
    video_gain: float = 0.25,
    audio_gain: float = 2.0,
    per_action: int = 16,
    actions=ACTIONS,
    without_audio: int = 4,
) -> list[dict]:
    """Write video and audio features and data/missing_audio.parquet; return the clips' rows.

    A feature is noise plus a direction per action, weak in video and strong in audio; every
    `without_audio`-th clip has no sound.
    """
    rng = np.random.default_rng(0)
    video_directions = rng.normal(size=(4, VIDEO_WIDTH))
    audio_directions = rng.normal(size=(4, AUDIO_WIDTH))
    rows = []
    for split, count in (("training", per_action), ("validation", 6), ("test", 9)):
        for a, action in enumerate(actions):
            for i in range(count):
                row = index_row(f"{action}/{split}{i // 2}{action}_{i}", split)
                for name in ("rgb", "flow"):
                    noise = rng.normal(size=(STEPS, VIDEO_WIDTH))
                    row[name] = noise + video_gain * video_directions[a]
                noise = rng.normal(size=(STEPS, AUDIO_WIDTH))
                row["audio"] = noise + audio_gain * audio_directions[a]
                rows.append(row)
    rows.sort(key=lambda row: (row["split"], row["action"], row["clip_id"]))

    synthetic.write_missing(rows)
    for name in ("rgb", "flow"):
        _write_column(Path("data/video_features") / name, rows, name)
    audible = [row for i, row in enumerate(rows) if i % without_audio]
    _write_column(Path("data/audio_features"), audible, "audio")
    return rows


def _write_column(directory: Path, rows: list[dict], name: str) -> None:
    """Write one of the rows' arrays [steps, width] as features."""
    width = rows[0][name].shape[1]
    schema = pa.schema([("features", shards.tensor(pa.float16(), STEPS, width))])
    rows = [row | {"features": row[name]} for row in rows]
    shards.write(directory, schema, rows, rows, "v")


def train(condition: str, workers: int = 1) -> dict:
    """Run the classifier on a condition of params.yaml; return its metrics."""
    classifier.main(stage_run.StageRun("classifier", condition, workers))
    return json.loads(Path(f"metrics/classifier/{condition}.json").read_text())
