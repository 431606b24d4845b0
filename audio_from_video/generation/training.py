"""One training of a generator, and the audio features that it generates afterwards."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from audio_from_video.clipset.folds import NO_FOLD, WHOLE
from audio_from_video.generation.generator import Inputs, MappedGenerator, make_generator
from audio_from_video.generation.networks import (
    beta_nll,
    clip_losses,
    contrastive_loss,
    generation_loss,
)
from audio_from_video.generation.settings import GeneratorParams
from audio_from_video.learning.chance import exceeds_noise
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.features import Features
from audio_from_video.learning.loop import fit
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage.row_file import RowFile

CLIPS_PER_PART = 256  # bounds the memory of losses and of generated features


@dataclass(frozen=True)
class Job:
    """Which clips a training learns from, and for which it generates features.

    fold: left out of training; WHOLE: none.
    control: `untrained` keeps random weights; `time_shuffled` learns from sound whose time steps
    are shuffled.
    draw: how often the training was repeated with other random numbers.
    """

    seed: int
    fold: int
    control: Literal["none", "untrained", "time_shuffled"] = "none"
    draw: int = 0

    @property
    def random_seed(self) -> int:
        """Return the seed of weights, batches and dropout; `seed` unless it is a repetition."""
        if not self.draw:
            return self.seed
        return int(digest("repeat", self.seed, self.draw)[:8], 16)


@dataclass(frozen=True)
class GeneratorTask:
    """A job with what it reads, for a worker.

    path: the file that takes the generated features.
    inputs_key: digest of the inputs, with which a killed training goes on where it was.
    """

    inputs: Inputs
    job: Job
    p: GeneratorParams
    path: Path
    inputs_key: str


@dataclass(frozen=True)
class GeneratorResult:
    """What a job gives.

    clip_indices [n]: clips for which features were generated; features: their rows [T, A].
    deviations: rows [T, A] of the errors that it expects; None where it predicts none.
    curve: losses by epoch, as of `learning.loop.fit`.
    parameters: how many numbers the network learns.
    attention: figures of the attention (architecture 2, trained on all clips).
    weights: the network's state_dict, where it was trained on all clips and is no control.
    at_mean: whether it learned nothing (`GeneratorTraining.is_at_mean`), after all its repetitions.
    repeats: how often it was repeated.
    """

    job: Job
    clip_indices: np.ndarray
    features: RowFile
    deviations: RowFile | None
    curve: list[dict]
    parameters: int
    attention: dict[str, float]
    weights: dict[str, torch.Tensor] | None
    at_mean: bool
    repeats: int


def run_job(task: GeneratorTask) -> GeneratorResult:
    """Train one generator and write the features that it generates; a worker runs it.

    Returns where the features stand, and the weights of trainings on all clips.
    """
    one_thread()
    job = task.job
    training, at_mean, repeats = learned_training(task)
    generator = training.generator
    model = generator.model
    model.eval()
    generator.refresh()

    clip_indices = clips_to_generate(task.inputs, job)
    attention = {}
    with torch.inference_mode():
        features = training.write_features(clip_indices)
        deviations = None
        if task.p.lstm.variance == "predicted":
            deviations = training.write_deviations(clip_indices)
        if job.fold == WHOLE and isinstance(generator, MappedGenerator):
            attention = attention_figures(generator, training.validation_indices)
    weights = None
    if job.fold == WHOLE and job.control == "none":
        state = model.state_dict()
        weights = {key: value.cpu() for key, value in state.items()}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return GeneratorResult(
        job,
        clip_indices.numpy(),
        features,
        deviations,
        training.curve,
        parameters,
        attention,
        weights,
        at_mean,
        repeats,
    )


def learned_training(task: GeneratorTask) -> tuple["GeneratorTraining", bool, int]:
    """Train; return the training, whether it learned nothing, and how often it was repeated.

    One that learned nothing is repeated with other random numbers, `generator.repeats` times at
    most; where all do, the one with the lowest validation loss counts. Controls are not repeated:
    they are to learn little.
    """
    is_control = task.job.control != "none" or task.inputs.shuffled
    repeats = 0 if is_control else task.p.repeats
    trainings = []
    for draw in range(1 + repeats):
        job = replace(task.job, draw=draw)
        torch.manual_seed(job.random_seed)
        training = GeneratorTraining(replace(task, job=job))
        if job.control != "untrained":
            training.train()
        if not training.is_at_mean():
            return training, False, draw
        trainings.append(training)
    best = min(trainings, key=lambda training: training.lowest_loss)
    return best, True, repeats


class GeneratorTraining:
    """The generator of a task, and the sound that it learns from.

    curve: losses by epoch, once it is trained.
    """

    def __init__(self, task: GeneratorTask):
        self.task = task
        self.data = task.inputs.data
        self.generator = make_generator(task.inputs, task.job.seed, task.p)
        self.validation_indices = validation_clips(self.data)
        self.training_indices = training_clips(
            self.data, task.inputs.fold, task.job.fold, task.p.pool
        )
        self._set_scales()
        self.curve: list[dict] = []

        # Draws whose sound a clip of the control learns from, and the order of shuffled steps.
        self.shuffle = torch.Generator().manual_seed(task.job.random_seed)
        self.generator.noise_generator.manual_seed(task.job.random_seed)
        self.sound_of = torch.arange(len(self.data.clips))
        if task.inputs.shuffled:
            order = torch.randperm(len(self.training_indices), generator=self.shuffle)
            self.sound_of[self.training_indices] = self.training_indices[order]
        self._set_action_sound()

    def _set_scales(self) -> None:
        """Give the network the scales of the training clips' features."""
        model = self.generator.model
        video_mean, video_std = self.data.video.moments(self.training_indices.tolist())
        model.set_scale("video", video_mean, video_std)
        rows = self.data.audio_row[self.training_indices].tolist()
        mean, std_by_component = self.data.audio.moments(rows)
        std = std_by_component
        if self.task.p.lstm.target_scale == "global":
            # One deviation for all dimensions: large ones keep their weight in the loss.
            std = std.square().mean().sqrt().expand_as(std)
        model.set_scale("audio", mean, std)
        model.start_variances(std_by_component)

    def _set_action_sound(self) -> None:
        """Give the generator the mean sound of each action, where it adds to it.

        It is that of the labelled clips that are learned from; an action without any has the mean
        of all clips.
        """
        generator = self.generator
        if generator.action_sound is None or generator.predicted is None:
            return
        clips = self.data.clips.iloc[self.training_indices.numpy()]
        for number, action in enumerate(generator.predicted.actions):
            is_own = (clips.split == "training") & (clips.action == action)
            own = self.training_indices[torch.tensor(is_own.to_numpy(bool))]
            if not len(own):
                continue
            rows = self.data.audio_row[self.sound_of[own]].tolist()
            mean, _ = self.data.audio.moments(rows)
            generator.action_sound.mean[number] = generator.model.scale(mean.to(generator.device))

    @property
    def lowest_loss(self) -> float:
        """Return the validation loss of the epoch whose weights were kept."""
        return min((epoch["validation_loss"] for epoch in self.curve), default=float("inf"))

    def train(self) -> None:
        """Train the network."""
        task = self.task
        settings = task.p.model_dump(exclude={"seeds"})
        key = digest(task.inputs_key, asdict(task.job), settings)
        self.curve = fit(
            self.generator.model,
            self.loss,
            self.training_indices,
            self.validation_loss,
            task.p.lstm,
            task.job.random_seed,
            "generator",
            self.generator.slower_parts,
            Checkpoint(key, (self.shuffle, self.generator.noise_generator)),
        )

    def loss(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the loss of clips [n], a scalar."""
        model = self.generator.model
        net = self.task.p.lstm
        sound, _ = self.data.sound(self.sound_of[clip_indices])
        target = model.scale(sound.to(self.generator.device))  # [n, T, A]
        if model.training and self.task.job.control == "time_shuffled":
            order = torch.randperm(target.shape[1], generator=self.shuffle)
            target = target[:, order]
        prediction = self.generator.predict(clip_indices)
        if net.variance == "predicted":
            # The plain likelihood decides on validation: only this is a proper score.
            beta = net.variance_beta if model.training else 0.0
            loss = net.mse_weight * beta_nll(prediction, target, beta)
            loss = loss + generation_loss(prediction.mean, target, 0.0, net.cosine_weight)
        else:
            loss = generation_loss(prediction.mean, target, net.mse_weight, net.cosine_weight)
        if not model.training or not net.contrastive_weight:
            return loss
        # In training alone: it depends on the other clips of a batch.
        contrastive = contrastive_loss(prediction.mean, target, net.contrastive_temperature)
        return loss + net.contrastive_weight * contrastive

    def validation_loss(self) -> float:
        """Return the mean loss of the audible validation clips."""
        self.generator.refresh()
        return mean_loss(self.loss, self.validation_indices)

    @torch.inference_mode()
    def is_at_mean(self) -> bool:
        """Return whether validation shows no more than the training clips' mean.

        It does where the losses of validation clips are not below those of that mean by more than
        noise over sources.
        """
        model = self.generator.model
        model.eval()
        self.generator.refresh()
        net = self.task.p.lstm
        gains = []
        for part in self.validation_indices.split(CLIPS_PER_PART):
            sound, _ = self.data.sound(part)
            target = model.scale(sound.to(self.generator.device))
            mean = torch.zeros_like(target)  # in the units of the targets
            of_mean = clip_losses(mean, target, net.mse_weight, net.cosine_weight)
            predicted = self.generator(part)
            of_answers = clip_losses(predicted, target, net.mse_weight, net.cosine_weight)
            gains.append((of_mean - of_answers).cpu().numpy())
        sources = self.data.clips.source_id.to_numpy()[self.validation_indices]
        return not exceeds_noise(np.concatenate(gains), sources)

    def write_features(self, clip_indices: torch.Tensor) -> RowFile:
        """Write the features [T, A] generated for clips to the task's file."""
        file = RowFile(self.task.path, self.data.audio.shape)
        return file.write(self._features(clip_indices))

    def _features(self, clip_indices: torch.Tensor) -> Iterator[np.ndarray]:
        """Generate the features [T, A] of one clip after the other."""
        for part in clip_indices.split(CLIPS_PER_PART):
            features = self.generator.model.unscale(self.generator(part))  # [n, T, A]
            yield from features.cpu().numpy()

    def write_deviations(self, clip_indices: torch.Tensor) -> RowFile:
        """Write the deviations [T, A] predicted for clips to a file beside the features."""
        path = self.task.path.with_name(f"{self.task.path.name}-deviations")
        return RowFile(path, self.data.audio.shape).write(self._deviations(clip_indices))

    def _deviations(self, clip_indices: torch.Tensor) -> Iterator[np.ndarray]:
        """Predict the deviations [T, A] of one clip after the other."""
        for part in clip_indices.split(CLIPS_PER_PART):
            log_variance = self.generator.predict(part).log_variance
            if log_variance is None:
                raise ValueError("the generator predicts no variances")
            yield from self.generator.model.deviation(log_variance).cpu().numpy()


def attention_figures(generator: MappedGenerator, clip_indices: torch.Tensor) -> dict[str, float]:
    """Return what architecture 2 makes of labels and noise, over the given clips [n].

    attention_entropy: of the weights over an anchor's labels (nats; 0 without labels).
    temperature, injection: as learned.
    spread_over_noise: how far two draws of noise move the features, in deviations of the targets.
    """
    model = generator.model
    entropies = []
    spreads = []
    for part in clip_indices.split(CLIPS_PER_PART):
        video = generator.video(part)
        anchors = generator.anchors(part)
        # Of anchors that have a label at all.
        weights = model.attention.weights(anchors, model.scale_video(video))
        weights = weights[anchors.valid.any(-1)]
        log_weights = weights.clamp(min=1e-9).log()
        entropies.append(-(weights * log_weights).sum(-1))  # [anchors]

        draws = [model(video, anchors, generator.own_noise(part, draw)) for draw in (0, 1)]
        deviation = torch.stack(draws).std(0)  # [n, T, A]
        spreads.append(deviation.flatten(1).mean(1))  # [n]
    return {
        "attention_entropy": torch.cat(entropies).mean().nan_to_num().item(),
        "temperature": model.attention.log_temperature.exp().item(),
        "injection": model.injection.item(),
        "spread_over_noise": torch.cat(spreads).mean().item(),
    }


def mean_loss(loss: Callable[[torch.Tensor], torch.Tensor], clip_indices: torch.Tensor) -> float:
    """Return the mean of `loss` over clips [n], in parts that bound memory."""
    losses = []
    sizes = []
    for part in clip_indices.split(CLIPS_PER_PART):
        losses.append(loss(part).item())
        sizes.append(len(part))
    return float(np.average(losses, weights=sizes))


def audible(data: Features, clip_indices: torch.Tensor) -> torch.Tensor:
    """Return those of the clips [n] that have real audio features."""
    return clip_indices[data.audio_row[clip_indices] >= 0]


def training_clips(data: Features, fold: np.ndarray, left_out: int, pool: str) -> torch.Tensor:
    """Return the audible training clips [n] to fit on outside a fold (WHOLE: all of them).

    pool: `all` adds the audible unlabelled clips.
    """
    splits = ("training", "unlabelled") if pool == "all" else ("training",)
    clip_indices = audible(data, data.clip_indices(*splits))
    clip_indices = clip_indices[data.fitted[clip_indices]]
    return clip_indices[torch.from_numpy(fold)[clip_indices] != left_out]


def validation_clips(data: Features) -> torch.Tensor:
    """Return the audible validation clips [n] that trainings end by."""
    clip_indices = audible(data, data.clip_indices("validation"))
    return clip_indices[data.fitted[clip_indices]]


def clips_of_fold(data: Features, fold: np.ndarray, number: int) -> torch.Tensor:
    """Return the training and unlabelled clips [n] of a fold, audible or not."""
    clip_indices = data.clip_indices("training", "unlabelled")
    return clip_indices[torch.from_numpy(fold)[clip_indices] == number]


def clips_to_generate(inputs: Inputs, job: Job) -> torch.Tensor:
    """Return the clips [n] that a job generates features for.

    Those of the fold that it left out; of a training on all clips those of validation and test,
    those of sources that came after it (`clips.fit_on`), and last the training clips, for
    comparison.
    """
    data = inputs.data
    if job.fold != WHOLE:
        return clips_of_fold(data, inputs.fold, job.fold)
    scored = data.clip_indices("validation", "test")
    later = clips_of_fold(data, inputs.fold, NO_FOLD)
    training = data.clip_indices("training")
    folded = training[torch.from_numpy(inputs.fold)[training] != NO_FOLD]
    return torch.cat([scored, later, folded])
