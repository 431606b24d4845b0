"""Generate audio features from video features, and measure how good they are.

Architecture `semantic_validation` sees the video alone: its output is checked afterwards
(label_predictor, filter). `caption_mapping` is also conditioned on the sound of the AudioSet labels
that captions of representative frames were mapped to. `shuffled` is a control:
`semantic_validation` that learns from the sound of other clips, drawn at random, so that it knows
no more than what sound is like in general.

Reads    data/video_features/{rgb,flow}, data/audio_features
         data/predictions/video_only.parquet, for a baseline and `residual: action_mean`
         data/mapping, for `caption_mapping`
Writes   data/generated/<architecture>, a row per clip, audible or not:
             features   tensor float16 [seeds, T, A]   in the space of data/audio_features
             deviation  the same shape: predicted deviation of the real features from these, with
                        `variance: predicted` alone
         models/generator/<architecture>/seed-<n>.safetensors, fitted on all training clips, and
         config.json
         metrics/generator/<architecture>.json
         metrics/plots/generator/<architecture>.csv, losses by epoch

Cross-fitting: features of a training or unlabelled clip come from a model that has not seen its
source (`folds`).
Validation and test clips get those of the model fitted on all audible training clips, labelled or
not (`pool`): it needs no action labels. A training that learned nothing is repeated with other
random numbers, and counted. What `caption_mapping` is conditioned on is cross-fitted
over the same folds: a clip's own sound reaches its own features only by way of other clips'
captions. After "Audio feature generation for the missing modality problem in video action
recognition" (ICASSP 2019).
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.torch import save_file

from audio_from_video.clipset import folds
from audio_from_video.clipset.folds import NO_FOLD, WHOLE
from audio_from_video.evaluation import generation as generation_evaluation
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.generation.conditioning import Conditioning
from audio_from_video.generation.generator import Inputs, predicted_actions
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.generation.training import (
    GeneratorResult,
    GeneratorTask,
    Job,
    run_job,
    training_clips,
    validation_clips,
)
from audio_from_video.learning.features import Features
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, SHUFFLED, SPLITS
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout, predictions, shards
from audio_from_video.storage.row_file import RowFile, scratch

# Where a clip's generated features stand: a file and the position in it.
Place = tuple[RowFile, int]


@dataclass
class GeneratedFeatures:
    """Where the features stand that the trainings generated.

    cross_fitted: for each clip's index a place per seed.
    deviations: the same of predicted deviations; empty where none are predicted.
    comparisons: triples of clip index, file and position, by name. `own_training_clips` are those
    of the models fitted on all training clips; `untrained` and `time_shuffled` those of controls.
    """

    cross_fitted: dict[int, list[Place]]
    deviations: dict[int, list[Place]]
    comparisons: dict[str, list[tuple[int, RowFile, int]]] = field(
        default_factory=lambda: {"own_training_clips": [], "untrained": [], "time_shuffled": []}
    )

    def of_clip(self, clip_index: int) -> np.ndarray:
        """Return the cross-fitted features of a clip, [seeds, T, A]."""
        return read_places(self.cross_fitted[clip_index])

    @property
    def deviation_of_clip(self) -> Callable[[int], np.ndarray] | None:
        """Return what gives a clip's predicted deviations [seeds, T, A]; None without any."""
        if not self.deviations:
            return None
        return lambda clip_index: read_places(self.deviations[clip_index])


def read_places(places: list[Place]) -> np.ndarray:
    """Return the rows [places, T, A] that stand there."""
    return np.stack([file.read([position])[0].numpy() for file, position in places])


def main(stage: stage_run.StageRun) -> None:
    p = params.load("generator", GeneratorParams)
    name = stage.item
    with scratch() as folder:
        inputs = read_inputs(folder, name, p)
        results = train_all(stage, inputs, p, folder)
        generated = collect(inputs.data, inputs.fold, results, p.seeds)
        deviation_of_clip = generated.deviation_of_clip
        write_generated(
            layout.generated(name), inputs.data, generated.of_clip, p.seeds, deviation_of_clip
        )
        write_curves(layout.generator_curves(name), results)
        write_models(layout.generator_model(name), inputs, results, p)
        figures = generation_evaluation.generator_figures(
            inputs.data,
            inputs.fold,
            generated.of_clip,
            generated.comparisons,
            p.pool,
            deviation_of_clip,
        )
        counts = training_counts(results)
        if counts["repeated"]:
            print(
                f"{stage.name}: {counts['repeated']} of {counts['all']} trainings learned nothing "
                "beyond the mean sound and were repeated with other random numbers; "
                f"{counts['at_mean']} stayed there",
                file=sys.stderr,
            )
        stage.write_metrics(figures | network_figures(results) | {"trainings": counts})


def read_inputs(folder: Path, name: str, p: GeneratorParams) -> Inputs:
    """Read the clips' features into `folder`, and what architecture 2 is conditioned on.

    Raises UserError where no training or no validation clip is audible.
    """
    data = Features(folder, SPLITS)
    fold = folds.of_clips(data.clips, p.folds, data.fitted.numpy())
    training = training_clips(data, fold, WHOLE, p.pool)
    validation = validation_clips(data)
    if not len(training) or not len(validation):
        raise UserError(
            "the generator needs audible training and validation clips; "
            "metrics/audio.json says what became of the sound"
        )
    conditioning = None
    if name == CAPTION_MAPPING:
        mapped = p.caption_mapping.condition == "mapped"
        conditioning = Conditioning(folder, data, fold, mapped)
    predicted = None
    if p.lstm.residual == "action_mean":
        predicted = predicted_actions(data, predictions.read(BASELINE))
    return Inputs(data, fold, conditioning, name == SHUFFLED, predicted)


def train_all(
    stage: stage_run.StageRun, inputs: Inputs, p: GeneratorParams, folder: Path
) -> list[GeneratorResult]:
    """Run all trainings in parallel; raise UserError when one fails."""
    key = inputs.key()
    tasks = []
    for number, job in enumerate(all_jobs(p)):
        tasks.append(GeneratorTask(inputs, job, p, folder / f"generated-{number}", key))
    trainings = parallel.map_items(run_job, tasks, stage.workers)
    results = list(stage.progress(trainings, len(tasks), "training", "computing_s"))
    return [require_result(result, "training the generator") for result in results]


def all_jobs(p: GeneratorParams) -> list[Job]:
    """Return for each seed a training on all clips and one without each fold; then controls."""
    jobs = []
    for seed in range(p.seeds):
        for fold in (WHOLE, *range(p.folds)):
            jobs.append(Job(seed, fold))
    jobs.append(Job(0, WHOLE, "untrained"))
    jobs.append(Job(0, WHOLE, "time_shuffled"))
    return jobs


def collect(
    data: Features, fold: np.ndarray, results: list[GeneratorResult], seeds: int
) -> GeneratedFeatures:
    """Return which training's features count for which clip; fold [N]: of each clip."""
    everything = range(len(data.clips))
    by_seed: dict[int, dict[int, Place]] = {clip_index: {} for clip_index in everything}
    deviations: dict[int, dict[int, Place]] = {clip_index: {} for clip_index in everything}
    generated = GeneratedFeatures({}, {})
    for result in results:
        job = result.job
        for position, clip_index in enumerate(result.clip_indices.tolist()):
            place = (clip_index, result.features, position)
            if job.control != "none":
                generated.comparisons[job.control].append(place)
            elif job.fold == WHOLE and fold[clip_index] != NO_FOLD:
                generated.comparisons["own_training_clips"].append(place)
            else:
                by_seed[clip_index][job.seed] = (result.features, position)
                if result.deviations:
                    deviations[clip_index][job.seed] = (result.deviations, position)
    for clip_index, places in by_seed.items():
        generated.cross_fitted[clip_index] = [places[seed] for seed in range(seeds)]
    for clip_index, places in deviations.items():
        if places:
            generated.deviations[clip_index] = [places[seed] for seed in range(seeds)]
    return generated


def write_generated(
    directory: Path,
    data: Features,
    features_of: Callable[[int], np.ndarray],
    seeds: int,
    deviation_of: Callable[[int], np.ndarray] | None = None,
) -> None:
    """Write the output directory (see the module's docstring), ordered as data/video_features.

    features_of: the features [seeds, T, A] of a clip's index; deviation_of: its predicted
    deviations, where there are any.
    """
    # pandas holds the missing action of unlabelled clips as NaN, Arrow as null.
    clips = data.clips.astype(object).replace({float("nan"): None}).to_dict("records")
    index = [{**clip, "item_key": None, "status": "ok", "reason": ""} for clip in clips]

    def rows() -> Iterator[dict]:
        for clip_index, clip in enumerate(clips):
            row = {**clip, "features": features_of(clip_index)}
            if deviation_of:
                row["deviation"] = deviation_of(clip_index)
            yield row

    column_type = shards.tensor(pa.float16(), seeds, *data.audio.shape)
    columns = [("features", column_type)]
    if deviation_of:
        columns.append(("deviation", column_type))
    shards.write(directory, pa.schema(columns), rows(), index, "")


def write_curves(path: Path, results: list[GeneratorResult]) -> None:
    """Write the losses of all trainings but the controls, a row per epoch."""
    epochs = []
    for result in results:
        if result.job.control == "none":
            for epoch in result.curve:
                epochs.append({"seed": result.job.seed, "fold": result.job.fold, **epoch})
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(epochs).to_csv(path, index=False, float_format="%.6f")


def write_models(
    folder: Path, inputs: Inputs, results: list[GeneratorResult], p: GeneratorParams
) -> None:
    """Write the weights of the models fitted on all training clips, and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for result in results:
        if result.weights is not None:
            save_file(result.weights, folder / f"seed-{result.job.seed}.safetensors")
    config = p.lstm.model_dump()
    if inputs.conditioning:
        config |= p.caption_mapping.model_dump()
        config["text_width"] = inputs.conditioning.caption_text.shape[-1]
    config["video_width"] = inputs.data.video.shape[-1]
    config["audio_width"] = inputs.data.audio.shape[-1]
    atomic.write_json(folder / "config.json", config)


def training_counts(results: list[GeneratorResult]) -> dict[str, int]:
    """Return how many trainings there were, were repeated, and learned nothing in the end.

    Controls do not count.
    """
    counted = [result for result in results if result.job.control == "none"]
    return {
        "all": len(counted),
        "repeated": sum(result.repeats > 0 for result in counted),
        "at_mean": sum(result.at_mean for result in counted),
    }


def network_figures(results: list[GeneratorResult]) -> dict[str, float]:
    """Return the number of parameters, and the means over seeds of the attention's figures."""
    fitted = [result for result in results if result.weights is not None]
    figures: dict[str, float] = {}
    for key in fitted[0].attention:
        values = [result.attention[key] for result in fitted]
        figures[key] = float(np.mean(values))
    figures["parameters"] = results[0].parameters
    return figures


if __name__ == "__main__":
    stage_run.main(
        main,
        __doc__,
        "generator",
        "architecture",
        lambda: params.load("generator", GeneratorParams).architectures,
    )
