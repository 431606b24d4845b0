"""Baselines that generated features have to beat."""

import numpy as np
import torch

from audio_from_video.clipset.folds import WHOLE
from audio_from_video.learning import features
from audio_from_video.learning.features import Features
from audio_from_video.learning.ridge import ridge_weights
from audio_from_video.runtime.digests import digest

MEASURED = 4000
RIDGE = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # candidates for the penalty, chosen on validation


def measured(data: Features, split: str) -> torch.Tensor:
    """Audible clips of a split, at most MEASURED, drawn by hash."""
    rows = data.rows(split)
    rows = rows[data.audio_row[rows] >= 0].tolist()
    if len(rows) > MEASURED:
        rows = sorted(
            sorted(rows, key=lambda row: digest("measured", data.clips.clip_id[row]))[:MEASURED]
        )
    return torch.tensor(rows, dtype=torch.long)


class Baselines:
    """What needs no generator: means, ridge regression, nearest-neighbour retrieval; out of fold for training clips."""

    def __init__(self, data: Features, fold: np.ndarray, predicted: np.ndarray, pool: str):
        self.data, self.fold, self.predicted = data, fold, predicted
        learned = data.rows("training", "unlabelled") if pool == "all" else data.rows("training")
        self.learned = learned[data.audio_row[learned] >= 0]
        self.video_mean, self.video_std = data.video.moments(self.learned.tolist())
        parts = torch.from_numpy(fold)[self.learned]
        self.equations = {
            int(number): self._moments(self.learned[parts == number]) for number in parts.unique()
        }
        self.penalty = self._choose_penalty()

    def answers(self, rows: torch.Tensor, out_of_fold: bool) -> dict[str, np.ndarray]:
        """Baseline name -> features [N, T, A] for `rows`."""
        if not out_of_fold:
            return self._from(WHOLE, rows)
        parts = torch.from_numpy(self.fold)
        made: dict[str, np.ndarray] = {}
        for number in np.unique(self.fold[rows]):
            inside = (parts[rows] == number).numpy()
            for key, value in self._from(int(number), rows[inside]).items():
                made.setdefault(key, np.zeros((len(rows), *value.shape[1:]), np.float32))[
                    inside
                ] = value
        return made

    def _from(self, left_out: int, rows: torch.Tensor) -> dict[str, np.ndarray]:
        """The baselines, fitted without the fold `left_out`."""
        learned = self.learned[torch.from_numpy(self.fold)[self.learned] != left_out]
        labelled = learned[self.data.clips.split.to_numpy()[learned] == "training"]
        actions = self.data.clips.action.to_numpy()
        mean = self._mean(learned)
        means = {
            action: self._mean(labelled[actions[labelled] == action])
            for action in set(actions[labelled])
        }
        alike = features.nearest(self.data, learned, rows, self.video_mean, self.video_std)
        return {
            "training_mean": np.repeat(mean[None], len(rows), 0),
            "predicted_action_mean": np.stack(
                [means.get(action, mean) for action in self.predicted[rows]]
            ),
            "true_action_mean": np.stack([means.get(action, mean) for action in actions[rows]]),
            "ridge": self._ridge(left_out, rows, self.penalty),
            "nearest_neighbour": self.data.sound(alike)[0].numpy(),
        }

    def _mean(self, rows: torch.Tensor) -> np.ndarray:
        """Mean audio features [T, A] over clips."""
        return sum(self.data.sound(part)[0].sum(0) for part in rows.split(256)).numpy() / len(rows)

    def _inputs(self, rows: torch.Tensor) -> torch.Tensor:
        """Ridge's input per time step: its video features, the clip's mean, and 1: [n, T, 2V + 1]."""
        video = (self.data.video.read(rows.tolist()) - self.video_mean) / self.video_std
        return torch.cat(
            [video, video.mean(1, keepdim=True).expand_as(video), torch.ones(*video.shape[:2], 1)],
            dim=-1,
        )

    def _ridge(self, left_out: int, rows: torch.Tensor, penalty: float) -> np.ndarray:
        """Ridge regression per time step, from normal equations summed once per fold (memory does not grow with clips)."""
        kept = [equations for number, equations in self.equations.items() if number != left_out]
        products, targets = (
            sum(products for products, _ in kept),
            sum(targets for _, targets in kept),
        )
        weights = ridge_weights(products, targets, penalty).float()
        return torch.cat([self._inputs(part) @ weights for part in rows.split(256)]).numpy()

    def _moments(self, learned: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        products = targets = 0
        for part in learned.split(256):
            x = self._inputs(part).flatten(0, 1).double()
            y = self.data.sound(part)[0].flatten(0, 1).double()
            products, targets = products + x.T @ x, targets + x.T @ y
        return products, targets

    def _choose_penalty(self) -> float:
        rows = measured(self.data, "validation")
        real = self.data.sound(rows)[0].numpy()
        return min(
            RIDGE,
            key=lambda penalty: float(((self._ridge(WHOLE, rows, penalty) - real) ** 2).mean()),
        )
