"""Captions of the figures: what is drawn, and what is seen there in this run's numbers."""

import pandas as pd

from audio_from_video.evaluation.curves import DosePanel
from audio_from_video.evaluation.filter_gains import FilterGains
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting import figures
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import number, points
from audio_from_video.runtime.vocabulary import ARCHITECTURES, SEMANTIC_VALIDATION


def excludes_zero(estimate: dict | None) -> bool:
    """Return whether an estimate's interval lies on one side of 0."""
    if estimate is None or estimate["mean"] is None:
        return False
    return estimate["ci95_low"] > 0 or estimate["ci95_high"] < 0


def listed(names: list[str]) -> str:
    """Return names as text, such as a, b and c; `none` without any."""
    if len(names) < 2:
        return "".join(names) or "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def differing(estimates: dict[str, dict]) -> str:
    """Return the names of those estimates whose interval lies on one side of 0."""
    return listed([name for name, estimate in estimates.items() if excludes_zero(estimate)])


def main_comparison(results: Results) -> str:
    """Return the caption of draw_main_comparison."""
    differences = {name: results.difference(name) or {"mean": None} for name in results.others}
    return (
        f"Accuracy of every condition, and its paired difference to {BASELINE} on the same clips; "
        f"lines are 95 % intervals over sources, the dashed one is {BASELINE}. Of "
        f"{len(differences)} conditions these have an interval without 0: {differing(differences)}."
    )


def missing_rates(curves: dict[str, dict[str, dict]]) -> str:
    """Return the caption of draw_curves over missing rates; curves: differences by rate."""
    rates = list(next(iter(curves.values())))
    seen = []
    for rate in rates:
        at_rate = {name: curve[rate] for name, curve in curves.items()}
        seen.append(f"at {rate} % {differing(at_rate)}")
    return (
        f"Accuracy minus {BASELINE} where some test clips lack their audio (points; bands: 95 % "
        "intervals). Clips that have it give every condition their real audio, also those that "
        f"learned from generated audio. Intervals without 0: {'; '.join(seen)}."
    )


def label_budget(budgets: list[str], curves: dict[str, list[dict]]) -> str:
    """Return the caption of draw_curves over label budgets; curves: differences by budget."""
    seen = []
    for i, budget in enumerate(budgets):
        at_budget = {name: curve[i] for name, curve in curves.items()}
        seen.append(f"with {budget} clips {differing(at_budget)}")
    return (
        f"Accuracy minus {BASELINE} by labelled training clips per action (points; bands: 95 % "
        "intervals); generators learn from all audible clips throughout. Intervals without 0: "
        f"{'; '.join(seen)}."
    )


def dose(panels: list[DosePanel]) -> str:
    """Return the caption of draw_dose."""
    seen = []
    for name, (title, *_) in figures.DOSE_LINES.items():
        if not any(name in panel.curves for panel in panels):
            continue
        places = []
        for panel in panels:
            gains = zip(panel.levels, panel.curves.get(name, []), strict=False)
            above = [level for level, gain in gains if gain["ci95_low"] > 0]
            if above:
                places.append(f"{panel.knob} {listed(above)}")
        seen.append(f"{title}: {', '.join(places) or 'nowhere'}")
    sentences = [
        "Gain of a linear head over the same head on video alone, by what the rendered sample is "
        "like (points).",
        dose_intervals(panels),
        dose_samples(panels),
        negative_control(panels),
        f"Surely above 0 are {'; '.join(seen)}.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def dose_intervals(panels: list[DosePanel]) -> str:
    """Return of how many samples the points of draw_dose are, and the unit of their intervals."""
    sizes: set[int] = set()
    of_one = []
    for panel in panels:
        levels = []
        for i, level in enumerate(panel.levels):
            counts = [curve[i]["samples"] for curve in panel.curves.values()]
            at_level = {int(count) for count in counts if count > 0}  # NaN where not measured
            sizes |= at_level
            if at_level == {1}:
                levels.append(level)
        if levels:
            of_one.append(f"{panel.knob} {listed(levels)}")
    over_one = "95 % intervals over its sources and trainings"
    if sizes == {1}:
        return f"Points are of one sample, lines {over_one}."
    several = sorted(sizes - {1})
    count = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
    text = (
        f"Filled points are means over {count} samples that differ in their seed, lines 95 % "
        "intervals over samples (Student's t), small dots the samples."
    )
    if of_one:
        text += f" Hollow points are of one sample, with {over_one}: {'; '.join(of_one)}."
    return text


def negative_control(panels: list[DosePanel]) -> str:
    """Return what gains in draw_dose where sound tells nothing; '' where that was not measured."""
    for panel in panels:
        if panel.knob == "cue" and float(panel.levels[0]) == 0:
            gaining = [
                title
                for name, (title, *_) in figures.DOSE_LINES.items()
                if name in panel.curves and panel.curves[name][0]["ci95_low"] > 0
            ]
            return (
                "At cue 0 sound tells nothing about the action, so that nothing may gain: surely "
                f"above 0 is {listed(gaining)}."
            )
    return ""


def dose_samples(panels: list[DosePanel]) -> str:
    """Return where samples differ most from each other in draw_dose; '' where there is one."""
    widest = 0.0
    text = ""
    for panel in panels:
        for name, by_level in panel.sample_gains.items():
            for level, gains in zip(panel.levels, by_level, strict=True):
                if len(gains) > 1 and max(gains) - min(gains) > widest:
                    widest = max(gains) - min(gains)
                    text = (
                        f"Samples differ most in {figures.DOSE_LINES[name][0]} at {panel.knob} "
                        f"{level}: from {100 * min(gains):+.1f} to {100 * max(gains):+.1f}."
                    )
    return text


def threshold(used: float, gains: FilterGains) -> str:
    """Return the caption of draw_threshold."""
    generated = ARCHITECTURES[SEMANTIC_VALIDATION].generated
    highest = max(estimate["mean"] for estimate in gains.by_threshold)
    return (
        f"What a threshold of the filter keeps, and what that gains over {BASELINE} on every clip "
        f"where {generated} answers for the clips that are kept (points; band: 95 % interval). At "
        f"the threshold used, {used:g}, it gains {points(gains.over_nothing)}; the highest gain "
        f"over all thresholds is {100 * highest:+.1f}."
    )


def similarity_over_time(curves: dict[str, dict[str, list[dict]]]) -> str:
    """Return the caption of draw_similarity_over_time."""
    seen = []
    for architecture, parts in curves.items():
        above = sum(estimate["ci95_low"] > 0 for estimate in parts["difference"])
        seen.append(
            f"{above} of {len(parts['difference'])} steps (architecture "
            f"{ARCHITECTURES[architecture].number})"
        )
    return (
        "Centred cosine of generated audio features with the real ones of their own clip, and of "
        "features generated for other clips of the same action (bands: 95 % intervals). By their "
        "whole interval, features fit their own clip better than those of another clip do at "
        f"{listed(seen)}."
    )


def confusion_difference(difference: pd.DataFrame) -> str:
    """Return the caption of draw_confusion_difference; difference: shares [true action, answer]."""
    text = (
        f"Answers of {UPPER_BOUND} minus answers of {BASELINE}, in points of each action's clips: "
        "what sound tells apart. On the diagonal are right answers, beside it confusions."
    )
    if difference.empty:
        return text
    # Pairs whose first action is answered less often as the second.
    cells = difference.stack()
    wrong = cells[[true != answer for true, answer in cells.index]]
    right = pd.Series({action: difference.loc[action, action] for action in difference.index})
    text += f" Most right answers are gained for {right.idxmax()} ({100 * right.max():+.0f} points)"
    if len(wrong):
        true, answer = wrong.idxmin()
        text += f"; {true} is less often taken for {answer} ({100 * wrong.min():+.0f})"
    return f"{text}."


def representative_frames(metrics: dict) -> str:
    """Return the caption of the stage's figure; metrics: metrics/representative_frames.json."""
    text = (
        "Frames in which more moves than the threshold times the clip's mean (outlined), their "
        "motion below, and the true events (triangles)."
    )
    measured = {
        name: figures
        for name, figures in metrics["thresholds"].items()
        if figures.get("event_recall") is not None
    }
    if measured:
        recalls = " / ".join(f"{100 * each['event_recall']:.0f}" for each in measured.values())
        chance = " / ".join(
            f"{100 * each['event_recall_random']:.0f}" for each in measured.values()
        )
        text += (
            f" At the thresholds {' / '.join(measured)}, {recalls} % of the events of all clips "
            f"but test lie at chosen frames; at as many frames drawn at random it is {chance} %."
        )
    return text


def mel(metrics: dict) -> str:
    """Return the caption of the stage's figure; metrics: metrics/label_predictor.json."""
    text = (
        "Log-mel spectrograms of test clips: the real sound, decoded from its features, and "
        "decoded from generated features."
    )
    test = metrics["test"]
    real = test.get("real_path_mel")  # of AST alone
    generated = test.get(f"{ARCHITECTURES[SEMANTIC_VALIDATION].generated}_mel")
    if real and generated:
        text += (
            " AST's labels of the real sound, found in what is decoded from real features: F1 "
            f"{number(real['f1'])}; from generated ones: {number(generated['f1'])}."
        )
    return text
