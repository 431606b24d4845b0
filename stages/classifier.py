"""Train and score the action classifier under one condition: what audio it has in training and at test.

Reads    data/video_features/{rgb,flow}, data/missing_audio.parquet, and what the condition names: real audio, what was made
         for it (generated features, a teacher's answers), what decides (filter, dictionary)
Writes   data/predictions/<condition>.parquet, a row per seed and validation or test clip (common/predictions.py); with
         `out_of_fold` for training clips, too, by models that have not seen their sources; with `answers_pool` for
         unlabelled clips, too
         data/missing_rates/<condition>.parquet, a row per seed, missing rate and test clip:
             seed int32, missing_rate float32, clip_id, source_id string, hit bool
         models/classifier/<condition>/seed-<n>.safetensors and config.json
         metrics/classifier/<condition>.json and, as DVC plots, metrics/plots/{loss,confusion}/<condition>.csv
The LSTM reads RGB and flow features, concatenated [T, 2D], with audio [T, 2D + components]; its last hidden state gives
the action.  Early stopping and all choices on validation; test is scored once.  `logistic` conditions use logistic
regression on mean and standard deviation over time instead: a weak LSTM would make any gain meaningless.
"""

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import save_file

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.logistic import logistic_regression
from audio_from_video.classification.networks import parameter_count
from audio_from_video.classification.settings import ClassifierParams, Condition
from audio_from_video.classification.targets import lessons
from audio_from_video.classification.training import Training, answered, build, train_one
from audio_from_video.clipset import folds
from audio_from_video.evaluation import intervals
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.reporting import tables
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import LABELLED, UNLABELLED
from audio_from_video.runtime.worker import Failure
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


def train_seeds(
    stage: stage_run.StageRun, data: ActionData, condition: Condition, p: ClassifierParams
) -> tuple[Predictions, list[dict]]:
    """Train all seeds, and with `out_of_fold` a model per fold and seed for the training clips; the probabilities of all clips
    that were asked, and the seeds' results."""
    if not all(
        len(data.rows(split)) for split in LABELLED
    ):  # with `kept_only`: the filter leaves nothing to train or score on
        return answered(
            data,
            torch.tensor([], dtype=torch.long),
            np.zeros((p.seeds, len(data.clips), len(data.actions)), np.float32),
        ), []
    training, asked = (
        data.rows("training"),
        data.rows("validation", "test", *([UNLABELLED] if condition.answers_pool else [])),
    )
    parts, fold = (
        [(training, asked)],
        torch.from_numpy(folds.of_clips(data.clips, condition.out_of_fold or 1)),
    )
    for number in range(condition.out_of_fold):
        inside = fold[training] == number
        parts.append((training[~inside], training[inside]))
    tasks, key = [], data.key()
    for whole, (taught, rows) in enumerate(parts):
        for seed in range(p.seeds):
            learned, targets = lessons(
                data,
                condition,
                taught[data.taught[taught]],
                p.lstm.label_smoothing,
                p.teaching,
                seed,
            )
            rates = p.missing_rates if whole == 0 and not condition.kept_only else []
            tasks.append(
                Training(data, condition, p, seed, learned, targets, rows, stage.item, rates, key)
            )
    workers = (
        stage.workers if len(tasks) > 2 * stage.workers else len(tasks)
    )  # few: shared cores beat a last round on one of them
    results = list(
        stage.progress(
            parallel.map_items(train_one, tasks, workers), len(tasks), "training", "computing_s"
        )
    )
    if failed := [result for result in results if isinstance(result, Failure)]:
        raise UserError(
            f"training {stage.item} failed: {failed[0].reason}; the machine may lack memory, try --workers 1"
        )
    probabilities = np.zeros((p.seeds, len(data.clips), len(data.actions)), np.float32)
    for task, result in zip(tasks, results, strict=True):
        probabilities[task.seed, task.asked] = result["probabilities"]
    return answered(data, torch.cat([rows for _, rows in parts]), probabilities), results[: p.seeds]


def write_missing_rates(
    name: str, data: ActionData, rates: list[float], results: list[dict]
) -> dict:
    """Write data/missing_rates/<condition>.parquet (see the module's docstring); accuracy by missing rate."""
    test = data.clips.iloc[data.rows("test").numpy()]
    parts = [
        pa.table(
            [pa.array([value] * len(test)) for value in (seed, rate)]
            + [test.clip_id.tolist(), test.source_id.tolist(), right],
            names=MISSING_RATES.names,
        ).cast(MISSING_RATES)
        for seed, result in enumerate(results)
        for rate, right in zip(rates, result["right"], strict=False)
    ]
    shards.write_table(
        pa.concat_tables(parts) if parts else MISSING_RATES.empty_table(),
        layout.missing_rates(name),
    )
    right = np.array([result["right"] for result in results], float)  # [seeds, rates, test clips]
    return {
        f"{rate:g}": intervals.interval(right[:, i].mean(0), test.source_id.to_numpy())
        for i, rate in enumerate(rates)
        if parts
    }


def write_plots(name: str, curves: list[list[dict]], test: Predictions) -> None:
    """CSV files for DVC's plots: losses by epoch and seed, and the test clips' true and predicted actions."""
    loss = pd.DataFrame(
        [{"seed": seed, **epoch} for seed, curve in enumerate(curves) for epoch in curve],
        columns=["seed", "epoch", "training_loss", "validation_loss"],
    )
    predicted = np.array(test.actions)[test.answers]  # [seeds, clips]
    confusion = pd.DataFrame(
        {"actual": np.tile(test.clips.action, len(predicted)), "predicted": predicted.ravel()}
    ).map(tables.plain)
    for kind, table in (("loss", loss), ("confusion", confusion)):
        path = layout.classifier_plot(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False, float_format="%.6f")


def main(stage: stage_run.StageRun) -> None:
    parallel.start_server(
        "stages.classifier", "torch._dynamo"
    )  # an optimiser's first step imports it
    p = params.load("classifier", ClassifierParams)
    name, condition = stage.item, p.conditions[stage.item]
    folder = layout.classifier_model(name)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch() as files:
        data = ActionData(files, condition, p.labels_per_action)
        config = {
            "condition": condition.model_dump(),
            "actions": data.actions,
            "video_width": data.video.shape[-1],
        }
        if condition.model == "logistic":
            found, results = logistic_regression(data, condition, p, name)
            width = data.video.shape[-1] + (
                data.sounds["real"].file.shape[-1] if data.sounds else 0
            )
            parameters = (2 * width + 1) * len(data.actions)
        else:
            found, results = train_seeds(stage, data, condition, p)
            for seed, result in enumerate(results):
                save_file(result["weights"], folder / f"seed-{seed}.safetensors")
            model = build(data, condition, p.lstm, data.rows("training"))
            parameters = parameter_count(model)
            config |= {
                "hidden": model.lstm.hidden_size,
                "projection": p.lstm.projection,
                "audio_width": len(model.token),
            }
        atomic.write_json(folder / "config.json", config)
        predictions.write(name, found)
        at_rates = write_missing_rates(name, data, p.missing_rates, results)
        write_plots(name, [result["curve"] for result in results], found.of("test"))
        stage.write_metrics(
            {
                **condition_evaluation.score(found),
                "accuracy_at_missing_rate": at_rates,
                "parameters": parameters,
                "clips": {split: len(data.rows(split)) for split in LABELLED},
            }
        )


if __name__ == "__main__":
    stage_run.main(
        main,
        __doc__,
        "classifier",
        "condition",
        lambda: params.load("classifier", ClassifierParams).conditions,
    )
