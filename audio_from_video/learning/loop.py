"""What training stages share: features on disk with random access, and one training loop with early stopping."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from pydantic import Field

from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError


class TrainingParams(params.Section):
    learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=10)
    batch_size: int = Field(ge=1, le=65536)
    epochs: int = Field(ge=1, le=10_000)
    patience: int = Field(ge=1)
    averaging: float = Field(default=0.0, ge=0, lt=1)


def fit(
    model: torch.nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    validate: Callable[[], float],
    p: TrainingParams,
    seed: int,
    name: str,
    slower: dict[str, float] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[dict]:
    """Train with AdamW (Loshchilov & Hutter 2019) and early stopping; the model ends with its best epoch's weights.

    With `averaging` these are exponential moving averages over the steps (Polyak & Juditsky 1992): with few clips single
    weights are noisy, and so is a validation loss that decides when to stop.
    loss: indices of a batch -> scalar.  rows: what indices are drawn from, shuffled each epoch.  validate: the loss that
    decides (lower is better); training ends after `patience` epochs without a better one.  slower: learning rates of the
    parameters whose names begin with a prefix.  checkpoint: where a killed training goes on, with the same final weights.
    Returns a dict per epoch: epoch, training_loss, validation_loss.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(model, p, slower or {}), lr=p.learning_rate, weight_decay=p.weight_decay
    )
    averaged = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(p.averaging)
    )
    state = _State(model, averaged, optimizer, torch.Generator().manual_seed(seed), checkpoint)
    if checkpoint:
        checkpoint.begin(model, name, p.model_dump(), seed, slower or {}, rows.tolist())
        state.resume()
    curve = state.curve
    for epoch in range(len(curve) + 1, p.epochs + 1):
        model.train()
        losses = []
        for batch in rows[torch.randperm(len(rows), generator=state.shuffle)].split(p.batch_size):
            value = loss(batch)
            _require_finite(value.item(), f"the loss of {name}", epoch, p, state)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            averaged.update_parameters(model)
            losses.append(value.item())
        live = copy.deepcopy(model.state_dict())
        model.load_state_dict(averaged.module.state_dict())
        model.eval()
        with torch.inference_mode():
            score = validate()
        _require_finite(score, f"the validation loss of {name}", epoch, p, state)
        curve.append(
            {
                "epoch": epoch,
                "training_loss": float(np.mean(losses)),
                "validation_loss": float(score),
            }
        )
        if score < state.best:
            state.best, state.best_epoch, state.best_weights = (
                float(score),
                epoch,
                copy.deepcopy(model.state_dict()),
            )
        elif epoch - state.best_epoch >= p.patience:
            break
        model.load_state_dict(live)
        state.store()
    model.load_state_dict(state.best_weights)
    model.eval()
    if checkpoint:
        checkpoint.remove()
    return curve


class _State:
    """What a training consists of between two epochs, to and from a checkpoint."""

    def __init__(
        self,
        model: torch.nn.Module,
        averaged: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        shuffle: torch.Generator,
        checkpoint: Checkpoint | None,
    ):
        self.model, self.averaged, self.optimizer, self.shuffle, self.checkpoint = (
            model,
            averaged,
            optimizer,
            shuffle,
            checkpoint,
        )
        self.curve: list[dict] = []
        self.best, self.best_epoch, self.best_weights = np.inf, 0, copy.deepcopy(model.state_dict())

    def store(self) -> None:
        """Write the checkpoint where one is due."""
        if self.checkpoint is None or not self.checkpoint.due():
            return
        parts = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.best_weights,
        }
        for number, values in self.optimizer.state_dict()["state"].items():
            parts[f"optimizer/{number}"] = values
        tensors = {
            f"{part}/{name}": value
            for part, values in parts.items()
            for name, value in values.items()
        }
        facts = {"curve": self.curve, "best": self.best, "best_epoch": self.best_epoch}
        self.checkpoint.save(tensors | {"shuffle": self.shuffle.get_state()}, facts)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self.checkpoint is None or (found := self.checkpoint.load()) is None:
            return
        tensors, facts = found
        self.shuffle.set_state(tensors.pop("shuffle"))
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, name = key.rsplit("/", 1)
            parts.setdefault(part, {})[name] = value
        self.model.load_state_dict(parts["model"])
        self.averaged.load_state_dict(parts["averaged"])
        self.best_weights = parts["best"]
        moments = {
            int(part.split("/")[1]): values
            for part, values in parts.items()
            if part.startswith("optimizer/")
        }
        self.optimizer.load_state_dict(
            {"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        self.curve, self.best, self.best_epoch = facts["curve"], facts["best"], facts["best_epoch"]


def parameter_groups(
    model: torch.nn.Module, p: TrainingParams, slower: dict[str, float]
) -> list[dict]:
    """The optimiser's groups: parameters that begin with a prefix of `slower`, without weight decay, and all others."""
    groups: dict[str | None, list] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault(
            next((prefix for prefix in slower if name.startswith(prefix)), None), []
        ).append(parameter)
    return [
        {"params": group} | ({} if prefix is None else {"lr": slower[prefix], "weight_decay": 0.0})
        for prefix, group in groups.items()
    ]


def _require_finite(value: float, what: str, epoch: int, p: TrainingParams, state: _State) -> None:
    if np.isfinite(value):
        return
    kept = "the outputs of the last good run are kept"
    if state.checkpoint and state.best_epoch:
        kept += f", and the weights of epoch {state.best_epoch} in {state.checkpoint.keep_best(state.best_weights)}"
    cause = f"the learning rate {p.learning_rate:g} is likely too high, or a feature is not finite"
    raise UserError(f"{what} became {value} in epoch {epoch}: {cause}; {kept}")
