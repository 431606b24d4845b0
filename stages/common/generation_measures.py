"""How good are generated audio features?  Against the clips' real ones, beside baselines and controls.

A generator may just say the class mean: beside the cosine stand its variance, how much more it resembles its own clip
than others of the same action, and the correlation over time.  All measures are means over clips (at most MEASURED per
split, drawn by hash), averaged over seeds; arrays are [N, T, A].
"""

from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from stages.common import predictions, retrieval, statistics
from stages.common.features import Features
from stages.common.item_store import digest

MEASURED = 4000
WHOLE = -1  # instead of a fold: no clip is left out
RIDGE = (1.0, 10.0, 100.0, 1000.0, 10_000.0)  # candidates for the penalty, chosen on validation


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity over the last dimension, averaged over the time steps: [N, T, A] -> [N]."""
    norm = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return ((first * second).sum(-1) / np.maximum(norm, 1e-9)).mean(-1)


def against_real(
    made: np.ndarray, real: np.ndarray, actions: np.ndarray, offset: np.ndarray
) -> dict[str, Any]:
    """Measures of made against real features [N, T, A], centred by the training clips' mean.

    offset [A]: what centring took away; `cosine` is that of the features with it.  relative_mse: 1 is what the mean scores.
    """
    flat_made, flat_real = made.reshape(len(made), -1), real.reshape(len(real), -1)
    return {
        "centred_cosine": cosine(made, real),
        "cosine": cosine(made + offset, real + offset),
        "relative_mse": float(((made - real) ** 2).mean() / (real**2).mean()),
        "variance_ratio": float(flat_made.var(0).sum() / flat_real.var(0).sum()),
        "own_minus_same_action": own_minus_others(flat_made, flat_real, actions),
        "time_correlation": time_correlation(made, real),
    }


def own_minus_others(made: np.ndarray, real: np.ndarray, actions: np.ndarray) -> float:
    """Mean cosine [N, T*A] to the own clip minus that to other clips of the same action (0: no more than the class)."""
    made = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-9)
    real = real / np.maximum(np.linalg.norm(real, axis=1, keepdims=True), 1e-9)
    gaps = []
    for action in np.unique(actions):
        block = made[actions == action] @ real[actions == action].T
        if len(block) > 1:
            others = (block.sum(1) - block.diagonal()) / (len(block) - 1)
            gaps.append(block.diagonal() - others)
    return float(np.concatenate(gaps).mean()) if gaps else 0.0


def time_correlation(made: np.ndarray, real: np.ndarray) -> float:
    """Correlation of what varies over time within a clip: both with the clip's own mean over time removed."""
    made, real = made - made.mean(1, keepdims=True), real - real.mean(1, keepdims=True)
    return float((made * real).sum() / max(np.sqrt((made**2).sum() * (real**2).sum()), 1e-9))


def measure(data: Features, fold: np.ndarray, generated, extra: dict[str, list], pool: str) -> dict:
    """The metrics of a generator; see generator.py for what the arguments hold."""
    projection = load_file("models/audio_projection.safetensors")
    offset = projection["mean"] @ projection["components"].T
    predicted = predicted_actions(data)
    baselines = Baselines(data, fold, predicted, pool)
    result: dict = {}
    for name, split in (
        ("test", "test"),
        ("validation", "validation"),
        ("out_of_fold", "training"),
    ):
        rows = measured(data, split)
        real, actions = data.sound(rows)[0].numpy(), data.clips.action.to_numpy()[rows]
        sources = data.clips.source_id.to_numpy()[rows]
        answers = np.stack([generated(row) for row in rows.tolist()], axis=1)  # [seeds, N, T, A]
        made = {"generated": answers} | {
            key: value[None]
            for key, value in baselines.answers(rows, name == "out_of_fold").items()
        }
        if name == "test":
            made |= {key: picked(extra[key], rows)[None] for key in ("untrained", "time_shuffled")}
        result[name] = {
            key: summary(value, real, actions, sources, offset) for key, value in made.items()
        }
        result[name]["generated"]["spread_over_seeds"] = (
            float(answers.std(0).mean() / real.std()) if len(answers) > 1 else 0.0
        )
    rows = measured(data, "training")
    own = picked(extra["own_training_clips"], rows)
    result["own_training_clips"] = {
        "generated": summary(
            own[None],
            data.sound(rows)[0].numpy(),
            data.clips.action.to_numpy()[rows],
            data.clips.source_id.to_numpy()[rows],
            offset,
        )
    }
    return result | {"ridge_penalty": baselines.penalty}


def summary(
    made: np.ndarray, real: np.ndarray, actions: np.ndarray, sources: np.ndarray, offset: np.ndarray
) -> dict:
    """Measures averaged over seeds [S, N, T, A]; the centred cosine with its interval over sources."""
    per_seed = [against_real(answer, real, actions, offset) for answer in made]
    means = {
        key: float(np.mean([np.mean(seed[key]) for seed in per_seed]))
        for key in per_seed[0]
        if key != "centred_cosine"
    }
    return {
        "centred_cosine": statistics.interval(
            np.mean([seed["centred_cosine"] for seed in per_seed], axis=0), sources
        )
    } | means


def measured(data: Features, split: str) -> torch.Tensor:
    """Audible clips of a split, at most MEASURED, drawn by hash."""
    rows = data.rows(split)
    rows = rows[data.audio_row[rows] >= 0].tolist()
    if len(rows) > MEASURED:
        rows = sorted(
            sorted(rows, key=lambda row: digest("measured", data.clips.clip_id[row]))[:MEASURED]
        )
    return torch.tensor(rows, dtype=torch.long)


def picked(places: list[tuple], rows: torch.Tensor) -> np.ndarray:
    """Answers [N, T, A] of `rows` from (row, file, position) triples; the first seed that answered a row counts."""
    where = {row: (file, position) for row, file, position in reversed(places)}
    return np.stack([where[row][0].read([where[row][1]])[0].numpy() for row in rows.tolist()])


def predicted_actions(data: Features) -> np.ndarray:
    """The action that `video_only` predicts for each labelled clip (seeds averaged, out of fold on training clips), else None."""
    consensus = predictions.read("video_only").consensus()
    return np.array([consensus.get(clip_id) for clip_id in data.clips.clip_id], dtype=object)


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
        alike = retrieval.nearest(self.data, learned, rows, self.video_mean, self.video_std)
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
        weights = torch.linalg.solve(
            products + penalty * torch.eye(len(products), dtype=torch.float64), targets
        ).float()
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
