"""How good are generated audio features?  Against the clips' real ones, beside baselines.

A generator may just say the class mean.  So beside the cosine stand its variance, how much more it
resembles its own clip than others of the same action, and the correlation over time.  All measures
are means over clips (`measured_clips`), averaged over seeds; arrays are [N, T, A].
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from scipy.stats import spearmanr

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.baselines import Baselines, measured_clips
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.learning.features import Features
from audio_from_video.meaning import similarity
from audio_from_video.storage import layout, predictions
from audio_from_video.storage.row_file import RowFile

# Answers of a training: (clip index, file of features, row in the file).
Place = tuple[int, RowFile, int]

# Names of what is measured, and their splits.  Training clips are answered out of fold.
MEASURED_SPLITS = {"test": "test", "validation": "validation", "out_of_fold": "training"}
TEST_CONTROLS = ("untrained", "time_shuffled")
FIRST_COMPONENTS = 16  # of the projection: those that vary most


# ---- measures ----


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the cosine over the last dimension, averaged over time: [N, T, A] -> [N]."""
    return similarity.paired_cosine(first, second).mean(-1)


def against_real(
    generated: np.ndarray, real: np.ndarray, actions: np.ndarray, offset: np.ndarray
) -> dict[str, Any]:
    """Return measures of generated against real features [N, T, A].

    Both are centred by the training clips' mean.  offset [A]: what centring took away; `cosine` is
    that of the features with it.  relative_mse: 1 is what the mean scores.  r2: the share of the
    variance that is explained, of all components and of the first ones.
    """
    first = slice(FIRST_COMPONENTS)
    flat_generated = generated.reshape(len(generated), -1)
    flat_real = real.reshape(len(real), -1)
    return {
        "centred_cosine": cosine(generated, real),
        "cosine": cosine(generated + offset, real + offset),
        "relative_mse": relative_mse(generated, real),
        "r2": 1 - relative_mse(generated, real),
        "r2_first_components": 1 - relative_mse(generated[..., first], real[..., first]),
        "variance_ratio": float(flat_generated.var(0).sum() / flat_real.var(0).sum()),
        "own_minus_same_action": own_minus_others(flat_generated, flat_real, actions),
        "time_correlation": time_correlation(generated, real),
    }


def relative_mse(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the squared error of centred features [N, T, A], in that of their mean."""
    return float(((generated - real) ** 2).mean() / (real**2).mean())


def calibration(generated: np.ndarray, deviation: np.ndarray, real: np.ndarray) -> dict[str, float]:
    """Return how well predicted deviations fit the errors; all arrays are [N, T, A].

    standardised_squared_error: the mean of (error / deviation)^2; 1 is right on average, more is
    too sure.  error_rank_correlation: Spearman's, over clips, of the root mean squares of deviation
    and error; 0 is what says nothing of where the generator errs.
    """
    error = generated - real
    expected = (deviation**2).mean((1, 2))
    correlation = spearmanr(expected, (error**2).mean((1, 2))).statistic
    return {
        "standardised_squared_error": float(((error / deviation) ** 2).mean()),
        "error_rank_correlation": float(np.nan_to_num(correlation)),
    }


def own_minus_others(generated: np.ndarray, real: np.ndarray, actions: np.ndarray) -> float:
    """Return the mean cosine to the own clip minus that to other clips of the same action.

    Features are [N, T * A].  0 is what says no more than the class.
    """
    generated = similarity.unit(generated)
    real = similarity.unit(real)
    gaps = []
    for action in np.unique(actions):
        cosines = generated[actions == action] @ real[actions == action].T
        if len(cosines) > 1:
            own = cosines.diagonal()
            others = (cosines.sum(1) - own) / (len(cosines) - 1)
            gaps.append(own - others)
    return float(np.concatenate(gaps).mean()) if gaps else 0.0


def time_correlation(generated: np.ndarray, real: np.ndarray) -> float:
    """Return the correlation of what varies over time within a clip, of features [N, T, A].

    Both have the clip's own mean over time removed.
    """
    generated = generated - generated.mean(1, keepdims=True)
    real = real - real.mean(1, keepdims=True)
    norm = np.sqrt((generated**2).sum() * (real**2).sum())
    return float((generated * real).sum() / max(norm, 1e-9))


# ---- a generator's metrics ----


def generator_figures(
    data: Features,
    fold: np.ndarray,
    generated_features: Callable[[int], np.ndarray],
    comparisons: dict[str, list[Place]],
    pool: str,
    predicted_deviations: Callable[[int], np.ndarray] | None = None,
) -> dict:
    """Return the metrics of a generator by split, beside baselines and controls.

    fold [N]: of each clip.  generated_features: of a clip index, [seeds, T, A].
    comparisons: places of the answers of controls and of the models fitted on all training clips.
    pool: see `Baselines`.
    predicted_deviations: of a clip index, [seeds, T, A], where the generator predicts them.
    """
    projection = load_file(layout.AUDIO_PROJECTION)
    offset = projection["mean"] @ projection["components"].T
    baselines = Baselines(data, fold, predicted_actions(data), pool)
    figures: dict = {}
    for name, split in MEASURED_SPLITS.items():
        clips = RealClips(data, split, offset)
        clip_indices = clips.clip_indices
        by_clip = [generated_features(i) for i in clip_indices.tolist()]
        generated = np.stack(by_clip, axis=1)  # [seeds, N, T, A]
        figures[name] = {"generated": clips.summary(generated)}
        for baseline, values in baselines.answers(clip_indices, name == "out_of_fold").items():
            figures[name][baseline] = clips.summary(values[None])
        if name == "test":
            for control in TEST_CONTROLS:
                values = answers_at(comparisons[control], clip_indices)
                figures[name][control] = clips.summary(values[None])
        spread = 0.0
        if len(generated) > 1:
            spread = float(generated.std(0).mean() / clips.real.std())
        figures[name]["generated"]["spread_over_seeds"] = spread
        if predicted_deviations:
            by_clip = [predicted_deviations(i) for i in clip_indices.tolist()]
            figures[name]["generated"] |= clips.calibration(generated, np.stack(by_clip, axis=1))

    # How well a model fits what it learned from; out of fold stands above.
    clips = RealClips(data, "training", offset)
    own = answers_at(comparisons["own_training_clips"], clips.clip_indices)
    figures["own_training_clips"] = {"generated": clips.summary(own[None])}
    return figures | {"ridge_penalty": baselines.penalty}


class RealClips:
    """The audible clips of a split that generated features are measured on."""

    def __init__(self, data: Features, split: str, offset: np.ndarray):
        """Read their real features [N, T, A]; offset [A]: see `against_real`."""
        self.clip_indices = measured_clips(data, split)
        self.real = data.sound(self.clip_indices)[0].numpy()
        self.actions = data.clips.action.to_numpy()[self.clip_indices]
        self.sources = data.clips.source_id.to_numpy()[self.clip_indices]
        self.offset = offset

    def summary(self, generated: np.ndarray) -> dict:
        """Return measures of features [S, N, T, A] averaged over seeds.

        The centred cosine comes with its interval over sources.
        """
        per_seed = []
        for features in generated:
            per_seed.append(against_real(features, self.real, self.actions, self.offset))
        cosines = np.mean([measures["centred_cosine"] for measures in per_seed], axis=0)
        summary: dict = {"centred_cosine": intervals.interval(cosines, self.sources)}
        for key in per_seed[0]:
            if key != "centred_cosine":
                summary[key] = float(np.mean([np.mean(measures[key]) for measures in per_seed]))
        return summary

    def calibration(self, generated: np.ndarray, deviation: np.ndarray) -> dict[str, float]:
        """Return `calibration` of features and deviations [S, N, T, A], averaged over seeds."""
        per_seed = []
        for features, deviations in zip(generated, deviation, strict=True):
            per_seed.append(calibration(features, deviations, self.real))
        return {key: float(np.mean([each[key] for each in per_seed])) for key in per_seed[0]}


def answers_at(places: list[Place], clip_indices: torch.Tensor) -> np.ndarray:
    """Return the features [N, T, A] of clips that lie at these places.

    Of several answers to a clip the first one counts.
    """
    first: dict[int, tuple[RowFile, int]] = {}
    for clip_index, file, row in places:
        first.setdefault(clip_index, (file, row))
    features = []
    for clip_index in clip_indices.tolist():
        file, row = first[clip_index]
        features.append(file.read([row])[0].numpy())
    return np.stack(features)


def predicted_actions(data: Features) -> np.ndarray:
    """Return the action that `video_only` predicts for each clip [N]; None for unlabelled clips.

    Seeds are averaged; training clips are predicted out of fold.
    """
    consensus = predictions.read(BASELINE).consensus()
    actions = [consensus.get(clip_id) for clip_id in data.clips.clip_id]
    return np.array(actions, dtype=object)
