"""How good are generated audio features?  Against the clips' real ones, beside baselines and controls.

A generator may just say the class mean: beside the cosine stand its variance, how much more it resembles its own clip
than others of the same action, and the correlation over time.  All measures are means over clips (at most MEASURED per
split, drawn by hash), averaged over seeds; arrays are [N, T, A].
"""

from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.baselines import Baselines, measured
from audio_from_video.learning.features import Features
from audio_from_video.meaning import similarity
from audio_from_video.storage import layout, predictions


def cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosine similarity over the last dimension, averaged over the time steps: [N, T, A] -> [N]."""
    return similarity.paired_cosine(first, second).mean(-1)


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
    made = similarity.unit(made)
    real = similarity.unit(real)
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
    projection = load_file(layout.AUDIO_PROJECTION)
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
        "centred_cosine": intervals.interval(
            np.mean([seed["centred_cosine"] for seed in per_seed], axis=0), sources
        )
    } | means


def picked(places: list[tuple], rows: torch.Tensor) -> np.ndarray:
    """Answers [N, T, A] of `rows` from (row, file, position) triples; the first seed that answered a row counts."""
    where = {row: (file, position) for row, file, position in reversed(places)}
    return np.stack([where[row][0].read([where[row][1]])[0].numpy() for row in rows.tolist()])


def predicted_actions(data: Features) -> np.ndarray:
    """The action that `video_only` predicts for each labelled clip (seeds averaged, out of fold on training clips), else None."""
    consensus = predictions.read("video_only").consensus()
    return np.array([consensus.get(clip_id) for clip_id in data.clips.clip_id], dtype=object)
