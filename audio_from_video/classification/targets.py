"""Targets of the classifiers' training: labels, smoothed labels and a teacher's predictions."""

import numpy as np
import pandas as pd
import torch

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import TeachingParams
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions


def smoothed(labels: torch.Tensor, actions: int, smoothing: float) -> torch.Tensor:
    """Targets [n, actions] of labels [n], with label smoothing (Szegedy et al. 2016)."""
    one_hot = torch.nn.functional.one_hot(labels, actions).float()
    return one_hot * (1 - smoothing) + smoothing / actions


def training_targets(
    data: ActionData, labelled: torch.Tensor, smoothing: float, teaching: TeachingParams, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clips that a training learns from, sorted indices [n], and targets [N, actions].

    labelled: indices of the training clips that are learned with their labels.
    The targets of a clip are 0 where its action is not learned. A teacher (see `teach`) adds the
    clips without label to the labelled ones; `learns: audio` adds those that have audio.
    """
    condition = data.condition
    targets = torch.zeros(len(data.clips), len(data.actions))
    targets[labelled] = smoothed(data.labels[labelled], len(data.actions), smoothing)
    if condition.learns == "audio":
        others = data.without_label()
        audible = others[data.sounds["real"].row[others] >= 0]
        return torch.cat([labelled, audible]).sort().values, targets
    if not condition.teacher:
        return labelled, targets
    return teach(data, labelled, targets, smoothing, teaching, seed)


def teach(
    data: ActionData,
    labelled: torch.Tensor,
    targets: torch.Tensor,
    smoothing: float,
    teaching: TeachingParams,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add a teacher's predictions to the targets; return clip indices [n] and targets [N, actions].

    The predictions are those of the teacher's training of the same seed, or the mean over all its
    trainings (`teacher_seeds: ensemble`), out of fold on training clips.
    soft: clips without label get the teacher's probabilities, and labelled clips a mix of label and
    teacher by `weight` (Hinton et al. 2015, at temperature 1).
    hard: clips without label get the teacher's most probable action as their label, where that has
    at least `confidence` (Lee 2013).
    Raises UserError when the teacher did not predict the clips without label.
    """
    probabilities, known = teacher_probabilities(data, seed)
    others = data.without_label()
    if not known[others].all():
        raise UserError(
            f"{data.condition.teacher} has not answered the unlabelled clips: "
            "it needs answers_pool: true"
        )
    if data.condition.teaching == "soft":
        # A labelled clip for which the teacher has no prediction keeps its label alone.
        mixed = labelled[known[labelled]]
        label_part = (1 - teaching.weight) * targets[mixed]
        teacher_part = teaching.weight * probabilities[mixed]
        targets[mixed] = label_part + teacher_part
        targets[others] = probabilities[others]
    else:
        confidence = probabilities[others].max(1).values
        others = others[confidence >= teaching.confidence]
        best = probabilities[others].argmax(1)
        targets[others] = smoothed(best, len(data.actions), smoothing)
    return torch.cat([labelled, others]).sort().values, targets


def teacher_probabilities(data: ActionData, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A teacher's probabilities [N, actions], 0 where it has none, and for which clips it has [N].

    Raises UserError when the teacher knows other actions.
    """
    name = data.condition.teacher
    teacher = predictions.read(name)
    if teacher.actions != data.actions:
        raise UserError(
            f"{name} answers other actions than this condition: run `dvc repro classifier@{name}`"
        )
    # Where the clips stand among the teacher's; NaN where it has not predicted one.
    places = np.arange(len(teacher.clips))
    positions = pd.Series(places, index=teacher.clips.clip_id)
    positions = positions.reindex(data.clips.clip_id)
    known = positions.notna().to_numpy()
    if data.condition.teacher_seeds == "ensemble":
        answers = teacher.probabilities.mean(0)
    else:
        answers = teacher.probabilities[seed % len(teacher.probabilities)]

    probabilities = torch.zeros(len(data.clips), len(data.actions))
    known_probabilities = answers[positions[known].to_numpy(int)]
    probabilities[torch.tensor(known)] = torch.tensor(known_probabilities)
    return probabilities, torch.tensor(known)
