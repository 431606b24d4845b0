"""What classifiers answered: data/predictions/<condition>.parquet, and the figures that come from it alone.

A row per seed and clip:
    seed           int32
    clip_id, split, action, source_id   string
    predicted      string     the most probable action
    probabilities  tensor float32 [actions], in the order of the schema's metadata `actions` (JSON)
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards

FOLDER = Path("data/predictions")
CLIP_COLUMNS = ["clip_id", "split", "action", "source_id"]


@dataclass(frozen=True)
class Predictions:
    """clips: a row per clip, CLIP_COLUMNS; probabilities [seeds, clips, actions]."""

    clips: pd.DataFrame
    actions: list[str]
    probabilities: np.ndarray

    def of(self, split: str) -> "Predictions":
        """The predictions for one split."""
        chosen = (self.clips.split == split).to_numpy()
        return Predictions(
            self.clips[chosen].reset_index(drop=True), self.actions, self.probabilities[:, chosen]
        )

    @property
    def labels(self) -> np.ndarray:
        """The true action's index of each clip [clips], -1 where it is unlabelled."""
        return (
            self.clips.action.map({action: i for i, action in enumerate(self.actions)})
            .fillna(-1)
            .to_numpy(int)
        )

    @property
    def answers(self) -> np.ndarray:
        """The predicted action's index [seeds, clips]."""
        return self.probabilities.argmax(2)

    def hits(self, top: int = 1) -> np.ndarray:
        """Share of seeds that have the true action among their `top` most probable ones [clips]; 0 for unlabelled clips."""
        rank, labels = (-self.probabilities).argsort(2, kind="stable").argsort(2), self.labels
        return (rank[:, np.arange(len(self.clips)), labels] < top).mean(0) * (labels >= 0)

    def consensus(self) -> pd.Series:
        """The action with the highest probability averaged over seeds, indexed by clip_id."""
        best = self.probabilities.mean(0).argmax(1)
        return pd.Series([self.actions[i] for i in best], index=self.clips.clip_id)


def write(condition: str, predictions: Predictions) -> None:
    """Write the predictions of a condition."""
    schema = pa.schema(
        [
            ("seed", pa.int32()),
            *((name, pa.string()) for name in (*CLIP_COLUMNS, "predicted")),
            ("probabilities", shards.tensor(pa.float32(), len(predictions.actions))),
        ],
        {"actions": json.dumps(predictions.actions)},
    )
    clips = (
        predictions.clips[CLIP_COLUMNS]
        .astype(object)
        .replace({float("nan"): None})
        .to_dict("records")
    )  # unlabelled: no action
    rows = [
        {
            "seed": seed,
            **clip,
            "predicted": predictions.actions[int(vector.argmax())],
            "probabilities": vector,
        }
        for seed, vectors in enumerate(predictions.probabilities)
        for clip, vector in zip(clips, vectors, strict=True)
    ]
    shards.write_table(shards.to_table(rows, schema), FOLDER / f"{condition}.parquet")


def read(condition: str) -> Predictions:
    """The predictions of a condition, clips in the order in which they were written."""
    path = FOLDER / f"{condition}.parquet"
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro classifier@{condition}`")
    return of_table(shards.read_table(path))


def of_table(table: pa.Table) -> Predictions:
    """The predictions that a file of them holds."""
    seeds = max(1, len(set(table["seed"].to_pylist())))
    probabilities = shards.as_array(table["probabilities"])
    clips = table.select(CLIP_COLUMNS).to_pandas().iloc[: len(table) // seeds]
    names = json.loads(table.schema.metadata[b"actions"])
    return Predictions(clips, names, probabilities.reshape(seeds, len(clips), len(names)))
