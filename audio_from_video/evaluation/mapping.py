"""How well do the labels that captions were mapped to meet those that are heard?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from audio_from_video.clipset import truth
from audio_from_video.evaluation import intervals
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import layout, shards

# Names of what is measured, and their splits.  Captions of training clips are out of fold.
MEASURED_SPLITS = {"validation": "validation", "test": "test", "out_of_fold": "training"}

MEASURED_CLIPS = 4000  # at most of a split

LabelSets = dict[str, set[int]]  # numbers of labels by clip_id


@dataclass(frozen=True)
class MappedCaptions:
    """What N captions were mapped to.

    labels [N, k]: numbers of labels, best first; -1 where there is none.  scores [N, k + 1]: of
    these labels and of the next one.  weights [N, k]: of the attention.  audio [N, A]: the attended
    label audio.
    """

    labels: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    audio: np.ndarray


@dataclass(frozen=True)
class References:
    """What mapped captions are held against.

    heard: labels that AST hears in the real sound.  true: labels that are truly audible in rendered
    clips; {} for other data sets.  real: a clip's real features [T, A], centred like the audio.
    """

    heard: LabelSets
    true: LabelSets
    real: dict[str, np.ndarray]


def figures_by_split(
    captions: pd.DataFrame, mapped: MappedCaptions, references: References
) -> dict[str, dict[str, Any]]:
    """Return measures of the captions of audible clips; splits without such captions are left out.

    captions: a row per caption with clip_id, split, source_id, step.
    """
    is_audible = captions.clip_id.isin(references.heard).to_numpy()
    figures = {}
    for name, split in MEASURED_SPLITS.items():
        rows = np.flatnonzero((captions.split == split).to_numpy() & is_audible)
        if len(rows):
            figures[name] = split_figures(captions, mapped, references, rows)
    return figures


def measured_rows(captions: pd.DataFrame, audible: set[str]) -> np.ndarray:
    """Return the rows [n], ascending, of captions that are measured: those of audible clips.

    Of a split with more than MEASURED_CLIPS audible clips so many are drawn by hash.  captions: a
    row per caption with clip_id and split.
    """
    drawn: set[str] = set()
    for split in MEASURED_SPLITS.values():
        names = captions.clip_id[captions.split == split].unique().tolist()
        names = [name for name in names if name in audible]
        if len(names) > MEASURED_CLIPS:
            names.sort(key=lambda name: digest("measured", name))
        drawn.update(names[:MEASURED_CLIPS])
    return np.flatnonzero(captions.clip_id.isin(list(drawn)))


def hit_warnings(figures: dict[str, dict[str, Any]]) -> list[str]:
    """Return what is to be said where labels of captions fit a clip no better than any other one.

    figures: of one way, by `figures_by_split`; training clips decide.
    """
    training = figures.get("out_of_fold")
    if training is None:
        return []
    hit = training["hit"]
    shuffled = training["hit_shuffled"]
    if hit["ci95_low"] > shuffled:
        return []
    return [
        f"the labels of captions are heard in {hit['mean']:.1%} of their own clips "
        f"[{hit['ci95_low']:.1%}, {hit['ci95_high']:.1%}] and in {shuffled:.1%} of clips drawn at "
        "random: caption_mapping has nothing to go by; metrics/captions.json and "
        "metrics/audio_features.json say whether captions or labels are the cause"
    ]


def split_figures(
    captions: pd.DataFrame, mapped: MappedCaptions, references: References, rows: np.ndarray
) -> dict[str, Any]:
    """Return measures of the captions in some rows.

    `hit`: at least one of the labels is heard; `hit_shuffled`: in another clip drawn at random.
    """
    part = captions.iloc[rows]
    labels = mapped.labels[rows]
    scores = mapped.scores[rows]
    sources = part.source_id.to_numpy()
    has_labels = (labels >= 0).any(1)
    other_clips = part.clip_id.to_numpy()[np.random.default_rng(0).permutation(len(part))]
    cosines = []
    for i, clip_id, step in zip(rows, part.clip_id, part.step, strict=True):
        cosines.append(cosine(mapped.audio[i], references.real[clip_id][step]))
    audio_cosines = np.array(cosines)[has_labels]

    margin = None
    if scores.shape[1] > labels.shape[1]:
        margin = float(np.mean(scores[:, -2] - scores[:, -1]))
    heard = references.heard
    figures = {
        "captions": len(rows),
        "with_labels": float(has_labels.mean()),
        "hit": intervals.interval(hits(labels, part.clip_id, heard), sources),
        "hit_shuffled": float(hits(labels, other_clips, heard).mean()),
        "first_hit": float(hits(labels[:, :1], part.clip_id, heard).mean()),
        "precision": float(hit_fractions(labels, part.clip_id, heard).mean()),
        "margin": margin,
        "entropy": mean_entropy(mapped.weights[rows][has_labels]),
        "condition_cosine": intervals.interval(audio_cosines, sources[has_labels]),
    }
    if references.true:
        true = references.true
        figures["hit_in_truth"] = float(hits(labels, part.clip_id, true).mean())
        figures["hit_in_truth_shuffled"] = float(hits(labels, other_clips, true).mean())
    return figures


# ---- measures of single captions ----


def hits(labels: np.ndarray, clip_ids: Iterable[str], sets: LabelSets) -> np.ndarray:
    """Return whether at least one of the labels [N, k] is in its clip's set [N], as 0 or 1."""
    values = []
    for numbers, clip_id in zip(labels.tolist(), clip_ids, strict=True):
        values.append(not sets.get(clip_id, set()).isdisjoint(numbers))
    return np.array(values, float)


def hit_fractions(labels: np.ndarray, clip_ids: Iterable[str], sets: LabelSets) -> np.ndarray:
    """Return the share of each row's labels [N, k] that are in its clip's set [N].

    It is 0 for rows without labels.
    """
    fractions = []
    for numbers, clip_id in zip(labels.tolist(), clip_ids, strict=True):
        right = len(sets.get(clip_id, set()).intersection(numbers))
        count = sum(number >= 0 for number in numbers)
        fractions.append(right / max(1, count))
    return np.array(fractions)


def mean_entropy(weights: np.ndarray) -> float | None:
    """Return the mean entropy of weights [N, k] in nats; None without rows."""
    if not len(weights):
        return None
    return float(-(weights * np.log(np.maximum(weights, 1e-12))).sum(1).mean())


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors [A]; 0 where one of them is zero."""
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return float(first @ second / max(norm, 1e-9))


# ---- references ----


def heard_labels(scores: dict[str, np.ndarray], cut: float) -> LabelSets:
    """Return the labels that AST hears, by clip; where no score is high enough, the highest one.

    scores: AST's label scores [L] by clip.  cut: the score from which on it hears one.
    """
    sets = {}
    for clip_id, label_scores in scores.items():
        heard = set(np.flatnonzero(label_scores >= cut).tolist())
        sets[clip_id] = heard or {int(label_scores.argmax())}
    return sets


def true_labels(names: list[str]) -> LabelSets:
    """Return the labels of the sounds that are truly audible, by rendered clip.

    names: of the labels by number.  The result is empty for data sets without truth.
    """
    number_of = {name: number for number, name in enumerate(names)}
    sets = {}
    for clip_id, audio_labels in truth.audible_labels().items():
        sets[clip_id] = {number_of[name] for name in audio_labels if name in number_of}
    return sets


def centred_features(clip_ids: set[str]) -> dict[str, np.ndarray]:
    """Return the audio features [T, A] float32 of clips, minus the mean of all training clips."""
    clips = 0
    total = np.zeros(shards.tensor_shape(layout.AUDIO_FEATURES, "features")[1])
    for row in shards.iter_rows(layout.AUDIO_FEATURES, ["features"], ("training", "unlabelled")):
        clips += 1
        total += row["features"].mean(0, dtype=float)
    mean = (total / max(1, clips)).astype(np.float32)
    return {
        row["clip_id"]: row["features"].astype(np.float32) - mean
        for row in shards.iter_rows(layout.AUDIO_FEATURES, ["features"], clip_ids=clip_ids)
    }
