"""How well do predicted label scores match those that AST finds in the real waveform?"""

import numpy as np
import torch

from audio_from_video.learning.features import Features
from audio_from_video.meaning import similarity


def score_figures(predicted: np.ndarray, real: np.ndarray, threshold: float) -> dict[str, float]:
    """Return figures of predicted against real label scores [clips, labels].

    Precision, recall and F1 are over all pairs of clip and label at `threshold`, mAP is over the
    labels that occur, `cosine` is the mean of the label vectors'.
    """
    from sklearn.metrics import average_precision_score

    is_real = real >= threshold
    is_predicted = predicted >= threshold
    hits = (is_real & is_predicted).sum()
    precision = hits / max(is_predicted.sum(), 1)
    recall = hits / max(is_real.sum(), 1)
    f1 = 2 * precision * recall / max(precision + recall, 1e-9)

    # A label that all clips have, or none, cannot be ranked.
    occur = is_real.any(0) & ~is_real.all(0)
    mean_precision = 0.0
    if occur.any():
        mean_precision = average_precision_score(
            is_real[:, occur], predicted[:, occur], average="macro"
        )
    return {
        "precision": float(precision),
        "recall": float(recall),
        "f1": float(f1),
        "map": float(mean_precision),
        "cosine": float(similarity.paired_cosine(predicted, real).mean()),
    }


def label_figures(
    data: Features,
    clip_indices: torch.Tensor,
    scores: dict[str, np.ndarray],
    real_scores: dict[int, np.ndarray],
    threshold: float,
) -> dict:
    """Return figures of predicted labels by split and way, on audible clips.

    scores: label scores [N, L] of the clips `clip_indices` [N], by way of predicting them.
    real_scores: AST's [L], by clip index of audible clips.  threshold: from which score on a label
    counts.  Baselines are constant label frequencies and other clips' labels.
    """
    split_of = data.clips.split.to_numpy()
    training = [values for i, values in real_scores.items() if split_of[i] == "training"]
    frequencies = np.mean(training, axis=0)  # [L]
    figures: dict = {}
    for split in ("validation", "test"):
        positions = []
        for position, clip_index in enumerate(clip_indices.tolist()):
            if split_of[clip_index] == split and clip_index in real_scores:
                positions.append(position)
        measured = clip_indices[positions].tolist()
        real = np.stack([real_scores[clip_index] for clip_index in measured])

        predicted = {way: values[positions].astype(np.float32) for way, values in scores.items()}
        predicted["constant_frequencies"] = np.repeat(frequencies[None], len(real), 0)
        predicted["shuffled_clips"] = real[np.random.default_rng(0).permutation(len(real))]
        figures[split] = {}
        for way, values in predicted.items():
            figures[split][way] = score_figures(values, real, threshold)
        figures[split]["clips"] = len(measured)
        figures[split]["sources"] = data.clips.source_id[measured].nunique()
        figures[split]["labels_per_clip"] = float((real >= threshold).sum(1).mean())
    return figures
