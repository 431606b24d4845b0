"""Labels of audio features by way of the model's pooled output: a ridge map, then its own head."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from audio_from_video.backbones.audio import load_audio
from audio_from_video.learning.features import Features
from audio_from_video.learning.ridge import ridge_weights
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage.row_file import RowFile

BATCH = 256  # clips at a time, so that memory does not grow with their number


def summarise(audio: torch.Tensor) -> torch.Tensor:
    """Return mean and standard deviation over time, and 1, [n, 2A + 1] of audio [n, T, A]."""
    ones = torch.ones(len(audio), 1)
    return torch.cat([audio.mean(1), audio.std(1), ones], dim=1)


class PooledMap(NamedTuple):
    """A ridge map from summarised features to pooled outputs.

    weights [2A + 1, P].  penalty: the chosen one.  held_out_errors: of each penalty the mean
    squared error of clips of held-out sources; empty where none could be held out.
    """

    weights: torch.Tensor
    penalty: float
    held_out_errors: dict[float, float]


def fit_map(
    data: Features,
    pooled: dict[int, np.ndarray],
    learned: torch.Tensor,
    fold: np.ndarray,
    penalties: list[float],
) -> PooledMap:
    """Return a map fitted on all clips, with the penalty that serves held-out folds best.

    pooled: by clip index, [P].  learned: indices of the clips to learn from [n].  fold [n]: of
    each, by source.  With one fold the largest penalty is taken, and so it is of equal ones.
    """

    def pairs(clip_indices: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs [m, 2A + 1] and outputs [m, P] float64, batch by batch."""
        for part in clip_indices.split(BATCH):
            audio, _ = data.sound(part)
            outputs = np.stack([pooled[clip_index] for clip_index in part.tolist()])
            yield summarise(audio).double(), torch.from_numpy(outputs).double()

    # The normal equations are summed over batches, in double precision.
    clips_of = {int(each): learned[torch.from_numpy(fold == each)] for each in np.unique(fold)}
    equations = {}
    for number, clip_indices in clips_of.items():
        products = 0
        targets = 0
        for x, y in pairs(clip_indices):
            products = products + x.T @ x
            targets = targets + x.T @ y
        equations[number] = (products, targets)

    def weights_without(left_out: int | None, penalty: float) -> torch.Tensor:
        used = [sums for number, sums in equations.items() if number != left_out]
        products = sum(products for products, _ in used)
        targets = sum(targets for _, targets in used)
        return ridge_weights(products, targets, penalty)

    candidates = sorted(penalties, reverse=True)
    errors: dict[float, float] = {}
    if len(clips_of) > 1:
        errors = dict.fromkeys(candidates, 0.0)
        for number, clip_indices in clips_of.items():
            maps = {penalty: weights_without(number, penalty) for penalty in candidates}
            for x, y in pairs(clip_indices):
                for penalty, weights in maps.items():
                    error = ((x @ weights - y) ** 2).sum().item()
                    errors[penalty] += error / (len(learned) * y.shape[1])
    best = min(candidates, key=lambda penalty: errors.get(penalty, 0.0))
    return PooledMap(weights_without(None, best).float().contiguous(), best, errors)


class PooledHead:
    """The head `features`: fitted ridge weights, then what the audio model makes labels of."""

    def __init__(self, weights: torch.Tensor, model: str):
        self.weights = weights
        self.backbone = load_audio(model)

    def scores(self, audio: torch.Tensor) -> np.ndarray:
        """Return label scores [n, L] float32 of audio features [n, T, A]."""
        with torch.inference_mode():
            pooled = summarise(audio) @ self.weights
        return self.backbone.scores(pooled.numpy())

    def predict(
        self, data: Features, clip_indices: torch.Tensor, generated: dict[str, RowFile]
    ) -> dict[str, np.ndarray]:
        """Return label scores [n, L] by way: "<condition>_features" and "real_path_features".

        generated: by architecture, rows [seeds, T, A] in the order of `clip_indices`; their scores
        are averaged over seeds.  Clips without sound have zeros in "real_path_features".
        """
        predictions = {
            f"{ARCHITECTURES[name].generated}_features": self._mean_over_seeds(file)
            for name, file in generated.items()
        }
        real = [self.scores(data.sound(part)[0]) for part in clip_indices.split(BATCH)]
        audible = (data.audio_row[clip_indices] >= 0).numpy()
        predictions["real_path_features"] = np.concatenate(real) * audible[:, None]
        return predictions

    def _mean_over_seeds(self, file: RowFile) -> np.ndarray:
        """Return label scores [n, L] of a file's rows [seeds, T, A]."""
        means = []
        for part in torch.arange(len(file)).split(BATCH):
            audio = file.read(part.tolist())  # [n, seeds, T, A]
            scores = self.scores(audio.flatten(0, 1))
            means.append(scores.reshape(*audio.shape[:2], -1).mean(1))
        return np.concatenate(means)
