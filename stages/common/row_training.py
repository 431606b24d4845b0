"""One training of a row of the main table: what it learns, what it is asked, and what its network hears."""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field

from stages.common import params
from stages.common.action_data import ActionData, Condition
from stages.common.checkpoints import Checkpoint
from stages.common.item_store import digest
from stages.common.networks.classifier import ActionClassifier
from stages.common.predictions import Predictions
from stages.common.training import TrainingParams


class NetworkParams(TrainingParams):
    hidden: int = Field(ge=1, le=4096)
    projection: int = Field(ge=0, le=4096)
    dropout: float = Field(ge=0, lt=1)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class LogisticParams(params.Section):
    inverse_regularisation: list[float] = Field(min_length=1)


class ClassifierParams(params.Section):
    seeds: int = Field(ge=1, le=100)
    labels_per_action: int = Field(ge=0)
    missing_rates: list[float] = Field(min_length=1)
    lstm: NetworkParams
    logistic: LogisticParams
    extra_weight: float = Field(ge=0)
    teaching: dict[str, float]
    conditions: dict[str, Condition]


@dataclass
class Training:
    """One training: rows [n] learned with their targets [N, actions], rows asked afterwards; a worker runs it."""

    data: ActionData
    condition: Condition
    p: ClassifierParams
    seed: int
    learned: torch.Tensor
    targets: torch.Tensor
    asked: torch.Tensor
    name: str
    rates: list[float]  # missing rates at which test clips are asked again
    key: str = ""  # digest of the data, with which a killed training goes on where it was; "": it begins anew

    def checkpoint(self, drawn: torch.Generator) -> Checkpoint | None:
        """Where it stores its state; drawn: what its losses draw from."""
        if not self.key:
            return None
        targets = hashlib.blake2b(self.targets.numpy().tobytes(), digest_size=16).hexdigest()
        others = self.p.model_dump(include={"missing_rates", "extra_weight"})
        return Checkpoint(digest(self.key, targets, self.condition.model_dump(), others), (drawn,))

    def draw_missing(self, count: int, drawn: torch.Generator) -> torch.Tensor:
        """Which clips of a training batch lack their audio [count]: a share of them, or one of the missing rates, drawn per batch."""
        rates, rate = self.p.missing_rates, self.condition.missing_rate
        share = (
            rates[int(torch.randint(len(rates), (1,), generator=drawn))]
            if rate == "drawn"
            else float(rate)
        )
        return torch.rand(count, generator=drawn) < share


def hear(
    task: Training,
    model: ActionClassifier | None,
    rows: torch.Tensor,
    kind: str,
    missing: torch.Tensor,
    drawn: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the network is given of the sound of `rows`: a kind of audio, or where `missing` [n] what the condition has in its
    place; audio [n, T, A], whether the network is to hear it [n], and whether it is the clip's own real sound [n]."""
    audio, heard = task.data.sounds[kind].read(rows, task.seed)
    known, gone = heard & (kind == "real"), torch.nonzero(missing)[:, 0]
    filler = task.condition.test_audio
    if not len(gone) or filler in ("real", "token", "reconstructed"):
        return audio, heard & ~missing, known
    if filler == "zeros":
        audio[gone], heard[gone] = 0.0, True
    elif filler in ("mean", "noise") and model is not None:
        shape = audio.shape[1:]
        audio[gone] = model.audio_mean.cpu().expand(len(gone), *shape).clone()
        if filler == "noise":
            noise = (
                task.data.noise(rows[gone], shape, task.seed)
                if drawn is None
                else torch.randn(len(gone), *shape, generator=drawn)
            )
            audio[gone] += model.audio_std.cpu() * noise
        heard[gone] = True
    else:
        audio[gone], heard[gone] = task.data.sounds[filler].read(rows[gone], task.seed)
    return audio, heard, known


def answered(data: ActionData, asked: torch.Tensor, probabilities: np.ndarray) -> Predictions:
    """Probabilities [seeds, all clips, actions] as the predictions for the clips that were asked."""
    rows = asked.sort().values.numpy()
    return Predictions(
        data.clips.iloc[rows].reset_index(drop=True), data.actions, probabilities[:, rows]
    )
