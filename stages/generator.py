"""Generate audio features from video features and measure what they are worth.

Architecture `validation` sees the video alone: its output is checked afterwards (label_predictor, filter).  Architecture
`mapping` is also conditioned on the sound of the AudioSet labels that captions of representative frames were mapped to.
`shuffled` is a control: `validation` that learns from the sound of other clips, drawn at random, so that it knows no more
than what sound is like in general.
Reads    data/video_features/{rgb,flow}, data/audio_features, data/predictions/video_only.parquet (for a baseline); for
         `caption_mapping` data/mapping
Writes   data/generated/<architecture>, a row per labelled clip, audible or not:
             features   tensor float16 [seeds, T, A]   generated audio features, in the space of data/audio_features
         models/generator/<architecture>/seed-<n>.safetensors (the models fitted on all training clips) and config.json
         metrics/generator/<architecture>.json and metrics/plots/generator/<architecture>.csv (loss curves)
Cross-fitting: a training clip's features come from a model that has not seen its source (`folds`); validation and test
clips get those of the model fitted on all audible training clips, labelled or not (`pool`): it needs no action labels.
What `mapping` is conditioned on is cross-fitted over the same folds (a clip's own sound reaches its own features only by
way of other clips' captions, not directly).
After "Audio feature generation for the missing modality problem in video action recognition" (ICASSP 2019).
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from safetensors.torch import save_file

from audio_from_video.clipset import folds
from audio_from_video.evaluation import generation as generation_evaluation
from audio_from_video.generation.conditioning import Conditions
from audio_from_video.generation.generator import Inputs
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.generation.training import (
    WHOLE,
    Job,
    audible,
    learn_and_answer,
    training_rows,
)
from audio_from_video.learning.features import AUDIO, Features
from audio_from_video.runtime import atomic, parallel, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import CAPTION_MAPPING, LABELLED, SHUFFLED, SPLITS
from audio_from_video.runtime.worker import require_result
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile, scratch


def train_all(
    stage: stage_run.StageRun, inputs: Inputs, p: GeneratorParams, folder: Path
) -> list[tuple[Job, dict, RowFile]]:
    """Every training: seeds x (whole + folds), and the two controls; in parallel."""
    jobs = [
        Job(seed=seed, fold=number)
        for seed in range(p.seeds)
        for number in (WHOLE, *range(p.folds))
    ]
    jobs += [
        Job(seed=0, fold=WHOLE, control="untrained"),
        Job(seed=0, fold=WHOLE, control="time_shuffled"),
    ]
    key = inputs.key()
    tasks = [(inputs, job, p, folder / f"answers-{i}", key) for i, job in enumerate(jobs)]
    results = list(
        stage.progress(
            parallel.map_items(learn_and_answer, tasks, stage.workers),
            len(tasks),
            "training",
            "computing_s",
        )
    )
    for result in results:
        require_result(result, "training the generator")
    return [
        (job, result, RowFile(task[3], inputs.data.audio.shape))
        for job, result, task in zip(jobs, results, tasks, strict=True)
    ]


def collect(
    data: Features, runs: list[tuple[Job, dict, RowFile]], seeds: int
) -> tuple[dict[int, list], dict[str, list]]:
    """Where each clip's answers stand: {row: [(file, position) per seed]}, cross-fitted; and those of the WHOLE models on
    their own training clips and of the controls, by name."""
    training = set(data.rows("training").tolist())
    answers: dict[int, list] = {row: [None] * seeds for row in data.rows(*LABELLED).tolist()}
    extra: dict[str, list] = {"own_training_clips": [], "untrained": [], "time_shuffled": []}
    for job, result, file in runs:
        for position, row in enumerate(result["rows"].tolist()):
            if job.control != "none":
                extra[job.control].append((row, file, position))
            elif job.fold == WHOLE and row in training:
                extra["own_training_clips"].append((row, file, position))
            else:
                answers[row][job.seed] = (file, position)
    return answers, extra


def main(stage: stage_run.StageRun) -> None:
    parallel.start_server(
        "stages.generator", "torch._dynamo"
    )  # an optimiser's first step imports it
    p = params.load("generator", GeneratorParams)
    name = stage.item
    folder = layout.generator_model(name)
    folder.mkdir(parents=True, exist_ok=True)
    with scratch() as files:
        data = Features(files, SPLITS, AUDIO)
        fold = folds.of_clips(data.clips, p.folds)
        if not len(training_rows(data, fold, WHOLE, p.pool)) or not len(
            audible(data, data.rows("validation"))
        ):
            raise UserError(
                "the generator needs audible training and validation clips; metrics/audio.json says what became of the sound"
            )
        conditions = (
            Conditions(files, data, fold, p.caption_mapping.condition == "mapped")
            if name == CAPTION_MAPPING
            else None
        )
        runs = train_all(stage, Inputs(data, fold, conditions, name == SHUFFLED), p, files)
        answers, extra = collect(data, runs, p.seeds)

        def generated(row: int) -> np.ndarray:
            return np.stack(
                [file.read([position])[0].numpy() for file, position in answers[row]]
            )  # [seeds, T, A]

        write_generated(layout.generated(name), data, generated, p.seeds)
        trained = [(job, result["curve"]) for job, result, _ in runs if job.control == "none"]
        curves = pd.DataFrame(
            [
                {"seed": job.seed, "fold": job.fold, **epoch}
                for job, curve in trained
                for epoch in curve
            ]
        )
        plot = layout.generator_curves(name)
        plot.parent.mkdir(parents=True, exist_ok=True)
        curves.to_csv(plot, index=False, float_format="%.6f")
        for job, result, _ in runs:
            if result["weights"] is not None:
                save_file(result["weights"], folder / f"seed-{job.seed}.safetensors")
        widths = {"video_width": data.video.shape[-1], "audio_width": data.audio.shape[-1]}
        own = (
            p.caption_mapping.model_dump() | {"text_width": conditions.embedding.shape[-1]}
            if conditions
            else {}
        )
        atomic.write_json(folder / "config.json", p.lstm.model_dump() | own | widths)
        attention = [
            result["attention"]
            for job, result, _ in runs
            if job.fold == WHOLE and job.control == "none"
        ]
        means = {key: float(np.mean([found[key] for found in attention])) for key in attention[0]}
        means["parameters"] = runs[0][1]["parameters"]
        stage.write_metrics(
            generation_evaluation.measure(data, fold, generated, extra, p.pool) | means
        )


def write_generated(directory: Path, data: Features, generated, seeds: int) -> None:
    """The output directory (see the module's docstring), in the order of data/video_features."""
    rows = data.rows(*LABELLED).tolist()
    clips = [data.clips.iloc[row].to_dict() for row in rows]
    index = [{**clip, "item_key": None, "status": "ok", "reason": ""} for clip in clips]
    schema = pa.schema([("features", shards.tensor(pa.float16(), seeds, *data.audio.shape))])
    shards.write(
        directory,
        schema,
        ({**clip, "features": generated(row)} for row, clip in zip(rows, clips, strict=True)),
        index,
        "",
    )


if __name__ == "__main__":
    stage_run.main(
        main,
        __doc__,
        "generator",
        "architecture",
        lambda: params.load("generator", GeneratorParams).architectures,
    )
