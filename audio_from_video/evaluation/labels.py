"""How well do predicted label scores match those that AST finds in the real waveform?"""

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from audio_from_video.learning.features import Features
from audio_from_video.meaning import similarity


def compare(predicted: np.ndarray, real: np.ndarray, threshold: float) -> dict[str, float]:
    """Precision, recall and F1 over all clip-label pairs at `threshold`, mAP over the labels that occur, and the mean
    cosine of the label vectors; predicted and real are [clips, labels]."""
    truth, answer = real >= threshold, predicted >= threshold
    hits = (truth & answer).sum()
    precision, recall = hits / max(answer.sum(), 1), hits / max(truth.sum(), 1)
    occur = truth.any(0) & ~truth.all(0)
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(2 * precision * recall / max(precision + recall, 1e-9)),
        "map": float(average_precision_score(truth[:, occur], predicted[:, occur], average="macro"))
        if occur.any()
        else 0.0,
        "cosine": float(similarity.paired_cosine(predicted, real).mean()),
    }


def measure(
    data: Features,
    rows: torch.Tensor,
    scores: dict[str, np.ndarray],
    real_scores: dict[int, np.ndarray],
    threshold: float,
) -> dict:
    """Measures per split and way on audible clips; baselines: constant label frequencies, other clips' labels."""
    split = data.clips.split.to_numpy()
    frequencies = np.mean(
        [real_scores[row] for row in real_scores if split[row] == "training"], axis=0
    )
    result: dict = {}
    for name in ("validation", "test"):
        chosen = [
            i for i, row in enumerate(rows.tolist()) if split[row] == name and row in real_scores
        ]
        real = np.stack([real_scores[int(rows[i])] for i in chosen])
        shuffled = real[np.random.default_rng(0).permutation(len(real))]
        made = {way: values[chosen].astype(np.float32) for way, values in scores.items()}
        made |= {
            "constant_frequencies": np.repeat(frequencies[None], len(real), 0),
            "shuffled_clips": shuffled,
        }
        result[name] = {way: compare(values, real, threshold) for way, values in made.items()}
        result[name]["clips"] = len(chosen)
        result[name]["sources"] = data.clips.source_id[rows[chosen].tolist()].nunique()
        result[name]["labels_per_clip"] = float((real >= threshold).sum(1).mean())
    return result
