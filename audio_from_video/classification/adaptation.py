"""Adaptation to missing sound at test time, after MiDl (Ramazanova et al., ICLR 2025).

Test clips come as a stream of batches.  Each batch is answered by the network as it stands.  Then
the clips of the batch that have sound, without their labels, change the network by one step: its
answers shall tell little of whether it heard the sound (mutual information of answer and
modality), and those with sound shall stay what they were before any adaptation (self-distillation).
arXiv 2404.15161; docs/missingness.md says what is simplified.
"""

from copy import deepcopy
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn.functional import kl_div, log_softmax
from torch.optim.sgd import sgd

from audio_from_video.classification.missingness_settings import AdaptationParams
from audio_from_video.classification.networks import ActionClassifier
from audio_from_video.classification.trained import TrainedClassifier, step_logits


def mutual_information(log_probabilities: torch.Tensor) -> torch.Tensor:
    """Return the mutual information of answer and view, in nats, its mean over clips.

    log_probabilities [views, n, actions]: of the same clips seen with different modalities.  It is
    the entropy of the mean answer minus the mean entropy of the answers.
    """
    probabilities = log_probabilities.exp()
    mean = probabilities.mean(0)  # [n, actions]
    log_mean = log_probabilities.logsumexp(0) - np.log(len(log_probabilities))
    entropy_of_mean = -(mean * log_mean).sum(-1)
    mean_entropy = -(probabilities * log_probabilities).sum(-1).mean(0)
    return (entropy_of_mean - mean_entropy).mean()


def adaptation_loss(
    with_sound: torch.Tensor,
    without_sound: torch.Tensor,
    original: torch.Tensor,
    p: AdaptationParams,
) -> torch.Tensor:
    """Return the loss of clips with sound, from their logits [n, actions], a scalar.

    original: those of the network before any adaptation, with sound; they are what is kept by the
    Kullback-Leibler divergence KL(original || with_sound).
    """
    now = log_softmax(with_sound, -1)
    views = torch.stack([now, log_softmax(without_sound, -1)])
    kept = kl_div(now, log_softmax(original, -1), log_target=True, reduction="batchmean")
    return p.information_weight * mutual_information(views) + p.distillation_weight * kept


def adapted_parameters(model: ActionClassifier) -> list[torch.nn.Parameter]:
    """Return what adapts: the token and all biases.

    MiDl adapts scale and shift of normalisation layers, which this network has not.
    """
    return [
        parameter
        for name, parameter in model.named_parameters()
        if name == "token" or "bias" in name
    ]


def stream_probabilities(
    trained: TrainedClassifier,
    clip_indices: torch.Tensor,
    missing: torch.Tensor,
    p: AdaptationParams,
) -> np.ndarray:
    """Return the probabilities [n, actions] of clips [n] that come in this order.

    missing [n] bool: the clips that lack their sound, beside the inaudible ones.  Labels are not
    read, and `trained` stays as it is.
    """
    model = deepcopy(trained.model)
    adapted = adapted_parameters(model)
    model.requires_grad_(False)
    for parameter in adapted:
        parameter.requires_grad_(True)
    velocities: list[torch.Tensor | None] = [None] * len(adapted)

    answers = []
    for clips, lacks in zip(
        clip_indices.split(p.batch_size), missing.split(p.batch_size), strict=True
    ):
        batch = _read(trained, clips)
        has_sound = batch.audible & ~lacks
        logits = batch.logits(model, has_sound)
        answers.append(logits.detach().softmax(1))
        if not has_sound.any():
            continue

        complete = batch.those(has_sound)
        with torch.no_grad():
            original = complete.logits(trained.model, complete.audible)
        without_sound = complete.logits(model, ~complete.audible)
        loss = adaptation_loss(logits[has_sound], without_sound, original, p)
        gradients = list(torch.autograd.grad(loss, adapted))
        with torch.no_grad():
            # Not the class torch.optim.SGD, whose imports take seconds (learning/optimizer.py).
            sgd(
                adapted,
                gradients,
                velocities,
                foreach=False,
                weight_decay=0.0,
                momentum=p.momentum,
                lr=p.learning_rate,
                dampening=0.0,
                nesterov=False,
                maximize=False,
            )
    return torch.cat(answers).numpy()


@dataclass(frozen=True)
class _Batch:
    """Features of n clips: video [n, T, V], own sound and what stands in its place [n, T, A].

    audible [n] bool: clips with own sound.  filled [n] bool: clips with something in its place.
    """

    video: torch.Tensor
    own: torch.Tensor
    audible: torch.Tensor
    other: torch.Tensor
    filled: torch.Tensor

    def those(self, mask: torch.Tensor) -> "_Batch":
        """The clips of a mask [n]."""
        return _Batch(*(getattr(self, field.name)[mask] for field in fields(self)))

    def logits(self, model: ActionClassifier, has_sound: torch.Tensor) -> torch.Tensor:
        """Logits [n, actions] with the own sound of the clips of a mask [n]."""
        heard = has_sound[:, None].expand(-1, self.video.shape[1])
        return step_logits(model, self.video, self.own, heard, self.other, self.filled)


def _read(trained: TrainedClassifier, clips: torch.Tensor) -> _Batch:
    """Features of clips."""
    own = trained.own_sound(clips)
    filler = trained.filler(clips)
    return _Batch(trained.video(clips), own.features, own.present, filler.features, filler.present)
