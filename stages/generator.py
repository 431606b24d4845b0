"""Generate audio features from video features and measure what they are worth.

Architecture `validation` sees the video alone: its output is checked afterwards (label_predictor, filter).  Architecture
`mapping` is also conditioned on the sound of the AudioSet labels that captions of representative frames were mapped to.
`shuffled` is a control: `validation` that learns from the sound of other clips, drawn at random, so that it knows no more
than what sound is like in general.
Reads    data/video_features/{rgb,flow}, data/audio_features, data/predictions/video_only.parquet (for a baseline); for
         `mapping` data/mapping
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
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import save_file

from stages.common import folds, generation_measures, params, run, shards
from stages.common.checkpoints import Checkpoint
from stages.common.conditions import Conditions
from stages.common.errors import UserError
from stages.common.features import AUDIO, Features
from stages.common.generation import Generator, GeneratorParams, Inputs
from stages.common.item_store import digest
from stages.common.networks.generator import generation_loss
from stages.common.networks.mapping_generator import MappedAudioGenerator
from stages.common.parallel import Failure, map_items, one_thread
from stages.common.training import RowFile, fit, scratch

SPLITS = ("training", "unlabelled", "validation", "test")
LABELLED = ("training", "validation", "test")
MAPPED, SHUFFLED = (
    "mapping",
    "shuffled",
)  # the architecture that is conditioned on data/mapping; the control
WHOLE = -1  # instead of a fold: the model fitted on all training clips


class Job(params.Section):
    """One training: which clips it learns from, and which it answers."""

    model_config = params.Section.model_config | {"arbitrary_types_allowed": True}
    seed: int
    fold: int  # left out of training; WHOLE = none
    control: Literal["none", "untrained", "time_shuffled"] = "none"


def learn_and_answer(task: tuple[Inputs, Job, GeneratorParams, Path, str]) -> dict:
    """Train one generator and write its answers to a RowFile (runs in a worker): rows, curve and, for WHOLE, weights.  The
    last part is the inputs' key, with which a killed training goes on where it was."""
    inputs, job, p, path, key = task
    data, fold, net = inputs.data, inputs.fold, p.lstm
    one_thread()
    torch.manual_seed(job.seed)
    generator = Generator(inputs, job.seed, p)
    model = generator.model
    learned = training_rows(data, fold, job.fold, p.pool)
    model.set_scale("video", *data.video.moments(learned.tolist()))
    mean, std = data.audio.moments(data.audio_row[learned].tolist())
    model.set_scale(
        "audio",
        mean,
        std if net.target_scale == "dimension" else std.square().mean().sqrt().expand_as(std),
    )
    shuffle = torch.Generator().manual_seed(job.seed)
    teacher = torch.arange(len(data.clips))  # whose sound a clip learns from
    if inputs.shuffled:
        teacher[learned] = learned[torch.randperm(len(learned), generator=shuffle)]

    def loss(rows: torch.Tensor) -> torch.Tensor:
        audio = model.scale(data.sound(teacher[rows])[0].to(generator.device))  # [B, T, A]
        if model.training and job.control == "time_shuffled":
            audio = audio[:, torch.randperm(audio.shape[1], generator=shuffle)]
        return generation_loss(generator(rows), audio, net.mse_weight, net.cosine_weight)

    held_out = audible(data, data.rows("validation"))

    def validate() -> float:
        generator.refresh()
        return mean_loss(loss, held_out)

    curve: list[dict] = []
    if job.control != "untrained":
        checkpoint = Checkpoint(
            digest(key, job.model_dump(), p.model_dump(exclude={"seeds"})),
            (shuffle, generator.drawn),
        )
        curve = fit(
            model, loss, learned, validate, net, job.seed, "generator", generator.groups, checkpoint
        )
    model.eval()
    generator.refresh()
    rows = (
        torch.cat([data.rows("validation", "test"), data.rows("training")])
        if job.fold == WHOLE
        else rows_of_fold(data, fold, job.fold)
    )
    with torch.inference_mode():
        answers = (model.unscale(generator(part)).cpu().numpy() for part in rows.split(256))
        RowFile(path, data.audio.shape).write(clip for part in answers for clip in part)
        attention = (
            attention_measures(generator, held_out) if job.fold == WHOLE and generator.read else {}
        )
    weights = (
        {key: value.cpu() for key, value in model.state_dict().items()}
        if job.fold == WHOLE and job.control == "none"
        else None
    )
    parameters = sum(value.numel() for value in model.parameters())
    return {
        "rows": rows.numpy(),
        "curve": curve,
        "weights": weights,
        "attention": attention,
        "parameters": parameters,
    }


def attention_measures(generator: Generator, rows: torch.Tensor) -> dict[str, float]:
    """Of the validation clips: entropy of the attention over an anchor's labels (nats; 0 without labels), temperature and
    injection as learned, and how far two draws of noise move the answer, in deviations of the targets."""
    model, read = generator.model, generator.read
    assert isinstance(model, MappedAudioGenerator) and read is not None
    entropies, moved = [], []
    for part in rows.split(256):
        video, anchors = (
            generator.data.video.read(part.tolist()).to(generator.device),
            read(part).to(generator.device),
        )
        weights = model.attention.weights(anchors, (video - model.video_mean) / model.video_std)[
            anchors.valid.any(-1)
        ]
        entropies.append(-(weights * weights.clamp(min=1e-9).log()).sum(-1))
        shape = (video.shape[1], generator.noise)
        noises = (
            generator.data.noise(part, shape, generator.seed, draw).to(generator.device)
            for draw in (0, 1)
        )
        draws = torch.stack([model(video, anchors, noise) for noise in noises])
        moved.append(draws.std(0).flatten(1).mean(1))
    return {
        "attention_entropy": torch.cat(entropies).mean().nan_to_num().item(),
        "temperature": model.attention.log_temperature.exp().item(),
        "injection": model.injection.item(),
        "spread_over_noise": torch.cat(moved).mean().item(),
    }


def mean_loss(loss, rows: torch.Tensor) -> float:
    """The mean of `loss` over rows, in parts that bound memory."""
    parts = rows.split(256)
    return float(
        np.average([loss(part).item() for part in parts], weights=[len(part) for part in parts])
    )


def audible(data: Features, rows: torch.Tensor) -> torch.Tensor:
    """Those of `rows` that have real audio features."""
    return rows[data.audio_row[rows] >= 0]


def training_rows(data: Features, fold: np.ndarray, left_out: int, pool: str) -> torch.Tensor:
    """Audible training clips outside the fold `left_out`; with pool `all`, unlabelled ones, too."""
    rows = audible(
        data, data.rows("training", "unlabelled") if pool == "all" else data.rows("training")
    )
    return rows[torch.from_numpy(fold)[rows] != left_out]


def rows_of_fold(data: Features, fold: np.ndarray, number: int) -> torch.Tensor:
    """Labelled training clips of a fold, audible or not."""
    rows = data.rows("training")
    return rows[torch.from_numpy(fold)[rows] == number]


def train_all(
    stage: run.StageRun, inputs: Inputs, p: GeneratorParams, folder: Path
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
            map_items(learn_and_answer, tasks, stage.workers), len(tasks), "training", "computing_s"
        )
    )
    if failed := [result for result in results if isinstance(result, Failure)]:
        raise UserError(
            f"training the generator failed: {failed[0].reason}; the machine may lack memory, try --workers 1"
        )
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


def main(stage: run.StageRun) -> None:
    p = params.load("generator", GeneratorParams)
    name = stage.item
    folder = Path("models/generator") / name
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
            Conditions(files, data, fold, p.mapping.condition == "mapped")
            if name == MAPPED
            else None
        )
        runs = train_all(stage, Inputs(data, fold, conditions, name == SHUFFLED), p, files)
        answers, extra = collect(data, runs, p.seeds)

        def generated(row: int) -> np.ndarray:
            return np.stack(
                [file.read([position])[0].numpy() for file, position in answers[row]]
            )  # [seeds, T, A]

        write_generated(Path("data/generated") / name, data, generated, p.seeds)
        trained = [(job, result["curve"]) for job, result, _ in runs if job.control == "none"]
        curves = pd.DataFrame(
            [
                {"seed": job.seed, "fold": job.fold, **epoch}
                for job, curve in trained
                for epoch in curve
            ]
        )
        plot = Path("metrics/plots/generator") / f"{name}.csv"
        plot.parent.mkdir(parents=True, exist_ok=True)
        curves.to_csv(plot, index=False, float_format="%.6f")
        for job, result, _ in runs:
            if result["weights"] is not None:
                save_file(result["weights"], folder / f"seed-{job.seed}.safetensors")
        widths = {"video_width": data.video.shape[-1], "audio_width": data.audio.shape[-1]}
        own = (
            p.mapping.model_dump() | {"text_width": conditions.embedding.shape[-1]}
            if conditions
            else {}
        )
        run.write_json(folder / "config.json", p.lstm.model_dump() | own | widths)
        attention = [
            result["attention"]
            for job, result, _ in runs
            if job.fold == WHOLE and job.control == "none"
        ]
        means = {key: float(np.mean([found[key] for found in attention])) for key in attention[0]}
        means["parameters"] = runs[0][1]["parameters"]
        stage.write_metrics(
            generation_measures.measure(data, fold, generated, extra, p.pool) | means
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
    run.main(
        main,
        __doc__,
        "generator",
        "architecture",
        lambda: params.load("generator", GeneratorParams).architectures,
    )
