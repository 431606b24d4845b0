"""Train and score the action classifier under one condition: what audio it has, and when.

Reads    data/video_features/{rgb,flow}, data/missing_audio.parquet, and the files that the
         condition names: real audio, generated audio, a teacher's predictions, decisions of the
         filter or the dictionary
Writes   data/predictions/<condition>.parquet, a row per seed and validation or test clip (see
         storage/predictions.py); with `out_of_fold` training clips, too, by models that have not
         seen their sources; with `answers_pool` unlabelled clips, too
         data/missing_rates/<condition>.parquet, a row per seed, missing rate and test clip:
             seed int32, missing_rate float32, clip_id, source_id string, hit bool
         models/classifier/<condition>/seed-<n>.safetensors and config.json
         metrics/classifier/<condition>.json
         metrics/plots/{loss,confusion}/<condition>.csv, plots of DVC

The LSTM reads RGB and flow features, concatenated [T, 2D], with audio [T, 2D + components]; its
last hidden state gives the action. Early stopping is on validation; test is scored once. A training
that ends at chance is repeated with other random numbers, and counted (classification/chance.py).
Conditions with `model: logistic` or `svm` have a linear or kernel head on mean and standard
deviation over time instead, whose settings are chosen by cross-validation over training sources: a
weak LSTM would make any gain meaningless.
"""

import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import save_file

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.head_weights import weights_of
from audio_from_video.classification.heads import fit_heads
from audio_from_video.classification.networks import parameter_count
from audio_from_video.classification.settings import ClassifierParams
from audio_from_video.classification.targets import training_targets
from audio_from_video.classification.training import (
    TrainingResult,
    TrainingTask,
    build,
    predictions_of,
    train_one,
)
from audio_from_video.evaluation import intervals
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.reporting import tables
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.vocabulary import LABELLED
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.predictions import Predictions
from audio_from_video.storage.row_file import scratch

MISSING_RATES = pa.schema(
    [
        ("seed", pa.int32()),
        ("missing_rate", pa.float32()),
        ("clip_id", pa.string()),
        ("source_id", pa.string()),
        ("hit", pa.bool_()),
    ]
)
Hits = list[list[np.ndarray]]  # by seed and missing rate: which test clips are predicted right


def main(stage: stage_run.StageRun) -> None:
    p = params.load("classifier", ClassifierParams)
    condition = p.conditions[stage.item]
    with scratch() as folder:
        data = ActionData(folder, condition, p.labels_per_action)
        if condition.model == "lstm":
            run_lstm(stage, data, p)
        else:
            run_heads(stage, data, p)


def run_heads(stage: stage_run.StageRun, data: ActionData, p: ClassifierParams) -> None:
    """Fit linear or kernel heads and write all outputs of the stage."""
    result = fit_heads(data, p)
    width = data.video.shape[-1]
    if data.sounds:
        width += data.sounds["real"].file.shape[-1]
    parameters = (2 * width + 1) * len(data.actions)
    write_config(stage.item, data, {})
    save_weights(stage.item, [weights_of(head) for head in result.heads])
    curves: list[list[dict]] = [[] for _ in result.hits]
    metrics = {"setting": asdict(result.setting), "parameters": parameters}
    write_outputs(stage, data, p, result.predictions, result.hits, curves, metrics)


def run_lstm(stage: stage_run.StageRun, data: ActionData, p: ClassifierParams) -> None:
    """Train the LSTMs and write all outputs of the stage."""
    all_predictions, results, counts = train_all(stage, data, p)
    save_weights(stage.item, [result.weights for result in results])
    fusion = p.fusion_of(data.condition)
    model = build(data, p.lstm, fusion, data.participants("training"))
    sizes = {
        "hidden": model.lstm.hidden_size,
        "projection": p.lstm.projection,
        "audio_width": len(model.audio_mean),
    }
    write_config(stage.item, data, sizes)
    hits = [result.hits for result in results]
    curves = [result.curve for result in results]
    metrics = {"parameters": parameter_count(model), "trainings": counts}
    write_outputs(stage, data, p, all_predictions, hits, curves, metrics)


def train_all(
    stage: stage_run.StageRun, data: ActionData, p: ClassifierParams
) -> tuple[Predictions, list[TrainingResult], dict[str, int]]:
    """Run all trainings; return predictions, results on all training clips by seed, and counts.

    Counts are those of `training_counts`. All are empty where the filter leaves nothing to train on
    or to score (`kept_only`).
    Raises UserError when a training fails.
    """
    probabilities = np.zeros((p.seeds, len(data.clips), len(data.actions)), np.float32)
    if not all(len(data.participants(split)) for split in LABELLED):
        nothing = torch.tensor([], dtype=torch.long)
        return predictions_of(data, nothing, probabilities), [], training_counts([])

    tasks = training_tasks(data, p, stage.item)
    trainings = parallel.map_items(train_one, tasks, stage.workers)
    results = list(stage.progress(trainings, len(tasks), "training", "computing_s"))
    for result in results:
        require_result(result, f"training {stage.item}")
    for task, result in zip(tasks, results, strict=True):
        probabilities[task.seed, task.predicted_indices] = result.probabilities
    counts = training_counts(results)
    if counts["repeated"]:
        print(
            f"{stage.name}: {counts['repeated']} of {counts['all']} trainings ended at chance and "
            f"were repeated with other random numbers; {counts['at_chance']} stayed there",
            file=sys.stderr,
        )
    # All seeds predict the same clips.
    predicted = torch.cat([task.predicted_indices for task in tasks if task.seed == 0])
    return predictions_of(data, predicted, probabilities), results[: p.seeds], counts


def training_counts(results: list[TrainingResult]) -> dict[str, int]:
    """Return how many trainings there were, were repeated, and stayed at chance."""
    return {
        "all": len(results),
        "repeated": sum(result.repeats > 0 for result in results),
        "at_chance": sum(result.at_chance for result in results),
    }


def training_tasks(data: ActionData, p: ClassifierParams, name: str) -> list[TrainingTask]:
    """Return the trainings of a condition: a seed each on all training clips, then on folds."""
    condition = data.condition
    parts = data.parts()
    data_key = data.key()
    tasks = []
    for number, (part, predicted) in enumerate(parts):
        labelled = part[data.uses_label[part]]
        at_missing_rates = number == 0 and not condition.kept_only
        for seed in range(p.seeds):
            training_indices, targets = training_targets(
                data, labelled, p.lstm.label_smoothing, p.teaching, seed
            )
            task = TrainingTask(
                data=data,
                p=p,
                seed=seed,
                name=name,
                training_indices=training_indices,
                targets=targets,
                predicted_indices=predicted,
                missing_rates=p.missing_rates if at_missing_rates else [],
                data_key=data_key,
            )
            tasks.append(task)
    return tasks


def save_weights(name: str, weights: list[dict[str, torch.Tensor]]) -> None:
    """Write the models' weights, a file for each seed."""
    folder = layout.classifier_model(name)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, of_seed in enumerate(weights):
        save_file(of_seed, folder / f"seed-{seed}.safetensors")


def write_config(name: str, data: ActionData, sizes: dict[str, int]) -> None:
    """Write config.json of the models: the condition, the actions and the networks' sizes."""
    config = {
        "condition": data.condition.model_dump(),
        "actions": data.actions,
        "video_width": data.video.shape[-1],
    }
    folder = layout.classifier_model(name)
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_json(folder / "config.json", config | sizes)


def write_outputs(
    stage: stage_run.StageRun,
    data: ActionData,
    p: ClassifierParams,
    all_predictions: Predictions,
    hits: Hits,
    curves: list[list[dict]],
    of_trainings: dict,
) -> None:
    """Write predictions, hits at the missing rates, plots and metrics.

    hits [seeds][rates]: bool [test clips]; curves: losses by epoch, for each seed; of_trainings:
    metrics of the networks or heads.
    """
    name = stage.item
    test = data.clips.iloc[data.participants("test").numpy()]
    predictions.write(name, all_predictions)
    table = missing_rates_table(test, p.missing_rates, hits)
    shards.write_table(table, layout.missing_rates(name))
    write_plots(name, curves, all_predictions.of("test"))
    metrics = condition_evaluation.classifier_figures(all_predictions)
    metrics["accuracy_at_missing_rate"] = missing_rates_figures(test, p.missing_rates, hits)
    metrics |= of_trainings
    metrics["clips"] = {split: len(data.participants(split)) for split in LABELLED}
    if data.audible_score is not None:
        metrics["audible_score"] = data.audible_score
    stage.write_metrics(metrics)


def missing_rates_table(test: pd.DataFrame, rates: list[float], hits: Hits) -> pa.Table:
    """Return a row per seed, missing rate and test clip (see the module's docstring).

    hits [seeds][rates]: bool [test clips]; empty where there are no trainings at missing rates.
    """
    parts = [MISSING_RATES.empty_table()]
    for seed, hits_by_rate in enumerate(hits):
        for rate, hit in zip(rates, hits_by_rate, strict=False):
            columns = [
                pa.array([seed] * len(test)),
                pa.array([rate] * len(test)),
                test.clip_id.tolist(),
                test.source_id.tolist(),
                hit,
            ]
            part = pa.table(columns, names=MISSING_RATES.names)
            parts.append(part.cast(MISSING_RATES))
    return pa.concat_tables(parts)


def missing_rates_figures(
    test: pd.DataFrame, rates: list[float], hits: Hits
) -> dict[str, dict[str, float]]:
    """Return accuracy with its interval by missing rate; hits as in `missing_rates_table`."""
    figures: dict[str, dict[str, float]] = {}
    if not any(hits):
        return figures
    hit_matrix = np.array(hits, float)  # [seeds, rates, test clips]
    for i, rate in enumerate(rates):
        mean_over_seeds = hit_matrix[:, i].mean(0)
        figures[f"{rate:g}"] = intervals.interval(mean_over_seeds, test.source_id.to_numpy())
    return figures


def write_plots(name: str, curves: list[list[dict]], test: Predictions) -> None:
    """Write CSV files for DVC's plots: losses by epoch, true and predicted actions on test."""
    epochs = []
    for seed, curve in enumerate(curves):
        for epoch in curve:
            epochs.append({"seed": seed, **epoch})
    loss = pd.DataFrame(epochs, columns=["seed", "epoch", "training_loss", "validation_loss"])

    predicted = np.array(test.actions)[test.answers]  # [seeds, clips]
    actual = np.tile(test.clips.action, len(predicted))
    confusion = pd.DataFrame({"actual": actual, "predicted": predicted.ravel()})
    confusion = confusion.map(tables.plain)

    for kind, table in (("loss", loss), ("confusion", confusion)):
        path = layout.classifier_plot(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6f")


if __name__ == "__main__":
    stage_run.main(
        main,
        __doc__,
        "classifier",
        "condition",
        lambda: params.load("classifier", ClassifierParams).conditions,
    )
