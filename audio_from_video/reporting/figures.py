"""The figures of a paper: PNG and SVG, 3.4 in (a column) or 7 in (two) wide, letters of 7 points.

They have the same bytes every time.  Colours are Okabe & Ito's, which colour-blind people tell
apart (jfly.uni-koeln.de/color).  A `draw_` function draws onto a `Figure`; `save_figure` makes and
stores it.  Accuracies come as fractions; per cent are drawn.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audio_from_video.evaluation.curves import DosePanel
from audio_from_video.evaluation.filter_gains import FilterGains
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting.condition_groups import Groups
from audio_from_video.reporting.results import Results
from audio_from_video.runtime.vocabulary import (
    ARCHITECTURES,
    CAPTION_MAPPING,
    SEMANTIC_VALIDATION,
)

# Widths, and the height of a line of text, in inches.
COLUMN = 3.4
TWO_COLUMNS = 7.0
TEXT_LINE = 9 / 72

BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#777777"
LIGHT_GREY = "#eeeeee"
DASHES = (0, (3, 2))

# A condition has the same colour in every figure and on the page; all others are grey.
CONDITION_COLOURS = {
    BASELINE: BLACK,
    UPPER_BOUND: GREEN,
    "distillation": PURPLE,
    ARCHITECTURES[SEMANTIC_VALIDATION].generated: ORANGE,
    ARCHITECTURES[SEMANTIC_VALIDATION].filtered: VERMILION,
    ARCHITECTURES[CAPTION_MAPPING].generated: SKY,
    ARCHITECTURES[CAPTION_MAPPING].filtered: BLUE,
}

# Lines of `draw_dose`: a condition's title, colour and style.  Linear heads have the colours of
# their LSTMs; controls are grey.
DOSE_LINES = {
    "logistic_real": ("real sound", GREEN, "-"),
    "logistic_generated": ("sound of architecture 1", ORANGE, "-"),
    "logistic_mapped": ("sound of architecture 2", SKY, "-"),
    "logistic_distillation": ("teacher that hears", PURPLE, "-"),
    "logistic_shuffled": ("control: sound of other clips", GREY, "-"),
    "logistic_self_training": ("control: teacher that does not hear", GREY, ":"),
}
KNOBS = {
    "labelled_looks": "share of looks that are labelled",
    "cue": "clips that hear what they show (share)",
    "unlabelled_per_action": "unlabelled clips per action",
}

STYLE = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.0,
    "lines.markersize": 2.5,
    "legend.frameon": False,
    "savefig.dpi": 300,
    "svg.hashsalt": "report",
    "text.parse_math": False,  # names may hold a $
}

SHOWN_ACTIONS = 24  # of more actions those whose answers change most
PANELS_PER_ROW = 6  # of conditions' curves
PANEL_IN = 1.45  # height of such a row


def save_figure(
    folder: Path, name: str, size_in: tuple[float, float], draw: Callable[..., None], *content
) -> None:
    """Draw a figure and write <name>.png and <name>.svg.

    size_in: width and height in inches.  draw: takes a `Figure` and the content.
    """
    # Whatever a user's own matplotlibrc says.
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(size_in, layout="constrained")
        draw(figure, *content)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def bounds(curve: list[dict], scale: float = 1) -> np.ndarray:
    """Return estimates as an array [3, K]: mean, low, high."""
    keys = ("mean", "ci95_low", "ci95_high")
    by_key = [[estimate[key] for estimate in curve] for key in keys]
    return scale * np.array(by_key)


# ---- conditions ----


def colour_of(condition: str) -> str:
    """Return the colour of a condition."""
    return CONDITION_COLOURS.get(condition, GREY)


def draw_main_comparison(figure: Figure, results: Results, groups: Groups) -> None:
    """Draw the accuracy of each condition and its paired difference to the baseline, by group."""
    left, right = figure.subplots(1, 2, sharey=True)
    labels: list[str] = []
    titles: set[int] = set()  # lines with the name of a group
    for title, members in groups.items():
        titles.add(len(labels))
        labels.append(title)
        for name in members:
            draw_condition(left, right, results, name, len(labels))
            labels.append(name)
    left.axvline(
        100 * results.accuracy(BASELINE)["mean"], color=BLACK, linewidth=0.6, linestyle=DASHES
    )
    right.axvline(0, color=BLACK, linewidth=0.6, linestyle=DASHES)
    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.set_axisbelow(True)
        for place in set(range(len(labels))) - titles:
            axis.axhline(place, color=LIGHT_GREY, linewidth=0.6, zorder=0)
    left.set_yticks(range(len(labels)), labels)
    for place, label in enumerate(left.get_yticklabels()):
        if place in titles:
            label.set_fontweight("bold")
    left.set_ylim(len(labels) - 0.3, -0.7)  # from above
    left.set_xlabel("accuracy (%)")
    right.set_xlabel(f"minus {BASELINE}, same clips (points)")
    if any(settings.leaky for settings in results.settings.values()):
        # An empty line that only the legend shows.
        handle = left.plot([], [], "o", color=GREY, markerfacecolor="white", markersize=4)
        figure.legend(handle, ["leaky: knows the true action"], loc="outside upper right")


def draw_condition(left: Axes, right: Axes, results: Results, name: str, place: float) -> None:
    """Draw a condition's accuracy and its difference to the baseline, where it has them."""
    for axis, value in ((left, results.accuracy(name)), (right, results.difference(name))):
        if value and value["mean"] is not None:
            hollow = results.settings[name].leaky
            draw_estimate(axis, place, value, colour_of(name), hollow)


def draw_estimate(axis: Axes, place: float, value: dict, colour: str, hollow: bool) -> None:
    """Draw an estimate as a dot on the line of its interval, in per cent."""
    mean, low, high = bounds([value], 100)[:, 0]
    face = "white" if hollow else colour
    axis.plot([low, high], [place, place], color=colour, linewidth=1.2)
    axis.plot(mean, place, "o", color=colour, markerfacecolor=face, markersize=4)


def curves_size(conditions: int) -> tuple[float, float]:
    """Return width and height of `draw_curves` in inches."""
    rows = -(-conditions // PANELS_PER_ROW)  # rounded up
    return TWO_COLUMNS, 0.35 + PANEL_IN * max(rows, 1)


def draw_curves(
    figure: Figure,
    ticks: list[str],
    curves: dict[str, list[dict]],
    x_label: str,
    title: str = "",
) -> None:
    """Draw paired differences to the baseline over the ticks of an axis, a panel per condition.

    curves: estimates at the ticks by condition.  title: says that they are of another run.
    """
    if title:
        figure.suptitle(title)
    columns = min(len(curves), PANELS_PER_ROW)
    rows = -(-len(curves) // columns)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    places = np.arange(len(ticks))
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=False):
        mean, low, high = bounds(curve, 100)
        colour = colour_of(name)
        axis.axhline(0, color=BLACK, linewidth=0.6, linestyle=DASHES)
        axis.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.plot(places, mean, "o-", color=colour)
        axis.set_title(name, color=colour, fontweight="bold")
        axis.set_xticks(places, ticks)
    for axis in list(axes.flat)[len(curves) :]:
        axis.set_visible(False)
    figure.supxlabel(x_label, fontsize=STYLE["font.size"])
    figure.supylabel(f"minus {BASELINE} (points)", fontsize=STYLE["font.size"])


def draw_dose(figure: Figure, panels: list[DosePanel], title: str = "") -> None:
    """Draw gains over the levels of each knob of the sample, a panel per knob.

    Filled points are means over samples, beside the samples as small dots; hollow ones are of one
    sample.  title: says that they are of another run.
    """
    if title:
        figure.suptitle(title)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        places = np.arange(len(panel.levels))
        shown = [name for name in DOSE_LINES if name in panel.curves]
        axis.axhline(0, color=BLACK, linewidth=0.6, linestyle=DASHES)
        for number, name in enumerate(shown):
            # Beside each other, so that no interval hides another one.
            beside = places + 0.11 * (number - (len(shown) - 1) / 2)
            draw_gains(axis, beside, panel.curves[name], name)
            for place, gains in zip(beside, panel.sample_gains[name], strict=True):
                if len(gains) > 1:
                    draw_sample_gains(axis, place + 0.045, gains, name)
        axis.set_xticks(places, panel.levels)
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.set_xlabel(KNOBS.get(panel.knob, panel.knob))
    axes[0].set_ylabel("minus the head without sound (points)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=3, loc="outside lower center")


def draw_gains(axis: Axes, places: np.ndarray, curve: list[dict], name: str) -> None:
    """Draw estimates of gains at places, joined by a line."""
    label, colour, style = DOSE_LINES[name]
    mean, low, high = bounds(curve, 100)
    of_one = np.array([estimate["samples"] == 1 for estimate in curve])
    axis.vlines(places, low, high, color=colour, linewidth=0.8)
    axis.plot(places, mean, "o", linestyle=style, color=colour, label=label)
    axis.plot(places[of_one], mean[of_one], "o", color=colour, markerfacecolor="white")


def draw_sample_gains(axis: Axes, place: float, gains: list[float], name: str) -> None:
    """Draw the gains of single samples as dots."""
    _, colour, _ = DOSE_LINES[name]
    values = 100 * np.array(gains)
    axis.plot(np.full(len(values), place), values, ".", color=colour, markersize=1.5)


def label_ends(
    axis: Axes, labels: list[tuple[str, str]], ends: list[float], places: list[float]
) -> None:
    """Write labels (text, colour) right of lines that end at (place, end), at a distance."""
    low, high = axis.get_ylim()
    figure = axis.get_figure()
    # The height of a line of text in units of the axis; axes stand below one another.
    axis_height_in = 0.8 * figure.get_figheight() / len(figure.axes)
    gap = (high - low) * TEXT_LINE / axis_height_in
    for (text, colour), x, y in zip(labels, places, spread(ends, gap), strict=True):
        axis.annotate(text, (x, y), color=colour, va="center", annotation_clip=False)


def spread(places: list[float], gap: float) -> list[float]:
    """Return places for labels, near those given and at least `gap` apart."""
    order = np.argsort(places, kind="stable")
    moved = np.array(places, float)[order]
    for _ in range(200):
        push = np.maximum(gap - np.diff(moved), 0) / 2
        moved[1:] += push
        moved[:-1] -= push
    return moved[np.argsort(order, kind="stable")].tolist()


# ---- filter, generators and answers ----


def draw_threshold(figure: Figure, sweep: pd.DataFrame, used: float, gains: FilterGains) -> None:
    """Draw what the filter keeps over its threshold, and its gain over keeping nothing.

    sweep: evaluation/filter.py.  used: the threshold that the filter used.  gains: at the sweep's
    thresholds.
    """
    upper, lower = figure.subplots(2, 1, sharex=True)
    shown = (sweep.threshold >= 0).to_numpy()
    thresholds = sweep.threshold[shown].to_numpy()
    shares = {"kept_fraction": BLACK, "precision": BLUE, "recall": PURPLE}
    labels = []
    ends = []
    places = []
    for column, colour in shares.items():
        values = 100 * sweep[column][shown].to_numpy()
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):  # recall where no clip's audio fits
            continue
        upper.plot(thresholds, values, color=colour)
        labels.append((column.removesuffix("_fraction"), colour))
        last = known[-1]
        ends.append(values[last])
        places.append(thresholds[last] + 0.04)
    label_ends(upper, labels, ends, places)
    upper.set_ylabel("share of clips (%)")

    mean, low, high = bounds(gains.by_threshold, 100)[:, shown]
    at_random = 100 * np.array(gains.random_by_threshold)[shown]
    colour = CONDITION_COLOURS[ARCHITECTURES[SEMANTIC_VALIDATION].filtered]
    lower.axhline(0, color=BLACK, linewidth=0.6, linestyle=DASHES)
    lower.fill_between(thresholds, low, high, color=colour, alpha=0.2, linewidth=0)
    lower.plot(thresholds, mean, color=colour, label="this filter")
    lower.plot(thresholds, at_random, color=GREY, linestyle=":", label="keeps as many at random")
    lower.legend(loc="upper right")
    lower.set_ylabel(f"minus {BASELINE} (points)")
    lower.set_xlim(-0.02, 1.02)
    lower.set_xlabel("threshold of the filter (cosine)")
    for axis in (upper, lower):
        axis.axvline(used, color=BLACK, linewidth=0.6, linestyle=DASHES)
    upper.annotate(
        f"used: {used:g}",
        (used, 1),
        (0, 2),
        ("data", "axes fraction"),
        "offset points",
        ha="center",
        va="bottom",
    )


def draw_similarity_over_time(figure: Figure, curves: dict[str, dict[str, list[dict]]]) -> None:
    """Draw the cosine of generated to real features by time step.

    curves: by architecture `own` (to the own clip), `other` (to other clips) and `difference`.
    """
    axes = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (architecture, parts) in zip(axes.T, curves.items(), strict=True):
        own_colour = CONDITION_COLOURS[ARCHITECTURES[architecture].generated]
        lines = (
            (upper, "own", own_colour),
            (upper, "other", GREY),
            (lower, "difference", own_colour),
        )
        for axis, part, colour in lines:
            mean, low, high = bounds(parts[part])
            steps = np.arange(len(mean))
            line_style = DASHES if part == "other" else "-"
            axis.plot(steps, mean, color=colour, linestyle=line_style)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        lower.axhline(0, color=BLACK, linewidth=0.6)
        upper.set_title(ARCHITECTURES[architecture].title)
        lower.set_xlabel("time step (from 0)")
    axes[0, 0].set_ylabel("centred cosine")
    axes[1, 0].set_ylabel("difference")
    figure.align_ylabels(axes[:, 0])
    # Empty lines that only the legend shows: the colours are those of the architectures.
    handles = axes[0, 0].plot([], [], color=BLACK)
    handles += axes[0, 0].plot([], [], color=GREY, linestyle=DASHES)
    titles = ["to the sound of its own clip", "of other clips of the action"]
    figure.legend(handles, titles, ncols=2, loc="outside upper center")


def draw_confusion_difference(figure: Figure, difference: pd.DataFrame, title: str) -> None:
    """Draw the change of the answers' shares [true action, answer] with its numbers, in points."""
    change = difference.abs().sum(axis=1) + difference.abs().sum(axis=0)
    most_changed = set(change.nlargest(SHOWN_ACTIONS).index)
    actions = [action for action in difference.index if action in most_changed]
    values = 100 * difference.loc[actions, actions].to_numpy()
    limit = max(1.0, float(np.abs(values).max()))

    axis = figure.subplots()
    image = axis.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit)
    axis.set_xticks(range(len(actions)), actions, rotation=90)
    axis.set_yticks(range(len(actions)), actions)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("answer")
    axis.set_ylabel("true action")
    for row, column in zip(*np.nonzero(np.abs(values) >= 0.5), strict=True):
        value = values[row, column]
        ink = "white" if abs(value) > 0.6 * limit else BLACK
        axis.text(column, row, f"{value:+.0f}", ha="center", va="center", color=ink)
    figure.colorbar(image, ax=axis, shrink=0.8, aspect=30).set_label(title)
