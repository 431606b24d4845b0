"""Keep or reject generated audio features by whether what they sound like fits the action.

Reads    data/predicted_labels/<architecture>, data/dictionary.parquet and its embeddings,
         data/audio_features, data/frames, data/predictions/{video_only,generated,mapped}.parquet;
         for metrics alone data/truth.parquet and data/generated
Writes   data/filter/<architecture>.parquet, a row per labelled clip:
             clip_id, split, action    string
             predicted_action  string  by `video_only`, seeds averaged; out of fold on training
                                       clips
             score             float32 of the generated audio, against `filter.action` (the
                                       predicted one by default)
             keep              bool    score >= threshold
             score_oracle, keep_oracle        the same against the true action: leaky
             score_real, keep_real            of the real audio's labels (null and false where it
                                              is inaudible)
             score_published, keep_published  the research description's way: true action,
                                              dictionary entry, 0.72, and only clips with exactly
                                              `frames.count` frames and audible sound
         metrics/filter.json (by architecture) and, as DVC plots,
         metrics/plots/filter/<architecture>.csv (evaluation/filter.py); `auto` and `cross_fitted`
         choose a threshold for each architecture
Score (research description): the embeddings of the clip's predicted labels, weighted by their
scores, give one vector v; score = cos(v, r), where r is the action's embedding
(`reference: action`) or the mean of its dictionary labels weighted by similarity (`entry`).
`centre` subtracts the mean label embedding first; `calibration: action` replaces a score by its
percentile among training clips of other actions, because one threshold for all selects actions
instead of clips.
With `score: confidence` a clip's score is the share of the variance of real sound that its
generator expects to explain; real sound has 1. It knows no action: `score_oracle` is the same.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors import safe_open

from audio_from_video.evaluation import filter as filter_evaluation
from audio_from_video.evaluation.filter import PUBLISHED_THRESHOLD
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.meaning.action_fit import (
    ActionFit,
    background_scores,
    calibrate,
    entry_means,
)
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.meaning.settings import LABEL_CUT, FilterParams
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import fit_on, layout, predictions, shards

# Endings of the columns `score` and `keep`.
DECISIONS = ("", "_oracle", "_real", "_published")


def decision_schema() -> pa.Schema:
    """Return the schema of data/filter/<architecture>.parquet."""
    fields = [
        ("clip_id", pa.string()),
        ("split", pa.string()),
        ("action", pa.string()),
        ("predicted_action", pa.string()),
    ]
    for decision in DECISIONS:
        fields += [(f"score{decision}", pa.float32()), (f"keep{decision}", pa.bool_())]
    return pa.schema(fields)


# ---- scores ----


def read_embeddings(reference: str, centre: bool, entry_size: int) -> ActionFit:
    """Return the dictionary's embeddings as `ActionFit` takes them.

    reference: action or entry.  centre: whether the labels' mean is subtracted.
    entry_size: labels of an action's dictionary entry.
    """
    with safe_open(layout.DICTIONARY_EMBEDDINGS, "numpy") as file:
        names = json.loads(file.metadata()["names"])
        actions = file.get_tensor("actions")
        labels = file.get_tensor("labels")
    if reference == "entry":
        dictionary = shards.read_table(layout.DICTIONARY).to_pandas()
        actions = entry_means(dictionary, names["actions"], names["labels"], labels, entry_size)
    return ActionFit(names["actions"], actions, labels, centre)


def score_clips(
    clips: pd.DataFrame, label_scores: dict[str, np.ndarray], filter_params: FilterParams
) -> None:
    """Add all score columns to the table of clips.

    label_scores: [N, L] by `generated` and `real`.
    """
    embeddings = read_embeddings(
        filter_params.reference, filter_params.centre, filter_params.entry_size
    )
    is_training = (clips.split == "training").to_numpy()
    true_actions = clips.action.to_numpy()
    predicted_actions = clips.predicted_action.to_numpy()
    actions = predicted_actions if filter_params.action == "predicted" else true_actions
    for name, compared, audio in (
        ("score", actions, "generated"),
        ("score_oracle", true_actions, "generated"),
        ("score_real", actions, "real"),
    ):
        vectors = embeddings.of_scores(label_scores[audio], filter_params.labels)
        scores = embeddings.fit(vectors, compared)
        if filter_params.calibration == "action":
            # Inaudible clips have no real labels to be compared with.
            others = is_training & clips.audible.to_numpy() if audio == "real" else is_training
            background = background_scores(embeddings, vectors[others], predicted_actions[others])
            scores = calibrate(scores, compared, background)
        clips[name] = scores
    clips.loc[~clips.audible, "score_real"] = np.nan

    # As the research description does, whatever the parameters say.
    published = read_embeddings("entry", False, filter_params.entry_size)
    vectors = published.of_scores(label_scores["generated"], filter_params.labels)
    clips["score_published"] = published.fit(vectors, true_actions)


def score_by_confidence(clips: pd.DataFrame, architecture: str) -> None:
    """Replace the scores by the share of variance that the generator expects to explain.

    It is 1 - mean predicted variance / mean variance of real sound, over seeds, steps and
    components. `score_published` stays.
    Raises UserError where the generator predicts no deviations.
    """
    source = layout.generated(architecture)
    if not shards.has_column(source, "deviation"):
        raise UserError(
            f"filter.score: confidence needs predicted deviations, and {source} has none: "
            "set generator.lstm.variance to predicted"
        )
    variance = real_variance()
    explained = {}
    for row in shards.iter_rows(source, ["deviation"], clips.split.unique()):
        expected = np.square(row["deviation"].astype(np.float32)).mean()
        explained[row["clip_id"]] = 1 - expected / variance
    clips["score"] = clips.clip_id.map(explained)
    clips["score_oracle"] = clips.score
    clips["score_real"] = np.where(clips.audible, 1.0, np.nan)


def real_variance() -> float:
    """Return the variance of the training clips' real sound, a mean over components.

    It is that of clips that models are fitted on: later ones change no score.
    """
    count = 0
    total = np.zeros(shards.tensor_shape(layout.AUDIO_FEATURES, "features")[-1])
    squares = np.zeros_like(total)
    names = sorted(shards.ok_clip_ids(layout.AUDIO_FEATURES))
    known = {name for name, is_known in zip(names, fit_on.fitted(names), strict=True) if is_known}
    for row in shards.iter_rows(layout.AUDIO_FEATURES, ["features"], ["training"], known):
        features = row["features"].astype(float)  # [T, A]
        count += len(features)
        total += features.sum(0)
        squares += np.square(features).sum(0)
    return float((squares / count - np.square(total / count)).mean())


# ---- clips and decisions ----


def read_clips(architecture: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return the labelled clips and their label scores [N, L] by `generated` and `real`.

    Both are in the order of data/predicted_labels.  The real scores of inaudible clips are 0.

    Raises:
        UserError: outputs do not fit each other, or `video_only` does not answer all clips.
    """
    source = layout.predicted_labels(architecture)
    clips = pd.DataFrame(shards.ok_rows(source))[["clip_id", "split", "action", "source_id"]]
    predicted = shards.read_columns(source, ["generated"])
    if predicted["clip_id"] != clips.clip_id.tolist():
        raise UserError(
            f"{source} is not in the order of its index: run `dvc repro label_predictor`"
        )
    clips["predicted_action"] = clips.clip_id.map(predictions.read(BASELINE).consensus())
    if clips.predicted_action.isna().any():
        raise UserError(
            "some clips have no predicted action: the filter needs "
            f"classifier.conditions.{BASELINE}.out_of_fold of at least 2"
        )
    real_scores = shards.read_columns(layout.AUDIO_FEATURES, ["label_scores"], clips.split.unique())
    position = {name: i for i, name in enumerate(real_scores["clip_id"])}
    clips["audible"] = clips.clip_id.isin(position)
    # Inaudible clips keep zeros; their scores are taken away later.
    real = np.zeros_like(predicted["generated"], np.float32)
    order = [position[name] for name in clips.clip_id[clips.audible]]
    real[clips.audible] = real_scores["label_scores"][order]
    return clips, {"generated": predicted["generated"].astype(np.float32), "real": real}


def decide(clips: pd.DataFrame, threshold: float) -> None:
    """Add all decisions to the table of scored clips."""
    for decision in ("", "_oracle", "_real"):
        clips[f"keep{decision}"] = (clips[f"score{decision}"] >= threshold).to_numpy()
    count = params.read("frames", "count", int)
    frames = shards.ok_rows(layout.FRAMES)
    whole = {row["clip_id"] for row in frames if row["frame_count"] == count}
    is_near = clips.score_published >= PUBLISHED_THRESHOLD
    clips["keep_published"] = is_near & clips.audible & clips.clip_id.isin(whole)


def filter_architecture(architecture: str, filter_params: FilterParams) -> dict:
    """Score and decide the clips of one architecture, write both outputs and return its metrics."""
    clips, label_scores = read_clips(architecture)
    score_clips(clips, label_scores, filter_params)
    if filter_params.score == "confidence":
        score_by_confidence(clips, architecture)
    condition = ARCHITECTURES[architecture].generated
    found = label_cut(params.read("label_predictor", "threshold", LABEL_CUT))
    sweep = filter_evaluation.threshold_sweep(clips, label_scores, condition, found)
    threshold = filter_params.threshold
    if threshold == "auto":
        threshold = filter_evaluation.best_threshold(sweep)
    elif threshold == "cross_fitted":
        threshold = filter_evaluation.cross_fitted_threshold(clips, label_scores, found)
    decide(clips, threshold)

    schema = decision_schema()
    table = pa.Table.from_pandas(clips[schema.names], schema=schema, preserve_index=False)
    shards.write_table(table, layout.decisions(architecture))
    sweep_path = layout.filter_sweep(architecture)
    sweep_path.parent.mkdir(parents=True, exist_ok=True)
    sweep.to_csv(sweep_path, index=False, float_format="%.6f")
    figures = filter_evaluation.filter_figures(
        clips, label_scores, layout.generated(architecture), found
    )
    return {"threshold": threshold, **figures}


def main(stage: stage_run.StageRun) -> None:
    """Run the stage."""
    filter_params = params.load("filter", FilterParams)
    configured = params.read("generator", "architectures", dict[str, str])
    metrics = {}
    for architecture in ARCHITECTURES:
        if architecture in configured:
            metrics[architecture] = filter_architecture(architecture, filter_params)
    stage.write_metrics(metrics)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "filter")
