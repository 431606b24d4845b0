"""Baselines that generated features have to beat."""

import numpy as np
import torch

from audio_from_video.clipset.folds import WHOLE
from audio_from_video.learning import features
from audio_from_video.learning.features import CLIPS_PER_READ, Features
from audio_from_video.learning.ridge import ridge_weights
from audio_from_video.runtime.digests import digest

MEASURED_CLIPS = 4000  # at most of a split, drawn by hash
PENALTIES = (1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)  # candidates of the ridge regression


def measured_clips(data: Features, split: str) -> torch.Tensor:
    """Return the indices of a split's audible clips [n], ascending.

    There are at most MEASURED_CLIPS, drawn by hash.
    """
    clip_indices = data.clip_indices(split)
    audible = clip_indices[data.audio_row[clip_indices] >= 0].tolist()
    if len(audible) > MEASURED_CLIPS:
        by_hash = sorted(audible, key=lambda i: digest("measured", data.clips.clip_id[i]))
        audible = sorted(by_hash[:MEASURED_CLIPS])
    return torch.tensor(audible, dtype=torch.long)


class Baselines:
    """Audio features without a generator, for training clips out of fold.

    They are means, ridge regression and nearest-neighbour retrieval.
    """

    def __init__(self, data: Features, fold: np.ndarray, predicted: np.ndarray, pool: str):
        """Read what all baselines need.

        fold [N]: of each clip.  predicted [N]: the action that `video_only` predicts.
        pool: "all" if unlabelled clips are learned from, too.
        """
        self.data = data
        self.fold = fold
        self.predicted = predicted
        splits = ("training", "unlabelled") if pool == "all" else ("training",)
        clip_indices = data.clip_indices(*splits)
        self.learned = clip_indices[data.audio_row[clip_indices] >= 0]
        self.video_mean, self.video_std = data.video.moments(self.learned.tolist())

        # Normal equations of the ridge regression by fold.
        folds = torch.from_numpy(fold)[self.learned]
        self.equations = {}
        for number in folds.unique():
            self.equations[int(number)] = self.normal_equations(self.learned[folds == number])
        self.penalty = self.best_penalty()

    def answers(self, clip_indices: torch.Tensor, out_of_fold: bool) -> dict[str, np.ndarray]:
        """Return features [n, T, A] of clips by the name of the baseline.

        out_of_fold: whether each clip's own fold is left out.
        """
        if not out_of_fold:
            return self.answers_without(WHOLE, clip_indices)
        folds = self.fold[clip_indices]
        answers: dict[str, np.ndarray] = {}
        for number in np.unique(folds):
            inside = folds == number
            of_fold = self.answers_without(int(number), clip_indices[torch.from_numpy(inside)])
            for name, values in of_fold.items():
                if name not in answers:
                    answers[name] = np.zeros((len(clip_indices), *values.shape[1:]), np.float32)
                answers[name][inside] = values
        return answers

    def answers_without(self, fold: int, clip_indices: torch.Tensor) -> dict[str, np.ndarray]:
        """Return the baselines' features [n, T, A], fitted without a fold (WHOLE: with all)."""
        learned = self.learned[torch.from_numpy(self.fold)[self.learned] != fold]
        actions = self.data.clips.action.to_numpy()
        labelled = learned[self.data.clips.split.to_numpy()[learned] == "training"]
        mean = self.mean(learned)
        action_means = {}
        for action in set(actions[labelled]):
            action_means[action] = self.mean(labelled[actions[labelled] == action])
        predicted = [action_means.get(action, mean) for action in self.predicted[clip_indices]]
        true = [action_means.get(action, mean) for action in actions[clip_indices]]
        neighbours = features.nearest(
            self.data, learned, clip_indices, self.video_mean, self.video_std
        )
        return {
            "training_mean": np.repeat(mean[None], len(clip_indices), 0),
            "predicted_action_mean": np.stack(predicted),
            "true_action_mean": np.stack(true),
            "ridge": self.ridge(fold, clip_indices, self.penalty),
            "nearest_neighbour": self.data.sound(neighbours)[0].numpy(),
        }

    def mean(self, clip_indices: torch.Tensor) -> np.ndarray:
        """Return the mean audio features [T, A] over clips."""
        parts = clip_indices.split(CLIPS_PER_READ)
        total = sum(self.data.sound(part)[0].sum(0) for part in parts)
        return total.numpy() / len(clip_indices)  # type: ignore[union-attr]

    # ---- ridge regression ----

    def ridge(self, fold: int, clip_indices: torch.Tensor, penalty: float) -> np.ndarray:
        """Return the features [n, T, A] of ridge regression per time step, fitted without a fold.

        Its normal equations are summed once per fold, so that memory does not grow with clips.
        """
        used = [equations for number, equations in self.equations.items() if number != fold]
        products = sum(products for products, _ in used)
        targets = sum(targets for _, targets in used)
        weights = ridge_weights(products, targets, penalty).float()  # type: ignore[arg-type]
        parts = clip_indices.split(CLIPS_PER_READ)
        return torch.cat([self.ridge_inputs(part) @ weights for part in parts]).numpy()

    def ridge_inputs(self, clip_indices: torch.Tensor) -> torch.Tensor:
        """Return the input per time step [n, T, 2V + 1].

        It holds the step's video features, the clip's mean, and 1.
        """
        video = (self.data.video.read(clip_indices.tolist()) - self.video_mean) / self.video_std
        clip_mean = video.mean(1, keepdim=True).expand_as(video)
        return torch.cat([video, clip_mean, torch.ones(*video.shape[:2], 1)], dim=-1)

    def normal_equations(self, clip_indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return x^T x [D, D] and x^T y [D, A] in float64 over all time steps of clips."""
        products = 0
        targets = 0
        for part in clip_indices.split(CLIPS_PER_READ):
            x = self.ridge_inputs(part).flatten(0, 1).double()
            y = self.data.sound(part)[0].flatten(0, 1).double()
            products = products + x.T @ x
            targets = targets + x.T @ y
        return products, targets  # type: ignore[return-value]

    def best_penalty(self) -> float:
        """Return the penalty with the smallest error on training clips, out of fold."""
        clip_indices = measured_clips(self.data, "training")
        folds = self.fold[clip_indices]
        errors = dict.fromkeys(PENALTIES, 0.0)
        for number in np.unique(folds):
            inside = clip_indices[torch.from_numpy(folds == number)]
            real = self.data.sound(inside)[0].numpy()
            for penalty in PENALTIES:
                answers = self.ridge(int(number), inside, penalty)
                errors[penalty] += float(((answers - real) ** 2).sum())
        return min(PENALTIES, key=errors.__getitem__)
