"""Generate audio features from video features (architecture 1: `validation`) and measure what they are worth.

Reads    data/video_features/{rgb,flow}, data/audio_features, data/predictions/video_only.parquet (for a baseline)
Writes   data/generated/<architecture>, a row per labelled clip, audible or not:
             features   tensor float16 [seeds, T, A]   generated audio features, in the space of data/audio_features
         models/generator/<architecture>/seed-<n>.safetensors (the models fitted on all training clips) and config.json
         metrics/generator/<architecture>.json and metrics/plots/generator/<architecture>.csv (loss curves)
Cross-fitting: a training clip's features come from a model that has not seen its source (`folds`); validation and test
clips get those of the model fitted on all audible training clips, labelled or not (`pool`): it needs no action labels.
After "Audio feature generation for the missing modality problem in video action recognition" (ICASSP 2019).
"""
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pydantic import Field
from safetensors.torch import save_file

from stages.common import folds, generation_measures, params, run, shards
from stages.common.errors import UserError
from stages.common.features import AUDIO, Features
from stages.common.networks.generator import AudioGenerator, generation_loss
from stages.common.parallel import Failure, map_items, one_thread
from stages.common.training import RowFile, TrainingParams, fit, scratch

SPLITS = ("training", "unlabelled", "validation", "test")
LABELLED = ("training", "validation", "test")
WHOLE = -1  # instead of a fold: the model fitted on all training clips


class GeneratorNetwork(TrainingParams):
    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=1, le=4096)
    dropout: float = Field(ge=0, lt=1)
    bidirectional: bool
    mse_weight: float = Field(ge=0)
    cosine_weight: float = Field(ge=0)
    target_scale: Literal["dimension", "global"]


class GeneratorParams(params.Section):
    seeds: int = Field(ge=1, le=100)
    folds: int = Field(ge=2, le=20)
    pool: Literal["all", "labelled"]
    lstm: GeneratorNetwork
    architectures: dict[str, str]


class Job(params.Section):
    """One training: which clips it learns from, and which it answers."""

    model_config = params.Section.model_config | {"arbitrary_types_allowed": True}
    seed: int
    fold: int  # left out of training; WHOLE = none
    control: Literal["none", "untrained", "time_shuffled"] = "none"


def learn_and_answer(task: tuple[Features, np.ndarray, Job, GeneratorParams, Path]) -> dict:
    """Train one generator and write its answers to a RowFile (runs in a worker): rows, curve and, for WHOLE, weights."""
    data, fold, job, p, path = task
    one_thread()
    torch.manual_seed(job.seed)
    net = p.lstm
    model = AudioGenerator(data.video.shape[-1], data.audio.shape[-1], net.hidden, net.projection, net.dropout, net.bidirectional)
    learned = training_rows(data, fold, job.fold, p.pool)
    model.set_scale("video", *data.video.moments(learned.tolist()))
    mean, std = data.audio.moments(data.audio_row[learned].tolist())
    model.set_scale("audio", mean, std if net.target_scale == "dimension" else std.square().mean().sqrt().expand_as(std))
    shuffle = torch.Generator().manual_seed(job.seed)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        audio = model.scale(data.sound(rows)[0])  # [B, T, A]
        if model.training and job.control == "time_shuffled":
            audio = audio[:, torch.randperm(audio.shape[1], generator=shuffle)]
        return generation_loss(model(data.video.read(rows.tolist())), audio, net.mse_weight, net.cosine_weight)

    held_out = audible(data, data.rows("validation"))
    curve: list[dict] = []
    if job.control != "untrained":
        curve = fit(model, loss, learned, lambda: mean_loss(loss, held_out), net, job.seed, "generator")
    model.eval()
    rows = torch.cat([data.rows("validation", "test"), data.rows("training")]) if job.fold == WHOLE else rows_of_fold(data, fold, job.fold)
    with torch.inference_mode():
        answers = (model.unscale(model(data.video.read(part.tolist()))).numpy() for part in rows.split(256))
        RowFile(path, data.audio.shape).write(clip for part in answers for clip in part)
    weights = model.state_dict() if job.fold == WHOLE and job.control == "none" else None
    return {"rows": rows.numpy(), "curve": curve, "weights": weights}


def mean_loss(loss, rows: torch.Tensor) -> float:
    """The mean of `loss` over rows, in parts that bound memory."""
    parts = rows.split(256)
    return float(np.average([loss(part).item() for part in parts], weights=[len(part) for part in parts]))


def audible(data: Features, rows: torch.Tensor) -> torch.Tensor:
    """Those of `rows` that have real audio features."""
    return rows[data.audio_row[rows] >= 0]


def training_rows(data: Features, fold: np.ndarray, left_out: int, pool: str) -> torch.Tensor:
    """Audible training clips outside the fold `left_out`; with pool `all`, unlabelled ones, too."""
    rows = audible(data, data.rows("training", "unlabelled") if pool == "all" else data.rows("training"))
    return rows[torch.from_numpy(fold)[rows] != left_out]


def rows_of_fold(data: Features, fold: np.ndarray, number: int) -> torch.Tensor:
    """Labelled training clips of a fold, audible or not."""
    rows = data.rows("training")
    return rows[torch.from_numpy(fold)[rows] == number]


def train_all(stage: run.StageRun, data: Features, fold: np.ndarray, p: GeneratorParams, folder: Path) -> list[tuple[Job, dict, RowFile]]:
    """Every training: seeds x (whole + folds), and the two controls; in parallel."""
    jobs = [Job(seed=seed, fold=number) for seed in range(p.seeds) for number in (WHOLE, *range(p.folds))]
    jobs += [Job(seed=0, fold=WHOLE, control="untrained"), Job(seed=0, fold=WHOLE, control="time_shuffled")]
    tasks = [(data, fold, job, p, folder / f"answers-{i}") for i, job in enumerate(jobs)]
    results = list(stage.progress(map_items(learn_and_answer, tasks, stage.workers), len(tasks), "training", "computing_s"))
    if failed := [result for result in results if isinstance(result, Failure)]:
        raise UserError(f"training the generator failed: {failed[0].reason}; the machine may lack memory, try --workers 1")
    return [(job, result, RowFile(task[4], data.audio.shape)) for job, result, task in zip(jobs, results, tasks, strict=True)]


def collect(data: Features, runs: list[tuple[Job, dict, RowFile]], seeds: int) -> tuple[dict[int, list], dict[str, list]]:
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


def main(stage: run.StageRun) -> None:
    p = params.load("generator", GeneratorParams)
    name = stage.item
    folder = Path("models/generator") / name
    folder.mkdir(parents=True, exist_ok=True)
    with scratch() as files:
        data = Features(files, SPLITS, AUDIO)
        fold = folds.assign(data.clips.source_id.to_numpy(), p.folds)
        if not len(training_rows(data, fold, WHOLE, p.pool)) or not len(audible(data, data.rows("validation"))):
            raise UserError("the generator needs audible training and validation clips; metrics/audio.json says what became of the sound")
        runs = train_all(stage, data, fold, p, files)
        answers, extra = collect(data, runs, p.seeds)

        def generated(row: int) -> np.ndarray:
            return np.stack([file.read([position])[0].numpy() for file, position in answers[row]])  # [seeds, T, A]

        write_generated(Path("data/generated") / name, data, generated, p.seeds)
        trained = [(job, result["curve"]) for job, result, _ in runs if job.control == "none"]
        curves = pd.DataFrame([{"seed": job.seed, "fold": job.fold, **epoch} for job, curve in trained for epoch in curve])
        plot = Path("metrics/plots/generator") / f"{name}.csv"
        plot.parent.mkdir(parents=True, exist_ok=True)
        curves.to_csv(plot, index=False, float_format="%.6f")
        for job, result, _ in runs:
            if result["weights"] is not None:
                save_file(result["weights"], folder / f"seed-{job.seed}.safetensors")
        widths = {"video_width": data.video.shape[-1], "audio_width": data.audio.shape[-1]}
        run.write_json(folder / "config.json", p.lstm.model_dump() | widths)
        stage.write_metrics(generation_measures.measure(data, fold, generated, extra, p.pool))


def write_generated(directory: Path, data: Features, generated, seeds: int) -> None:
    """The output directory (see the module's docstring), in the order of data/video_features."""
    rows = data.rows(*LABELLED).tolist()
    clips = [data.clips.iloc[row].to_dict() for row in rows]
    index = [{**clip, "item_key": None, "status": "ok", "reason": ""} for clip in clips]
    schema = pa.schema([("features", shards.tensor(pa.float16(), seeds, *data.audio.shape))])
    shards.write(directory, schema, ({**clip, "features": generated(row)} for row, clip in zip(rows, clips, strict=True)), index, "")


if __name__ == "__main__":
    run.main(main, __doc__, "generator", "architecture", lambda: params.load("generator", GeneratorParams).architectures)
