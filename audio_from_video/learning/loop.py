"""The one training loop: AdamW, weight averaging, early stopping, and going on after a kill."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch

from audio_from_video.learning.checkpoints import Checkpoint
from audio_from_video.learning.optimizer import AdamW
from audio_from_video.learning.settings import TrainingParams
from audio_from_video.runtime.errors import UserError

MAX_GRADIENT_NORM = 1.0
AVERAGED_SHARE = 1 / 6  # of the steps that a training may take: the average's span at most
WARM_UP_SHARE = 0.1  # of these steps, in which a cosine schedule rises


def fit(
    model: torch.nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    indices: torch.Tensor,
    validate: Callable[[], float],
    p: TrainingParams,
    seed: int,
    name: str,
    slower: dict[str, float] | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[dict]:
    """Train a model in place; it ends with the weights of its best epoch, in evaluation mode.

    AdamW (Loshchilov & Hutter 2019) with early stopping.  With `averaging` the weights that are
    validated and kept are exponential moving averages over the steps (Polyak & Juditsky 1992): with
    few clips single weights are noisy, and so is a validation loss that decides when to stop.  The
    average's span fits the number of steps (see `average_decay`): else a short training would be
    validated with weights near the initial ones.  With `schedule: cosine` the learning rate
    falls to 0 over all epochs, in place of a long wait for a lower validation loss.

    loss: indices of a batch [n] -> scalar.  indices: what batches are drawn from, shuffled each
    epoch by `seed`.  validate: returns the loss that decides; training ends after `patience` epochs
    and `patience_steps` steps without a lower one.  name: of the training, for messages.
    slower: learning rates of the parameters whose names begin with a prefix.  checkpoint: from
    there a killed training goes on, with the same final weights.

    Returns a dict per epoch: epoch, training_loss, validation_loss.  Raises UserError where a loss
    is not finite.
    """
    slower = slower or {}
    # With few clips an epoch is a few steps: what counts in epochs counts in steps, too.
    steps_per_epoch = math.ceil(len(indices) / p.batch_size)
    epochs = max(p.epochs, math.ceil(p.min_steps / steps_per_epoch))
    patience = max(p.patience, math.ceil(p.patience_steps / steps_per_epoch))
    steps = epochs * steps_per_epoch
    decay = average_decay(p.averaging, steps)
    training = _Training(model, p, slower, decay, steps, seed, name, checkpoint)
    if checkpoint:
        checkpoint.begin(model, name, p.model_dump(), seed, slower, indices.tolist())
        training.resume()

    first_epoch = len(training.curve) + 1
    for epoch in range(first_epoch, epochs + 1):
        training_loss = training.run_epoch(epoch, loss, indices)

        # The averaged weights are validated; the next epoch goes on with the live ones.
        live = copy.deepcopy(model.state_dict())
        model.load_state_dict(training.averaged.module.state_dict())
        model.eval()
        with torch.inference_mode():
            validation_loss = validate()
        training.require_finite(validation_loss, f"the validation loss of {name}", epoch)
        training.curve.append(
            {
                "epoch": epoch,
                "training_loss": training_loss,
                "validation_loss": float(validation_loss),
            }
        )
        if validation_loss < training.best_loss:
            training.best_loss = float(validation_loss)
            training.best_epoch = epoch
            training.best_weights = copy.deepcopy(model.state_dict())
        elif epoch - training.best_epoch >= patience:
            break
        model.load_state_dict(live)
        training.store()

    model.load_state_dict(training.best_weights)
    model.eval()
    if checkpoint:
        checkpoint.remove()
    return training.curve


class _Training:
    """All that changes during a training, to and from a checkpoint.

    steps: how many the training may take; taken: how many it has.
    curve: a dict per epoch, as `fit` returns it.  best_loss, best_epoch, best_weights: by the
    validation loss; epoch 0 is the untrained model.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        p: TrainingParams,
        slower: dict[str, float],
        decay: float,
        steps: int,
        seed: int,
        name: str,
        checkpoint: Checkpoint | None,
    ):
        self.model = model
        self.p = p
        self.name = name
        self.checkpoint = checkpoint
        self.optimizer = AdamW(parameter_groups(model, p, slower))
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
        self.averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
        self.shuffle = torch.Generator().manual_seed(seed)
        self.steps = steps
        self.taken = 0
        self.curve: list[dict] = []
        self.best_loss = np.inf
        self.best_epoch = 0
        self.best_weights = copy.deepcopy(model.state_dict())

    def run_epoch(
        self, epoch: int, loss: Callable[[torch.Tensor], torch.Tensor], indices: torch.Tensor
    ) -> float:
        """Take an optimiser's step per batch; return the mean loss over the batches."""
        self.model.train()
        losses = []
        order = torch.randperm(len(indices), generator=self.shuffle)
        for batch in indices[order].split(self.p.batch_size):
            value = loss(batch)
            self.require_finite(value.item(), f"the loss of {self.name}", epoch)
            self.optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_GRADIENT_NORM)
            self.optimizer.step(rate_factor(self.p.schedule, self.taken, self.steps))
            self.taken += 1
            self.averaged.update_parameters(self.model)
            losses.append(value.item())
        return float(np.mean(losses))

    def require_finite(self, value: float, what: str, epoch: int) -> None:
        """Raise UserError where a loss is not finite; the best weights so far are kept."""
        if np.isfinite(value):
            return
        cause = (
            f"the learning rate {self.p.learning_rate:g} is likely too high, "
            "or a feature is not finite"
        )
        kept = "the outputs of the last good run are kept"
        if self.checkpoint and self.best_epoch:
            path = self.checkpoint.keep_best(self.best_weights)
            kept += f", and the weights of epoch {self.best_epoch} in {path}"
        raise UserError(f"{what} became {value} in epoch {epoch}: {cause}; {kept}")

    def store(self) -> None:
        """Write the checkpoint where one is due."""
        if self.checkpoint is None or not self.checkpoint.due():
            return
        parts = {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "best": self.best_weights,
        }
        for number, moments in self.optimizer.moments.items():
            parts[f"optimizer/{number}"] = moments

        tensors = {"shuffle": self.shuffle.get_state()}
        for part, values in parts.items():
            for name, value in values.items():
                tensors[f"{part}/{name}"] = value
        facts = {
            "curve": self.curve,
            "best": self.best_loss,
            "best_epoch": self.best_epoch,
            "taken": self.taken,
        }
        self.checkpoint.save(tensors, facts)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        stored = self.checkpoint.load() if self.checkpoint else None
        if stored is None:
            return
        tensors, facts = stored
        self.shuffle.set_state(tensors.pop("shuffle"))
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            part, name = key.rsplit("/", 1)
            parts.setdefault(part, {})[name] = value

        self.model.load_state_dict(parts["model"])
        self.averaged.load_state_dict(parts["averaged"])
        self.best_weights = parts["best"]
        for part, values in parts.items():
            if part.startswith("optimizer/"):
                self.optimizer.moments[int(part.split("/")[1])] = values
        self.curve = facts["curve"]
        self.best_loss = facts["best"]
        self.best_epoch = facts["best_epoch"]
        self.taken = facts["taken"]


def rate_factor(schedule: str, taken: int, steps: int) -> float:
    """Return what the learning rate of a step is multiplied by.

    taken: steps before it, of `steps` in all.  constant: 1.  cosine: it rises in proportion over
    the first WARM_UP_SHARE of the steps, and all along it falls as half a cosine wave from 1 to 0
    (Loshchilov & Hutter 2017).
    """
    if schedule == "constant":
        return 1.0
    rise = min(1.0, (taken + 1) / (WARM_UP_SHARE * steps))
    fall = (1 + math.cos(math.pi * taken / steps)) / 2
    return rise * fall


def average_decay(decay: float, steps: int) -> float:
    """Return the decay of the weights' moving average in a training of so many steps at most.

    It is `decay`, or less where its span, 1 / (1 - decay) steps, is above AVERAGED_SHARE of them.
    """
    longest = AVERAGED_SHARE * steps
    if longest <= 1:
        return 0.0
    return min(decay, 1 - 1 / longest)


def parameter_groups(
    model: torch.nn.Module, p: TrainingParams, slower: dict[str, float]
) -> list[dict]:
    """Return the optimiser's groups of parameters.

    Parameters whose names begin with a prefix of `slower` have its learning rate and no weight
    decay; all others are one group with the training's settings.
    """
    groups: dict[str | None, list] = {}
    for name, parameter in model.named_parameters():
        prefix = next((prefix for prefix in slower if name.startswith(prefix)), None)
        groups.setdefault(prefix, []).append(parameter)

    settings = []
    for prefix, parameters in groups.items():
        learning_rate = p.learning_rate
        weight_decay = p.weight_decay
        if prefix is not None:
            learning_rate = slower[prefix]
            weight_decay = 0.0
        settings.append(
            {
                "params": parameters,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
            }
        )
    return settings
