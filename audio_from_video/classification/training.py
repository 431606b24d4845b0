"""One training of a condition's LSTM: its task, the network, its losses and its predictions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax

from audio_from_video.backbones import hub
from audio_from_video.classification.audio_input import (
    audio_reader,
    audio_scale,
    component_weights,
)
from audio_from_video.classification.chance import is_at_chance
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    LateFusionClassifier,
    TrainingBatch,
    matched_hidden,
    network_class,
)
from audio_from_video.classification.settings import ClassifierParams, FusionParams, NetworkParams
from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.loop import fit
from audio_from_video.runtime.digests import digest, new_hash
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.storage import shards
from audio_from_video.storage.predictions import Predictions

CLIPS_PER_PART = 512  # bounds the memory of predictions


@dataclass
class TrainingTask:
    """One training, which a worker runs.

    name: the condition's name.
    training_indices [n]: clips that it learns from, with their rows of `targets` [N, actions].
    predicted_indices [m]: clips whose actions it predicts afterwards.
    missing_rates: rates at which test clips are predicted once more.
    data_key: digest of the data, with which a killed training goes on; "": it begins anew.
    draw: how often the training was repeated with other random numbers.
    """

    data: ActionData
    p: ClassifierParams
    seed: int
    name: str
    training_indices: torch.Tensor
    targets: torch.Tensor
    predicted_indices: torch.Tensor
    missing_rates: list[float]
    data_key: str = ""
    draw: int = 0

    @property
    def random_seed(self) -> int:
        """Return the seed of weights, batches and dropout; `seed` unless it is a repetition."""
        if not self.draw:
            return self.seed
        return int(digest("repeat", self.seed, self.draw)[:8], 16)

    def checkpoint(self, generator: torch.Generator) -> Checkpoint | None:
        """Return where the training stores its state; None without a key of the data.

        generator: what its losses draw from.
        """
        if not self.data_key:
            return None
        targets = new_hash(self.targets.numpy().tobytes()).hexdigest()
        condition = self.data.condition.model_dump()
        others = self.p.model_dump(include={"missing_rates", "extra_weight", "fusion"})
        return Checkpoint(digest(self.data_key, targets, condition, others), (generator,))

    def draw_missing(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Return which clips of a training batch lack their audio, bool [count].

        Their share is the condition's missing rate, or one of all rates, drawn per batch.
        """
        rate = self.data.condition.missing_rate
        if rate == "drawn":
            rates = self.p.missing_rates
            index = torch.randint(len(rates), (1,), generator=generator)
            share = rates[int(index)]
        else:
            share = float(rate)
        return torch.rand(count, generator=generator) < share


@dataclass(frozen=True)
class TrainingResult:
    """What a training gives.

    weights: the network's state_dict.
    curve: losses by epoch, as of `learning.loop.fit`.
    probabilities [m, actions]: of the task's predicted clips.
    hits: for each missing rate whether the predictions of test clips are right, bool [test clips].
    at_chance: whether it learned nothing (`is_at_chance`), after all its repetitions.
    repeats: how often it was repeated.
    """

    weights: dict[str, torch.Tensor]
    curve: list[dict]
    probabilities: np.ndarray
    hits: list[np.ndarray]
    at_chance: bool
    repeats: int = 0

    @property
    def validation_loss(self) -> float:
        """Return the loss of the epoch whose weights were kept."""
        return min(epoch["validation_loss"] for epoch in self.curve)


def train_one(task: TrainingTask) -> TrainingResult:
    """Train and return weights, curve and predictions; a worker runs it.

    A training that ends at chance is repeated with other random numbers, `repeats` times at most.
    Where all do, the one with the lowest validation loss counts.
    """
    one_thread()
    results: list[TrainingResult] = []
    for draw in range(1 + task.p.repeats):
        results.append(train_draw(replace(task, draw=draw)))
        if not results[-1].at_chance:
            break
    chosen = min(results, key=lambda result: (result.at_chance, result.validation_loss))
    return replace(chosen, repeats=len(results) - 1)


def train_draw(task: TrainingTask) -> TrainingResult:
    """Train once with the random numbers of the task's draw."""
    torch.manual_seed(task.random_seed)
    training = ConditionTraining(task)
    curve = fit(
        training.model,
        training.training_loss,
        task.training_indices,
        training.validation_loss,
        task.p.lstm,
        task.random_seed,
        f"classifier/{task.name}",
        checkpoint=task.checkpoint(training.generator),
    )
    with torch.inference_mode():
        training.choose_audio_share()
        probabilities = training.probabilities(task.predicted_indices)
        hits = training.hits_at_missing_rates()
        at_chance = training.is_at_chance()
    state = training.model.state_dict()
    weights = {key: value.cpu() for key, value in state.items()}
    return TrainingResult(weights, curve, probabilities, hits, at_chance)


class ConditionTraining:
    """The network of a training task, and what it reads of each clip."""

    def __init__(self, task: TrainingTask):
        self.task = task
        self.data = task.data
        self.device = hub.device()
        fusion = task.p.fusion_of(task.data.condition)
        model = build(task.data, task.p.lstm, fusion, task.training_indices, task.seed)
        self.model = model.to(self.device)
        self.generator = torch.Generator().manual_seed(task.random_seed)
        if task.data.sounds:
            self.audio = audio_reader(task.data, fusion, task.training_indices, task.seed)

    def training_loss(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch of training clips [n], a scalar."""
        # Drawn under every condition, so that their random numbers stay comparable.
        missing = self.task.draw_missing(len(clip_indices), self.generator)
        logits, second_loss = self._training_pass(clip_indices, missing)
        targets = self.task.targets[clip_indices].to(self.device)
        # Logits of several experts: each learns the targets.
        log_likelihood = (targets * log_softmax(logits, -1)).sum()
        # Clips whose action is not learned have targets of 0 and count for nothing here.
        loss = -log_likelihood / targets.sum().clamp(min=1)
        if second_loss is None:
            return loss
        return loss + self.task.p.extra_weight * second_loss

    def _training_pass(
        self, clip_indices: torch.Tensor, missing: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits of training clips, as `training_pass` returns them, and the second loss."""
        video = self._video(clip_indices)
        if not self.data.sounds:
            return self.model(video), None
        if self.data.condition.learns == "audio":
            # Audio is what it generates, never what it reads: no filler is needed.
            features, present = self.data.sounds["real"].read(clip_indices)
            is_real = present
        else:
            kind = self.data.condition.train_audio
            audio = self.audio.read(clip_indices, kind, missing, self.generator)
            features = audio.features
            present = audio.present
            is_real = audio.is_real
        batch = TrainingBatch(
            video,
            features.to(self.device),
            present.to(self.device),
            is_real.to(self.device),
            self.data.audio_belongs[clip_indices].to(self.device),
        )
        return self.model.training_pass(batch)

    def logits(
        self, clip_indices: torch.Tensor, missing: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the logits [n, actions] of clips [n], on the CPU.

        missing [n] bool: the clips whose audio gives way to the condition's filler. Left out, it is
        all of them, or none where the condition has real audio at test.
        """
        condition = self.data.condition
        if missing is None:
            missing = torch.full((len(clip_indices),), condition.test_audio != "real")
        video = self._video(clip_indices)
        if not self.data.sounds or condition.learns == "audio":
            return self.model(video).cpu()
        audio = self.audio.read(clip_indices, "real", missing)
        features = audio.features.to(self.device)
        present = audio.present.to(self.device)
        return self.model(video, features, present).cpu()

    def validation_loss(self) -> float:
        """Return the mean cross-entropy of the validation clips."""
        losses = []
        sizes = []
        for part in self.data.participants("validation").split(CLIPS_PER_PART):
            labels = self.data.labels[part]
            losses.append(cross_entropy(self.logits(part), labels))
            sizes.append(len(part))
        return float(np.average(losses, weights=sizes))

    def choose_audio_share(self) -> None:
        """Set the audio expert's share of a late fusion to the best one on validation."""
        if not isinstance(self.model, LateFusionClassifier):
            return
        losses = {}
        for share in LateFusionClassifier.SHARES:
            self.model.audio_share.fill_(share)
            losses[share] = self.validation_loss()
        self.model.audio_share.fill_(min(losses, key=losses.__getitem__))

    def is_at_chance(self) -> bool:
        """Return whether validation shows no more than the actions' shares in training."""
        validation = self.data.participants("validation")
        frequencies = self.task.targets[self.task.training_indices].sum(0).numpy()
        return is_at_chance(
            self.probabilities(validation),
            self.data.labels[validation].numpy(),
            frequencies / frequencies.sum(),
            self.data.clips.source_id.to_numpy()[validation],
        )

    def probabilities(self, clip_indices: torch.Tensor) -> np.ndarray:
        """Return the probabilities [n, actions] of clips [n]."""
        parts = []
        for part in clip_indices.split(CLIPS_PER_PART):
            parts.append(self.logits(part).softmax(1))
        return torch.cat(parts).numpy()

    def hits_at_missing_rates(self) -> list[np.ndarray]:
        """Return for each missing rate which test clips are predicted right, bool [clips]."""
        test = self.data.participants("test")
        missing_at = self.data.missing_at(self.task.missing_rates, test, self.task.seed)
        hits = []
        for missing in missing_at.values():
            predicted = []
            for part, part_missing in zip(
                test.split(CLIPS_PER_PART), missing.split(CLIPS_PER_PART), strict=True
            ):
                predicted.append(self.logits(part, part_missing).argmax(1))
            hit = torch.cat(predicted) == self.data.labels[test]
            hits.append(hit.numpy())
        return hits

    def _video(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Video features [n, T, V] of clips."""
        video = self.data.video.read(clip_indices.tolist())
        return video.to(self.device)


def predictions_of(
    data: ActionData, clip_indices: torch.Tensor, probabilities: np.ndarray
) -> Predictions:
    """Return the predictions for clips [n], of probabilities [seeds, N, actions] for all clips."""
    order = clip_indices.sort().values.numpy()
    clips = data.clips.iloc[order].reset_index(drop=True)
    return Predictions(clips, data.actions, probabilities[:, order])


def build(
    data: ActionData,
    p: NetworkParams,
    fusion: FusionParams,
    training_indices: torch.Tensor,
    seed: int = 0,
) -> ActionClassifier:
    """Return the network of a condition, with random weights.

    training_indices [n]: the clips that it learns from; their features give its scale.
    seed: of the generator whose features it learns from.
    """
    condition = data.condition
    steps, video_width = data.video.shape
    sizes = ClassifierSizes(
        video_width=video_width,
        audio_width=data.sounds["real"].file.shape[-1] if data.sounds else 0,
        actions=len(data.actions),
        hidden=p.hidden,
        projection=p.projection,
        dropout=p.dropout,
        steps=steps,
    )
    if condition.match_parameters:
        audio_width = shards.tensor_shape(condition.audio_path("real"), "features")[-1]
        sizes = replace(sizes, hidden=matched_hidden(replace(sizes, audio_width=audio_width)))

    how = fusion.how if data.sounds else "concatenate"
    network = network_class(condition.learns, condition.gate, condition.test_audio, how)
    model = network(sizes)
    model.set_scale("video", *data.video.moments(training_indices.tolist()))
    if data.sounds:
        scale = audio_scale(data, training_indices)
        model.set_scale("audio", scale.mean, scale.std)
        model.audio_weight.copy_(component_weights(data, fusion, training_indices, seed))
    return model
