"""Targets of the classifiers' training: labels, soft labels, lessons of teachers."""

from collections.abc import Mapping

import pandas as pd
import torch

from audio_from_video.classification.data import ActionData
from audio_from_video.classification.settings import Condition
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions


def smoothed(labels: torch.Tensor, actions: int, smoothing: float) -> torch.Tensor:
    """Targets [n, actions] of labels [n], with label smoothing (Szegedy et al. 2016)."""
    return (
        torch.nn.functional.one_hot(labels, actions).float() * (1 - smoothing) + smoothing / actions
    )


def lessons(
    data: ActionData,
    condition: Condition,
    taught: torch.Tensor,
    smoothing: float,
    teaching: Mapping[str, float],
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that a condition learns from and what it is told of them: targets [all clips, actions], 0 where it is told no
    action.

    taught: training rows with their labels.  A teacher (another condition's answers, of the same seed; out of fold on training
    clips) adds the pool: `soft`: its probabilities, and on labelled clips half label, half teacher by `weight` (Hinton et al.
    2015, at temperature 1); `hard`: its most probable action as a label, where that has at least `confidence` (Lee 2013).
    """
    targets = torch.zeros(len(data.clips), len(data.actions))
    targets[taught] = smoothed(data.labels[taught], len(data.actions), smoothing)
    pool = data.pool()
    if condition.learns == "audio":
        return torch.cat([taught, pool[data.sounds["real"].row[pool] >= 0]]).sort().values, targets
    if not condition.teacher:
        return taught, targets
    found = predictions.read(condition.teacher)
    if found.actions != data.actions:
        raise UserError(
            f"{condition.teacher} answers other actions than this row: run `dvc repro classifier@{condition.teacher}`"
        )
    said = pd.Series(range(len(found.clips)), index=found.clips.clip_id).reindex(data.clips.clip_id)
    known = torch.tensor(said.notna().to_numpy())
    told = torch.zeros_like(targets)
    told[known] = torch.from_numpy(
        found.probabilities[seed % len(found.probabilities), said[said.notna()].to_numpy(int)]
    )
    if not known[pool].all():
        raise UserError(
            f"{condition.teacher} has not answered the unlabelled clips: it needs answers_pool: true"
        )
    if condition.teaching == "soft":
        both = taught[known[taught]]
        targets[both] = (1 - teaching["weight"]) * targets[both] + teaching["weight"] * told[both]
        targets[pool] = told[pool]
    else:
        pool = pool[told[pool].max(1).values >= teaching["confidence"]]
        targets[pool] = smoothed(told[pool].argmax(1), len(data.actions), smoothing)
    return torch.cat([taught, pool]).sort().values, targets
