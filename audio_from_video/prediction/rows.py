"""Answers as rows of a table, one per window, and generated features as files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from audio_from_video.meaning.recommended import CONDITION_OF
from audio_from_video.prediction.answers import WindowAnswer
from audio_from_video.prediction.pipeline import VideoAnswer
from audio_from_video.prediction.settings import BundleSettings

TEXTS = pa.list_(pa.string())
NUMBERS = pa.list_(pa.float32())
FEATURES_INDEX = pa.schema(
    [
        ("file", pa.string()),
        ("start_s", pa.float32()),
        ("end_s", pa.float32()),
        ("architecture", pa.string()),
        ("keep", pa.bool_()),
        ("features", pa.string()),
    ]
)


def schema(settings: BundleSettings) -> pa.Schema:
    """Return the columns of answers under a bundle.

    file, status, reason; start_s and end_s of the window; recommended: why, in a word, with its
    action, probability and agreement of the seeds; audible and level_dbfs of the video's own sound,
    real_score of the filter on it, real_labels by AST; by condition the most probable actions with
    their probabilities, and the agreement; by architecture the labels of the generated sound with
    their scores, the filter's score, threshold and decision; captions of the representative frames
    and their steps.
    """
    columns = [
        ("file", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("start_s", pa.float32()),
        ("end_s", pa.float32()),
        ("recommended", pa.string()),
        ("action", pa.string()),
        ("probability", pa.float32()),
        ("agreement", pa.float32()),
        ("audible", pa.bool_()),
        ("level_dbfs", pa.float32()),
        ("real_score", pa.float32()),
        ("real_labels", TEXTS),
        ("real_label_scores", NUMBERS),
    ]
    for name in settings.classifiers:
        columns += [
            (f"{name}_actions", TEXTS),
            (f"{name}_probabilities", NUMBERS),
            (f"{name}_agreement", pa.float32()),
        ]
    for name in judged(settings):
        columns += [
            (f"{name}_labels", TEXTS),
            (f"{name}_label_scores", NUMBERS),
            (f"{name}_score", pa.float32()),
            (f"{name}_threshold", pa.float32()),
            (f"{name}_keep", pa.bool_()),
        ]
    columns += [("captions", TEXTS), ("caption_steps", pa.list_(pa.int32()))]
    return pa.schema(columns)


def judged(settings: BundleSettings) -> list[str]:
    """Return the architectures whose sound the filter judges."""
    return [name for name, each in settings.generators.items() if each.threshold is not None]


def rows(video: VideoAnswer, settings: BundleSettings, top_k: int) -> list[dict[str, Any]]:
    """Return a row per window, or one without answers of a refused video."""
    empty: dict[str, Any] = dict.fromkeys(schema(settings).names)
    empty |= {"file": video.name, "status": video.status, "reason": video.reason}
    if not video.windows:
        return [empty]
    return [empty | window_row(window, settings, top_k) for window in video.windows]


def window_row(window: WindowAnswer, settings: BundleSettings, top_k: int) -> dict[str, Any]:
    """Return the columns of a window's answer; lists hold the `top_k` best, the best first."""
    chosen = window.answers[CONDITION_OF[window.recommended]]
    row: dict[str, Any] = {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "recommended": window.recommended,
        "action": chosen.action,
        "probability": float(chosen.probabilities.max()),
        "agreement": chosen.agreement,
        "audible": window.real.audible,
        "level_dbfs": window.real.level_dbfs,
        "real_score": window.real.score,
        "captions": list(window.captions.values()),
        "caption_steps": list(window.captions),
    }
    if window.real.label_scores is not None:
        best = top(settings.labels, window.real.label_scores, top_k)
        row |= {"real_labels": best[0], "real_label_scores": best[1]}
    for name, answer in window.answers.items():
        actions, probabilities = top(settings.actions, answer.probabilities, top_k)
        row[f"{name}_actions"] = actions
        row[f"{name}_probabilities"] = probabilities
        row[f"{name}_agreement"] = answer.agreement
    for name, sound in window.generated.items():
        labels, scores = top(settings.labels, sound.label_scores, top_k)
        row[f"{name}_labels"] = labels
        row[f"{name}_label_scores"] = scores
        row[f"{name}_score"] = sound.score
        row[f"{name}_threshold"] = sound.threshold
        row[f"{name}_keep"] = sound.keep
    return row


def top(names: list[str], values: np.ndarray, count: int) -> tuple[list[str], list[float]]:
    """Return the names of the highest values [n] and these, the highest first."""
    best = np.argsort(-values, kind="stable")[:count]
    return [names[i] for i in best], [float(values[i]) for i in best]


def write_features(folder: Path, number: int, video: VideoAnswer) -> list[dict[str, Any]]:
    """Write a video's generated features and return the rows of FEATURES_INDEX.

    Each architecture has a folder with a file [seeds, T, A] float32 per window, whose name begins
    with the video's number, so that files of the same name do not meet.
    """
    index = []
    for place, window in enumerate(video.windows):
        for architecture, sound in window.generated.items():
            path = folder / architecture / f"{number:05d}-{Path(video.name).stem}-{place:03d}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, sound.features, allow_pickle=False)
            row = {
                "file": video.name,
                "start_s": window.start_s,
                "end_s": window.end_s,
                "architecture": architecture,
                "keep": sound.keep,
                "features": str(path.relative_to(folder)),
            }
            index.append(row)
    return index
