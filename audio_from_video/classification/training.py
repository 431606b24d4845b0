"""One training of a condition's LSTM: its task, the network, its losses and its predictions."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import cross_entropy, log_softmax

from audio_from_video.backbones import hub
from audio_from_video.classification.audio_input import AudioReader, audio_scale
from audio_from_video.classification.data import ActionData
from audio_from_video.classification.networks import (
    ActionClassifier,
    ClassifierSizes,
    TrainingBatch,
    matched_hidden,
    network_class,
)
from audio_from_video.classification.settings import ClassifierParams, NetworkParams
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

    def checkpoint(self, generator: torch.Generator) -> Checkpoint | None:
        """Return where the training stores its state; None without a key of the data.

        generator: what its losses draw from.
        """
        if not self.data_key:
            return None
        targets = new_hash(self.targets.numpy().tobytes()).hexdigest()
        condition = self.data.condition.model_dump()
        others = self.p.model_dump(include={"missing_rates", "extra_weight"})
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
    """

    weights: dict[str, torch.Tensor]
    curve: list[dict]
    probabilities: np.ndarray
    hits: list[np.ndarray]


def train_one(task: TrainingTask) -> TrainingResult:
    """Train once and return weights, curve and predictions; a worker runs it."""
    one_thread()
    torch.manual_seed(task.seed)
    training = ConditionTraining(task)
    curve = fit(
        training.model,
        training.training_loss,
        task.training_indices,
        training.validation_loss,
        task.p.lstm,
        task.seed,
        f"classifier/{task.name}",
        checkpoint=task.checkpoint(training.generator),
    )
    with torch.inference_mode():
        probabilities = training.probabilities(task.predicted_indices)
        hits = training.hits_at_missing_rates()
    state = training.model.state_dict()
    weights = {key: value.cpu() for key, value in state.items()}
    return TrainingResult(weights, curve, probabilities, hits)


class ConditionTraining:
    """The network of a training task, and what it reads of each clip."""

    def __init__(self, task: TrainingTask):
        self.task = task
        self.data = task.data
        self.device = hub.device()
        self.model = build(task.data, task.p.lstm, task.training_indices).to(self.device)
        self.generator = torch.Generator().manual_seed(task.seed)
        if task.data.sounds:
            scale = audio_scale(task.data, task.training_indices)
            self.audio = AudioReader(task.data, task.seed, scale)

    def training_loss(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch of training clips [n], a scalar."""
        # Drawn under every condition, so that their random numbers stay comparable.
        missing = self.task.draw_missing(len(clip_indices), self.generator)
        logits, second_loss = self._training_pass(clip_indices, missing)
        targets = self.task.targets[clip_indices].to(self.device)
        log_likelihood = (targets * log_softmax(logits, 1)).sum()
        # Clips whose action is not learned have targets of 0 and count for nothing here.
        loss = -log_likelihood / targets.sum().clamp(min=1)
        if second_loss is None:
            return loss
        return loss + self.task.p.extra_weight * second_loss

    def _training_pass(
        self, clip_indices: torch.Tensor, missing: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Logits [n, actions] of training clips and the second loss, if the network has one."""
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


def build(data: ActionData, p: NetworkParams, training_indices: torch.Tensor) -> ActionClassifier:
    """Return the network of a condition, with random weights.

    training_indices [n]: the clips that it learns from; their features give its scale.
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

    model = network_class(condition.learns, condition.gate, condition.test_audio)(sizes)
    model.set_scale("video", *data.video.moments(training_indices.tolist()))
    if data.sounds:
        scale = audio_scale(data, training_indices)
        model.set_scale("audio", scale.mean, scale.std)
    return model
