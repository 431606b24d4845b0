"""Keep or reject generated audio features by whether what they sound like fits the action.

Reads    data/predicted_labels/<architecture>, data/dictionary.parquet and its embeddings, data/audio_features, data/frames,
         data/predictions/{video_only,generated,mapped}.parquet; for metrics alone data/truth.parquet, data/generated
Writes   data/filter/semantic_validation.parquet (what `semantic_validation` generated) and data/filter/caption_mapping.parquet (`caption_mapping`), a row per labelled clip:
             clip_id, split, action    string
             predicted_action  string  by `video_only`, seeds averaged; out of fold on training clips
             score             float32 of the generated audio, against `filter.action` (the predicted one by default)
             keep              bool    score >= threshold
             score_oracle, keep_oracle        the same against the true action: leaky
             score_real, keep_real            of the real audio's labels (null and false where it is inaudible)
             score_published, keep_published  the research description's way: true action, dictionary entry, 0.72, and
                                              only clips with exactly `frames.count` frames and audible sound
         metrics/filter.json (by architecture) and, as DVC plots, metrics/plots/filter/{sweep,mapping}.csv (see
         common/filter_measures.py); `auto` chooses a threshold for each architecture
Score (research description): the embeddings of the clip's predicted labels, weighted by their scores, give one vector v;
score = cos(v, r), where r is the action's embedding (`reference: action`) or the mean of its dictionary labels weighted
by similarity (`entry`).  `centre` subtracts the mean label embedding first; `calibration: action` replaces a score by its
percentile among training clips of other actions, because one threshold for all selects actions instead of clips.
"""

import json
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field
from safetensors import safe_open

from audio_from_video.evaluation import filter as filter_evaluation
from audio_from_video.meaning.similarity import closest, unit
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout, predictions, shards

AUDIO = layout.AUDIO_FEATURES
PUBLISHED_THRESHOLD = 0.72  # the research description's N
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("clip_id", "split", "action", "predicted_action")),
        *(
            (f"{kind}{way}", dtype)
            for way in ("", "_oracle", "_real", "_published")
            for kind, dtype in (("score", pa.float32()), ("keep", pa.bool_()))
        ),
    ]
)


class FilterParams(params.Section):
    threshold: float | Literal["auto"]
    action: Literal["predicted", "label"]
    reference: Literal["action", "entry"]
    centre: bool
    calibration: Literal["none", "action"]
    labels: int = Field(ge=1, le=527)
    entry_size: int = Field(ge=1, le=527)


class Embeddings:
    """Unit vectors of labels [L, D] and of each action's reference [D], centred or not."""

    def __init__(self, reference: str, centre: bool, entry_size: int):
        with safe_open(layout.DICTIONARY_EMBEDDINGS, "numpy") as file:
            names = json.loads(file.metadata()["names"])
            actions, labels = file.get_tensor("actions"), file.get_tensor("labels")
        if reference == "entry":
            actions = self._entries(names, labels, entry_size)
        mean = labels.mean(0) if centre else 0.0
        self.labels, self.actions = unit(labels - mean), unit(actions - mean)
        self.row = {action: i for i, action in enumerate(names["actions"])}

    @staticmethod
    def _entries(names: dict, labels: np.ndarray, size: int) -> np.ndarray:
        """Each action's dictionary labels, averaged by similarity [A, D]."""
        table = shards.read_table(layout.DICTIONARY).to_pandas()
        table = table[table["rank"] <= size]
        position = {label: i for i, label in enumerate(names["labels"])}
        groups = dict(tuple(table.groupby("action")))
        return np.stack(
            [
                np.average(
                    labels[[position[label] for label in groups[action].audio_label]],
                    axis=0,
                    weights=groups[action].similarity,
                )
                for action in names["actions"]
            ]
        )

    def of_scores(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Label scores [N, L] -> unit vectors [N, D] of their `count` highest labels, weighted by score.

        Summing all labels would blur it: hundreds of small scores pull every vector to the same mean.
        """
        top = closest(scores, count)
        weights = np.take_along_axis(scores, top, 1)
        return unit((self.labels[top] * weights[..., None]).sum(1))

    def fit(self, vectors: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Cosine [N] of each vector with its action's reference."""
        return (vectors * self.actions[[self.row[action] for action in actions]]).sum(1)


def calibrate(
    scores: np.ndarray, asked: np.ndarray, background: dict[str, np.ndarray]
) -> np.ndarray:
    """Percentile (0..1) of each score among `background[action]`, the ascending scores of training clips of other
    actions against the asked action."""
    pairs = zip(scores, asked, strict=True)
    return np.array(
        [
            np.searchsorted(background[action], score, side="right") / len(background[action])
            for score, action in pairs
        ]
    )


def background_scores(
    embeddings: Embeddings, vectors: np.ndarray, actions: np.ndarray
) -> dict[str, np.ndarray]:
    """For each action the ascending scores of training vectors [N, D] whose own action is another one."""
    return {
        action: np.sort(vectors[actions != action] @ embeddings.actions[row])
        for action, row in embeddings.row.items()
    }


def score_clips(table: pd.DataFrame, scores: dict[str, np.ndarray], p: FilterParams) -> None:
    """Add all score columns to the table of clips; scores: label scores [N, L] by `generated` and `real`."""
    embeddings = Embeddings(p.reference, p.centre, p.entry_size)
    training = (table.split == "training").to_numpy()
    truth, predicted = table.action.to_numpy(), table.predicted_action.to_numpy()
    asked = predicted if p.action == "predicted" else truth
    for name, actions, way in (
        ("score", asked, "generated"),
        ("score_oracle", truth, "generated"),
        ("score_real", asked, "real"),
    ):
        vectors = embeddings.of_scores(scores[way], p.labels)
        values = embeddings.fit(vectors, actions)
        if p.calibration == "action":
            known = training & table.heard.to_numpy() if way == "real" else training
            values = calibrate(
                values, actions, background_scores(embeddings, vectors[known], predicted[known])
            )
        table[name] = values
    table.loc[~table.heard, "score_real"] = np.nan
    plain = Embeddings("entry", False, p.entry_size)
    table["score_published"] = plain.fit(plain.of_scores(scores["generated"], p.labels), truth)


def read_clips(architecture: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """The labelled clips in the order of data/predicted_labels, and their label scores [N, L]."""
    source = layout.predicted_labels(architecture)
    table = pd.DataFrame(shards.ok_rows(source))[["clip_id", "split", "action", "source_id"]]
    columns = shards.read_columns(source, ["generated"])
    if columns["clip_id"] != table.clip_id.tolist():
        raise UserError(
            f"{source} is not in the order of its index: run `dvc repro label_predictor`"
        )
    heard = shards.read_columns(AUDIO, ["label_scores"], table.split.unique())
    position = {name: i for i, name in enumerate(heard["clip_id"])}
    table["heard"] = table.clip_id.isin(position)
    real = np.zeros_like(columns["generated"], np.float32)
    real[table.heard] = heard["label_scores"][
        [position[name] for name in table.clip_id[table.heard]]
    ]
    table["predicted_action"] = table.clip_id.map(predictions.read("video_only").consensus())
    if table.predicted_action.isna().any():
        raise UserError(
            "some clips have no predicted action: the filter needs classifier.conditions.video_only.out_of_fold of at least 2"
        )
    return table, {"generated": columns["generated"].astype(np.float32), "real": real}


def judge(architecture: str, p: FilterParams) -> dict:
    """Score and decide the clips of one architecture; its metrics."""
    output, plot = layout.decisions(architecture), layout.filter_sweep(architecture)
    table, scores = read_clips(architecture)
    score_clips(table, scores, p)
    sweep = filter_evaluation.sweep(table, scores, ARCHITECTURES[architecture].generated)
    threshold = filter_evaluation.best_threshold(sweep) if p.threshold == "auto" else p.threshold
    for way in ("", "_oracle", "_real"):
        table[f"keep{way}"] = (table[f"score{way}"] >= threshold).to_numpy()
    count = params.read("frames", "count", int)
    exact = {row["clip_id"] for row in shards.ok_rows(layout.FRAMES) if row["frame_count"] == count}
    table["keep_published"] = (
        (table.score_published >= PUBLISHED_THRESHOLD) & table.heard & table.clip_id.isin(exact)
    )
    shards.write_table(
        pa.Table.from_pandas(table[SCHEMA.names], schema=SCHEMA, preserve_index=False), output
    )
    plot.parent.mkdir(parents=True, exist_ok=True)
    sweep.to_csv(plot, index=False, float_format="%.6f")
    return {
        "threshold": threshold,
        **filter_evaluation.measure(table, scores, layout.generated(architecture)),
    }


def main(stage: stage_run.StageRun) -> None:
    p = params.load("filter", FilterParams)
    architectures = params.read("generator", "architectures", dict[str, str])
    found = {name: judge(name, p) for name in ARCHITECTURES if name in architectures}
    stage.write_metrics(found)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "filter")
