"""Figures of the conditions, which are the rows of the main table.

These are accuracies on subsets, paired differences to the baseline and what the differences are
worth.  Intervals and differences resample sources and trainings (intervals.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage.predictions import Predictions

BASELINE = "video_only"
UPPER_BOUND = "real_audio"

# The name of the subset that holds all test clips.
ALL_CLIPS = ""


@dataclass(frozen=True)
class ConditionAnswers:
    """What a condition answers on test.

    clips: indexed by clip_id, with action, source_id and `hit`, the share of seeds that are right.
    hits: whether each training (columns) is right about each of these clips (rows).
    seeds: their number.  seed_sd: standard deviation of their accuracies.
    calibration_error: of their probabilities, None without clips.
    confusion: share of the answers (columns) to the clips of an action (index).
    """

    clips: pd.DataFrame
    hits: pd.DataFrame
    seeds: int
    seed_sd: float
    calibration_error: float | None
    confusion: pd.DataFrame


@dataclass(frozen=True)
class ConditionFigures:
    """Estimates of a condition by subset of the test clips; ALL_CLIPS is one of them.

    accuracy: share of right answers.  difference: to the baseline on the same clips, in fractions;
    none of the baseline itself.  smallest_detectable_difference: of all its test clips, None for
    the baseline and without clips.
    """

    accuracy: dict[str, dict] = field(default_factory=dict)
    difference: dict[str, dict] = field(default_factory=dict)
    smallest_detectable_difference: float | None = None

    def as_metrics(self) -> dict:
        """Return the figures by `<measure>_<subset>`, as metrics/report.json has them."""
        metrics: dict = {}
        for subset, accuracy in self.accuracy.items():
            suffix = f"_{subset}" if subset else ""
            metrics[f"accuracy{suffix}"] = accuracy
            if self.difference:
                metrics[f"difference{suffix}"] = self.difference[subset]
        if self.difference:
            metrics["smallest_detectable_difference"] = self.smallest_detectable_difference
        return metrics


def condition_answers(test: Predictions) -> ConditionAnswers:
    """Return what the tables need of a condition's answers on test."""
    clips = test.clips.assign(hit=test.hits()).set_index("clip_id").sort_index()
    hits = pd.DataFrame(test.hits_by_seed().T, index=test.clips.clip_id).loc[clips.index]
    calibration_error = None
    if len(clips):
        calibration_error = intervals.calibration_error(test.probabilities, test.labels)
    return ConditionAnswers(
        clips=clips,
        hits=hits,
        seeds=len(test.probabilities),
        seed_sd=over_seeds(test, 1)["seed_sd"],
        calibration_error=calibration_error,
        confusion=confusion(test),
    )


def confusion(test: Predictions) -> pd.DataFrame:
    """Return the share of the answers (columns) to the clips of each action (index).

    Shares are over all seeds; they are 0 for actions without clips.
    """
    counts = np.zeros((len(test.actions), len(test.actions)))
    for answers in test.answers:
        np.add.at(counts, (test.labels, answers), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return pd.DataFrame(shares, test.actions, test.actions)


# ---- accuracies and differences ----


def condition_figures(
    answers: dict[str, ConditionAnswers], subsets: dict[str, np.ndarray], partial: set[str]
) -> dict[str, ConditionFigures]:
    """Return each condition's accuracies and its paired differences to the baseline.

    subsets: masks [N] over the baseline's test clips.  partial: conditions that answer some test
    clips only; differences are on the clips that both answer.

    Raises:
        UserError: another condition answers other test clips than the baseline.
    """
    baseline = answers[BASELINE].clips
    base_hits = answers[BASELINE].hits
    masks = {ALL_CLIPS: np.ones(len(baseline), bool)} | subsets
    figures: dict[str, ConditionFigures] = {}
    for name, condition in answers.items():
        clips = condition.clips
        if name not in partial and not clips.index.equals(baseline.index):
            raise UserError(
                f"{name} answers other test clips than {BASELINE}: "
                "run `dvc repro` so that both see the same features"
            )
        accuracy = {}
        difference = {}
        for subset, mask in masks.items():
            part = clips.loc[clips.index.intersection(baseline.index[mask])]
            hits = condition.hits.loc[part.index].to_numpy()
            accuracy[subset] = intervals.interval(hits, part.source_id)
            if name != BASELINE:
                difference[subset] = intervals.paired_difference(
                    hits, base_hits.loc[part.index].to_numpy(), part.source_id
                )
        detectable = None
        if name != BASELINE:
            base_hit = baseline.hit[clips.index].to_numpy()
            detectable = intervals.smallest_detectable_difference(
                clips.hit, base_hit, clips.source_id
            )
        figures[name] = ConditionFigures(accuracy, difference, detectable)
    return figures


def subset_table(figures: dict[str, ConditionFigures]) -> pd.DataFrame:
    """Return all figures as rows: condition, measure, subset ('' for all test clips), estimate.

    measure: accuracy, or difference to the baseline.
    """
    rows = []
    for condition, condition_estimates in figures.items():
        for subset, accuracy in condition_estimates.accuracy.items():
            key = {"condition": condition, "measure": "accuracy", "subset": subset}
            rows.append(key | accuracy)
            if condition_estimates.difference:
                difference = condition_estimates.difference[subset]
                rows.append(key | {"measure": "difference"} | difference)
    return pd.DataFrame(rows)


def group_accuracy(
    answers: dict[str, ConditionAnswers], groups: dict[str, list[str]]
) -> dict[str, dict[str, dict]]:
    """Return each condition's accuracy on the clips of each group of actions."""
    accuracies: dict[str, dict[str, dict]] = {}
    for name, condition in answers.items():
        accuracies[name] = {}
        for group, actions in groups.items():
            part = condition.clips[condition.clips.action.isin(actions)]
            hits = condition.hits.loc[part.index].to_numpy()
            accuracies[name][group] = intervals.interval(hits, part.source_id)
    return accuracies


def group_differences(
    answers: dict[str, ConditionAnswers], groups: dict[str, list[str]]
) -> dict[str, dict[str, dict]]:
    """Return each condition's paired difference to the baseline on each group of actions.

    The clips are those of the group that the condition answers.
    """
    base_hits = answers[BASELINE].hits
    differences: dict[str, dict[str, dict]] = {}
    for name, condition in answers.items():
        if name == BASELINE:
            continue
        differences[name] = {}
        for group, actions in groups.items():
            part = condition.clips[condition.clips.action.isin(actions)]
            differences[name][group] = intervals.paired_difference(
                condition.hits.loc[part.index].to_numpy(),
                base_hits.loc[part.index].to_numpy(),
                part.source_id,
            )
    return differences


# ---- what the differences are worth ----


def condition_checks(
    answers: dict[str, ConditionAnswers], figures: dict[str, ConditionFigures]
) -> dict[str, dict]:
    """Return, by condition, what its difference to the baseline is worth.

    These are the difference over sources alone, with the trainings as they are, the p-value of the
    difference alone and adjusted for all comparisons (Holm), its share of the gap and the
    calibration error.
    """
    p_values = {
        name: condition.difference[ALL_CLIPS]["p"]
        for name, condition in figures.items()
        if name != BASELINE
    }
    adjusted = intervals.holm(p_values)
    checks = {}
    for name, condition in answers.items():
        # The baseline has no difference to itself.
        over_sources = None
        if name != BASELINE:
            clips = condition.clips
            base_hit = answers[BASELINE].clips.hit[clips.index]
            over_sources = intervals.paired_difference(clips.hit, base_hit, clips.source_id)
        checks[name] = {
            "difference_over_sources": over_sources,
            "p": p_values.get(name),
            "p_holm": adjusted.get(name),
            "gap_share": gap_share(name, answers),
            "calibration_error": condition.calibration_error,
        }
    return checks


def gap_share(name: str, answers: dict[str, ConditionAnswers]) -> dict | None:
    """Return (condition - baseline) / (upper bound - baseline) on the condition's clips.

    The estimate has an interval; it is None where the interval of the denominator contains 0.
    """
    clips = answers[name].clips
    if name in (BASELINE, UPPER_BOUND) or clips.empty:
        return None
    base_hit = answers[BASELINE].clips.hit[clips.index]
    upper_hit = answers[UPPER_BOUND].clips.hit[clips.index]
    return intervals.gap_share(
        clips.hit.to_numpy(), base_hit.to_numpy(), upper_hit.to_numpy(), clips.source_id.to_numpy()
    )


# ---- other comparisons ----


@dataclass(frozen=True)
class Contrast:
    """The paired difference of two conditions on the clips that both answer, in fractions.

    gap_share: (condition - reference) / (bound - reference), an estimate over sources alone; None
    without a bound, or where the interval of the denominator contains 0.
    """

    condition: str
    reference: str
    difference: dict
    bound: str
    gap_share: dict | None


def contrast(
    answers: dict[str, ConditionAnswers], condition: str, reference: str, bound: str = ""
) -> Contrast:
    """Compare a condition with another one than the baseline.

    bound: the condition that hears what the first one could at best, '' for none.
    """
    clips = answers[condition].clips
    shared = clips.index.intersection(answers[reference].clips.index)
    sources = clips.source_id[shared]
    difference = intervals.paired_difference(
        answers[condition].hits.loc[shared].to_numpy(),
        answers[reference].hits.loc[shared].to_numpy(),
        sources,
    )
    share = None
    if bound and len(shared):
        share = intervals.gap_share(
            clips.hit[shared].to_numpy(),
            answers[reference].clips.hit[shared].to_numpy(),
            answers[bound].clips.hit[shared].to_numpy(),
            sources.to_numpy(),
        )
    return Contrast(condition, reference, difference, bound, share)


# ---- look-alike actions ----


def look_alike(pairs: list[list[str]], actions: Iterable[str]) -> list[list[str]]:
    """Return those pairs whose actions the test clips show."""
    return [pair for pair in pairs if set(pair) <= set(actions)]


def pair_groups(pairs: list[list[str]], actions: list[str]) -> dict[str, list[str]]:
    """Return the actions of each look-alike pair, of all pairs and of none."""
    groups = {" / ".join(pair): pair for pair in pairs}
    paired = [action for pair in pairs for action in pair]
    groups["all pairs"] = paired
    groups["other actions"] = [action for action in actions if action not in paired]
    return groups


# ---- one condition's own metrics ----


def classifier_figures(predictions: Predictions) -> dict:
    """Return accuracy, top5 and macro_f1 on test and accuracy on validation, with intervals.

    Intervals resample sources and trainings (that of macro_f1 sources alone); the standard
    deviation over seeds stands beside them.  `ensemble` is the accuracy on test of the mean
    probabilities over seeds.
    """
    figures: dict = {}
    measures = (
        ("accuracy", "test", 1),
        ("top5", "test", 5),
        ("validation_accuracy", "validation", 1),
    )
    for name, split, top in measures:
        part = predictions.of(split)
        hits = part.hits_by_seed(top).T
        estimate = intervals.interval(hits, part.clips.source_id.to_numpy())
        figures[name] = estimate | over_seeds(part, top)
    test = predictions.of("test")
    sources = test.clips.source_id.to_numpy()
    figures["ensemble"] = intervals.interval(test.ensemble().hits(), sources)
    macro_f1 = intervals.macro_f1(test.labels, test.answers, len(test.actions), sources)
    figures["macro_f1"] = macro_f1 | {"seeds": len(test.probabilities)}
    return figures


def over_seeds(part: Predictions, top: int) -> dict:
    """Return `{seeds, seed_sd}`: the number of seeds, the standard deviation of their accuracies.

    top: how many of the most probable actions may hold the true one.
    """
    seeds = len(part.probabilities)
    if part.clips.empty:
        return {"seeds": seeds, "seed_sd": 0.0}
    accuracies = part.hits_by_seed(top).mean(1)
    deviation = float(np.std(accuracies, ddof=1)) if seeds > 1 else 0.0
    return {"seeds": seeds, "seed_sd": deviation}


def means(figures: dict) -> dict:
    """Return nested figures without their intervals, for `dvc metrics diff`."""
    reduced: dict = {}
    for key, value in figures.items():
        if isinstance(value, dict) and "mean" in value:
            reduced[key] = value["mean"]
        elif isinstance(value, dict):
            reduced[key] = means(value)
        else:
            reduced[key] = value
    return reduced
