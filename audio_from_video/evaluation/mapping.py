"""How well do the labels that captions were mapped to meet those that are heard?"""

from typing import Any

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.storage import layout, shards

AUDIO = layout.AUDIO_FEATURES
HEARD = 0.3  # AST score from which on a label counts as heard in the clip's real sound
SPLITS = {"validation": "validation", "test": "test", "out_of_fold": "training"}


def measure(
    captions: pd.DataFrame,
    labels: np.ndarray,
    similarity: np.ndarray,
    weights: np.ndarray,
    heard: dict[str, set[int]],
    true: dict[str, set[int]],
    condition: np.ndarray,
    real: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Measures by split over the captions of audible clips.

    captions: a row per caption with clip_id, split, source_id, step.  labels [N, k] by number, -1: none; similarity [N, k + 1]
    with that of the next label; weights [N, k] of the attention.  heard, true: label numbers by clip (AST's in the real
    sound; the truth of rendered clips).  condition [N, A]: the attended label audio; real: a clip's features [T, A], centred
    like it.  `hit`: at least one of the labels is heard; `hit_shuffled`: in another clip drawn at random.
    """
    result: dict[str, Any] = {}
    for name, split in SPLITS.items():
        chosen = np.flatnonzero(
            (captions.split == split).to_numpy() & captions.clip_id.isin(heard).to_numpy()
        )
        if not len(chosen):
            continue
        part, named = captions.iloc[chosen], labels[chosen]
        sources, known = part.source_id.to_numpy(), (named >= 0).any(1)
        other = part.clip_id.to_numpy()[np.random.default_rng(0).permutation(len(part))]
        spread = weights[chosen][known]
        cosines = np.array(
            [
                _cosine(condition[i], real[clip][step])
                for i, clip, step in zip(chosen, part.clip_id, part.step, strict=True)
            ]
        )
        result[name] = {
            "captions": len(chosen),
            "with_labels": float(known.mean()),
            "hit": intervals.interval(hits(named, part.clip_id, heard), sources),
            "hit_shuffled": float(hits(named, other, heard).mean()),
            "first_hit": float(hits(named[:, :1], part.clip_id, heard).mean()),
            "precision": float(shares(named, part.clip_id, heard).mean()),
            "margin": float(np.mean(similarity[chosen, -2] - similarity[chosen, -1]))
            if similarity.shape[1] > labels.shape[1]
            else None,
            "entropy": float(-(spread * np.log(np.maximum(spread, 1e-12))).sum(1).mean())
            if len(spread)
            else None,
            "condition_cosine": intervals.interval(cosines[known], sources[known]),
        }
        if true:
            result[name]["hit_in_truth"] = float(hits(named, part.clip_id, true).mean())
            result[name]["hit_in_truth_shuffled"] = float(hits(named, other, true).mean())
    return result


def hits(labels: np.ndarray, clips, sets: dict[str, set[int]]) -> np.ndarray:
    """Whether at least one of the labels [N, k] is in its clip's set [N]."""
    return np.array(
        [
            not sets.get(clip, set()).isdisjoint(row)
            for row, clip in zip(labels.tolist(), clips, strict=True)
        ],
        float,
    )


def shares(labels: np.ndarray, clips, sets: dict[str, set[int]]) -> np.ndarray:
    """The share of each row's labels [N, k] that are in its clip's set [N]; 0 where it has none."""
    return np.array(
        [
            len(sets.get(clip, set()).intersection(row)) / max(1, sum(label >= 0 for label in row))
            for row, clip in zip(labels.tolist(), clips, strict=True)
        ]
    )


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float(first @ second / max(np.linalg.norm(first) * np.linalg.norm(second), 1e-9))


def heard_labels(scores: dict[str, np.ndarray]) -> dict[str, set[int]]:
    """Label numbers that AST hears, by clip, from label scores [L]; where no score reaches HEARD, the highest one."""
    return {
        clip: set(np.flatnonzero(row >= HEARD).tolist()) or {int(row.argmax())}
        for clip, row in scores.items()
    }


def true_labels(names: list[str]) -> dict[str, set[int]]:
    """Label numbers by rendered clip, of the sounds that are truly audible; empty for sets without truth."""
    number = {name: i for i, name in enumerate(names)}
    truth = shards.read_table(
        "data/truth.parquet", ["clip_id", "audible", "audio_labels"]
    ).to_pylist()
    return {
        row["clip_id"]: {number[name] for name in row["audio_labels"] if name in number}
        for row in truth
        if row["audible"]
    }


def centred_features() -> dict[str, np.ndarray]:
    """Audio features [T, A] float16 of audible clips, minus the training clips' mean."""
    found = shards.read_columns(AUDIO, ["features"])
    split = {row["clip_id"]: row["split"] for row in shards.ok_rows(AUDIO)}
    training = np.array([split[name] in ("training", "unlabelled") for name in found["clip_id"]])
    mean = found["features"][training].astype(np.float32).mean((0, 1))
    return {
        name: features.astype(np.float32) - mean
        for name, features in zip(found["clip_id"], found["features"], strict=True)
    }
