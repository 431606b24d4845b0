"""Training of one generator and its answers for the clips of a fold."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from audio_from_video.generation.generator import Generator, Inputs
from audio_from_video.generation.networks import MappedAudioGenerator, generation_loss
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.features import Features
from audio_from_video.learning.loop import fit
from audio_from_video.runtime import params
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage.row_file import RowFile

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
