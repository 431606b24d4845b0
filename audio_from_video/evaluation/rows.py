"""Figures of the classifier's rows: accuracies on subsets, paired differences to the baseline and what these are worth.

Values are averaged over seeds per clip; intervals and differences resample sources (statistics.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions
from audio_from_video.storage.predictions import Predictions

BASELINE, UPPER_BOUND = "video_only", "real_audio"


@dataclass(frozen=True)
class Row:
    """What a condition answers on test.

    clips: indexed by clip_id: action, source_id and `hit`, the share of seeds that are right; seeds: their number; seed_sd:
    deviation of their accuracies; calibration_error: of their probabilities; confusion: share of the answers (columns) to the
    clips of an action (index).
    """

    clips: pd.DataFrame
    seeds: int
    seed_sd: float
    calibration_error: float | None
    confusion: pd.DataFrame


def confusion(test: predictions.Predictions) -> pd.DataFrame:
    """Share of the answers (columns) to the clips of each action (index), over all seeds; 0 for actions without clips."""
    counts = np.zeros((len(test.actions), len(test.actions)))
    for answers in test.answers:
        np.add.at(counts, (test.labels, answers), 1)
    return pd.DataFrame(
        counts / np.maximum(counts.sum(1, keepdims=True), 1), test.actions, test.actions
    )


def accuracies(rows: dict[str, Row], masks: dict[str, np.ndarray], partial: set[str]) -> dict:
    """Per condition: accuracy on all its test clips and on subsets (masks over the baseline's clips), and the paired differences
    to the baseline on the same clips.  Conditions in `partial` answer some test clips only."""
    everything = rows[BASELINE].clips
    masks = {"": np.ones(len(everything), bool)} | masks
    result: dict = {}
    for name, clips in ((name, row.clips) for name, row in rows.items()):
        if name not in partial and not clips.index.equals(everything.index):
            raise UserError(
                f"{name} answers other test clips than {BASELINE}: run `dvc repro` so that both see the same features"
            )
        row: dict = {}
        for subset, mask in masks.items():
            chosen = clips.loc[clips.index.intersection(everything.index[mask])]
            base, suffix = everything.hit[chosen.index].to_numpy(), f"_{subset}" if subset else ""
            row[f"accuracy{suffix}"] = intervals.interval(chosen.hit, chosen.source_id)
            if name != BASELINE:
                row[f"difference{suffix}"] = intervals.paired_difference(
                    chosen.hit, base, chosen.source_id
                )
        if name != BASELINE:
            base = everything.hit[clips.index].to_numpy()
            row["smallest_detectable_difference"] = intervals.smallest_detectable_difference(
                clips.hit, base, clips.source_id
            )
        result[name] = row
    return result


def checks(rows: dict[str, Row], result: dict) -> dict:
    """Per condition: p of its difference to the baseline, alone and adjusted, its share of the gap and the calibration error."""
    p = {name: row["difference"]["p"] for name, row in result.items() if name != BASELINE}
    adjusted = intervals.holm(p)

    def widened(name: str) -> dict | None:
        variance = sum(
            rows[each].seed_sd ** 2 / max(rows[each].seeds, 1) for each in (name, BASELINE)
        )
        return (
            intervals.over_trainings(result[name]["difference"], variance)
            if name != BASELINE
            else None
        )

    return {
        name: {
            "difference_over_trainings": widened(name),
            "p": p.get(name),
            "p_holm": adjusted.get(name),
            "gap_share": gap_share(name, rows),
            "calibration_error": row.calibration_error,
        }
        for name, row in rows.items()
    }


def gap_share(name: str, rows: dict[str, Row]) -> dict | None:
    """(row - baseline) / (upper bound - baseline) on the row's clips, with interval; None where the denominator may be 0."""
    clips = rows[name].clips
    if name in (BASELINE, UPPER_BOUND) or clips.empty:
        return None
    base, upper = (rows[other].clips.hit[clips.index] for other in (BASELINE, UPPER_BOUND))
    gains = intervals.by_source(
        np.stack([clips.hit - base, upper - base], axis=1), clips.source_id.to_numpy()
    )  # [sources, 2]
    drawn = np.concatenate(
        [counts @ gains for counts in intervals.resample_counts(len(gains), 0)]
    )  # [resamples, 2]
    below, above = np.percentile(drawn[:, 1], [2.5, 97.5])
    if below <= 0 <= above:
        return None
    drawn = drawn[drawn[:, 1] != 0]
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return {
        "mean": float(gains[:, 0].sum() / gains[:, 1].sum()),
        "ci95_low": float(low),
        "ci95_high": float(high),
    }


def group_accuracy(rows: dict[str, Row], groups: dict[str, list[str]]) -> dict:
    """Accuracy of each condition on the clips of each group of actions."""
    result: dict = {}
    for name, clips in ((name, row.clips) for name, row in rows.items()):
        chosen = {group: clips[clips.action.isin(actions)] for group, actions in groups.items()}
        result[name] = {
            group: intervals.interval(part.hit, part.source_id) for group, part in chosen.items()
        }
    return result


def group_differences(rows: dict[str, Row], groups: dict[str, list[str]]) -> dict:
    """Paired difference of each condition to the baseline on the clips of each group of actions that it answers."""
    base, result = rows[BASELINE].clips.hit, {}
    for name, clips in ((name, row.clips) for name, row in rows.items() if name != BASELINE):
        chosen = {group: clips[clips.action.isin(actions)] for group, actions in groups.items()}
        result[name] = {
            group: intervals.paired_difference(
                part.hit, base[part.index].to_numpy(), part.source_id
            )
            for group, part in chosen.items()
        }
    return result


def long_table(result: dict) -> pd.DataFrame:
    """All figures as rows: condition, measure (accuracy, or difference to the baseline), subset ('' for all test clips)."""
    rows = []
    for condition, figures_of in result.items():
        for name, figure in figures_of.items():
            if isinstance(figure, dict):
                measure, _, subset = name.partition("_")
                rows.append(
                    {"condition": condition, "measure": measure, "subset": subset, **figure}
                )
    return pd.DataFrame(rows)


def means(result: dict) -> dict:
    """The figures without their intervals: what `dvc metrics diff` should compare at a glance."""
    plain = {
        key: figure["mean"] if isinstance(figure, dict) and "mean" in figure else figure
        for key, figure in result.items()
    }
    return {
        key: means(figure) if isinstance(figure, dict) else figure for key, figure in plain.items()
    }


def look_alike(pairs: list[list[str]], actions: Iterable[str]) -> list[list[str]]:
    """Those pairs whose actions the test clips show."""
    return [pair for pair in pairs if set(pair) <= set(actions)]


def pair_groups(pairs: list[list[str]], actions: list[str]) -> dict[str, list[str]]:
    """Actions of each look-alike pair, of all pairs and of none."""
    paired = [action for pair in pairs for action in pair]
    others = [action for action in actions if action not in paired]
    return {" / ".join(pair): pair for pair in pairs} | {
        "all pairs": paired,
        "other actions": others,
    }


def score(predictions: Predictions) -> dict:
    """Accuracy, top5 and macro_f1 on test, accuracy on validation: values are averaged over seeds per clip, intervals
    resample sources, the deviation over seeds stands beside them."""
    figures: dict = {}
    for name, split, top in (
        ("accuracy", "test", 1),
        ("top5", "test", 5),
        ("validation_accuracy", "validation", 1),
    ):
        part = predictions.of(split)
        figures[name] = intervals.interval(
            part.hits(top), part.clips.source_id.to_numpy()
        ) | over_seeds(part, top)
    test = predictions.of("test")
    f1 = intervals.macro_f1(
        test.labels, test.answers, len(test.actions), test.clips.source_id.to_numpy()
    )
    return figures | {"macro_f1": f1 | {"seeds": len(test.probabilities)}}


def over_seeds(part: Predictions, top: int) -> dict:
    """`{seeds, seed_sd}`: number of seeds and standard deviation of their accuracies."""
    if part.clips.empty:
        return {"seeds": len(part.probabilities), "seed_sd": 0.0}
    per_seed = [
        Predictions(part.clips, part.actions, vectors[None]).hits(top).mean()
        for vectors in part.probabilities
    ]
    return {
        "seeds": len(per_seed),
        "seed_sd": float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0,
    }
