"""Predictions of classifiers: data/predictions/<condition>.parquet.

A row per seed and clip:
    seed           int32
    clip_id, split, action, source_id   string
    predicted      string     the most probable action
    probabilities  tensor float32 [actions], in the order of the schema's metadata `actions` (JSON)
"""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import layout, shards

CLIP_COLUMNS = ["clip_id", "split", "action", "source_id"]


@dataclass(frozen=True)
class Predictions:
    """Probabilities of actions by the classifiers of one condition, one per seed.

    clips: a row per clip with CLIP_COLUMNS.  probabilities: [seeds, clips, actions].
    """

    clips: pd.DataFrame
    actions: list[str]
    probabilities: np.ndarray

    def of(self, split: str) -> "Predictions":
        """Return the predictions for the clips of one split."""
        in_split = (self.clips.split == split).to_numpy()
        clips = self.clips[in_split].reset_index(drop=True)
        return Predictions(clips, self.actions, self.probabilities[:, in_split])

    @property
    def labels(self) -> np.ndarray:
        """The index of each clip's true action [clips], -1 where the clip is unlabelled."""
        index_of = {action: index for index, action in enumerate(self.actions)}
        return self.clips.action.map(index_of).fillna(-1).to_numpy(int)

    @property
    def answers(self) -> np.ndarray:
        """The index of the predicted action [seeds, clips]."""
        return self.probabilities.argmax(2)

    def hits_by_seed(self, top: int = 1) -> np.ndarray:
        """Return whether each training has the true action among its best, bool [seeds, clips].

        top: how many of the most probable actions count.  Unlabelled clips are no hits.
        """
        labels = self.labels
        # [seeds, clips, actions]: 0 for the most probable action, the first one of equals.
        ranks = (-self.probabilities).argsort(2, kind="stable").argsort(2)
        rank_of_label = ranks[:, np.arange(len(self.clips)), labels]
        return (rank_of_label < top) & (labels >= 0)

    def hits(self, top: int = 1) -> np.ndarray:
        """Return by clip [clips] the share of seeds that have the true action among their best."""
        return self.hits_by_seed(top).mean(0)

    def ensemble(self) -> "Predictions":
        """Return the answers of all trainings together: their mean probabilities, as one seed."""
        return Predictions(self.clips, self.actions, self.probabilities.mean(0, keepdims=True))

    def consensus(self) -> pd.Series:
        """Return the action with the highest mean probability over seeds, indexed by clip_id."""
        best = self.probabilities.mean(0).argmax(1)
        return pd.Series([self.actions[i] for i in best], index=self.clips.clip_id)


def write(condition: str, predictions: Predictions) -> None:
    """Write the predictions of a condition to its file."""
    fields = [pa.field("seed", pa.int32())]
    fields += [pa.field(name, pa.string()) for name in (*CLIP_COLUMNS, "predicted")]
    width = len(predictions.actions)
    fields.append(pa.field("probabilities", shards.tensor(pa.float32(), width)))
    schema = pa.schema(fields, {"actions": json.dumps(predictions.actions)})

    # pandas holds the missing action of unlabelled clips as NaN, Arrow as null.
    clips = predictions.clips[CLIP_COLUMNS].astype(object).replace({float("nan"): None})
    # Column by column: a million clips are too many for a dict each, and the seeds share theirs.
    of_clips = [pa.array(clips[name], pa.string()) for name in CLIP_COLUMNS]
    actions = np.array(predictions.actions, dtype=object)
    parts = [schema.empty_table()]
    if len(clips):
        for seed, probabilities in enumerate(predictions.probabilities):
            # A copy: Arrow refuses the strides that a view of a single clip may have.
            vectors = np.array(probabilities, np.float32, order="C")
            columns = [
                pa.array(np.full(len(clips), seed, np.int32)),
                *of_clips,
                pa.array(actions[vectors.argmax(1)], pa.string()),
                pa.FixedShapeTensorArray.from_numpy_ndarray(vectors),
            ]
            parts.append(pa.table(columns, schema=schema))
    shards.write_table(pa.concat_tables(parts), layout.predictions(condition))


def read(condition: str) -> Predictions:
    """Return the predictions of a condition, clips in the order in which they were written.

    Raises UserError where the classifier has not written them yet.
    """
    path = layout.predictions(condition)
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro classifier@{condition}`")
    return from_table(shards.read_table(path))


def from_table(table: pa.Table) -> Predictions:
    """Return the predictions in a table as `write` writes it."""
    seeds = max(1, len(table["seed"].unique()))
    clips = table.select(CLIP_COLUMNS).slice(0, len(table) // seeds).to_pandas()
    actions = json.loads(table.schema.metadata[b"actions"])
    probabilities = shards.as_array(table["probabilities"])
    return Predictions(clips, actions, probabilities.reshape(seeds, len(clips), len(actions)))
