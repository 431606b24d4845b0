"""The figures of a paper: PNG and SVG, 3.4 in (a column) or 7 in (two) wide, letters of 7 points.

They have the same bytes every time.  Colours are Okabe & Ito's, which colour-blind people tell
apart (jfly.uni-koeln.de/color); lines also differ in their marks.  A `draw_` function draws onto a
`Figure`; `save_figure` makes and stores it.  Accuracies come as fractions; per cent are drawn.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.reporting.results import Results
from audio_from_video.runtime.vocabulary import ARCHITECTURES

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
COLOURS = (BLACK, SKY, PURPLE, ORANGE, VERMILION, BLUE, GREEN)
MARKS = "osD^vPX"
DASHES = (0, (3, 2))

# By where a test clip's audio comes from.
AUDIO_COLOURS = {"none": GREY, "generated": VERMILION, "real": GREEN}
AUDIO_TITLES = {
    "none": "no audio at test",
    "generated": "audio from the video",
    "real": "real audio",
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

# By name, in the order in which they are read.
CAPTIONS = {
    "main_comparison": (
        "Accuracy of every condition, and its paired difference to video_only; lines: 95 % "
        "intervals over sources."
    ),
    "missing_rates": (
        "Accuracy where some test clips lack their audio: clips that have it give every condition "
        "their real audio, also those that learned from generated audio."
    ),
    "label_budget": (
        "Accuracy by labelled training clips per action; generators learn from all audible clips "
        "throughout."
    ),
    "threshold": (
        "What a threshold of the filter keeps, and the accuracy of generated where it keeps, "
        "video_only where it rejects."
    ),
    "similarity_over_time": (
        "Generated audio features against the real ones of their own clip and of other clips of "
        "the action."
    ),
    "confusion_difference": (
        "Answers of real_audio minus answers of video_only: what sound tells apart."
    ),
    "representative_frames": (
        "Frames in which more moves than the threshold times the clip's mean, and the true events."
    ),
    "mel": (
        "Log-mel spectrograms of test clips: the real sound, decoded from its features, and "
        "decoded from generated features."
    ),
}
SHOWN_ACTIONS = 24  # of more actions those whose answers change most


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


def draw_main_comparison(figure: Figure, results: Results) -> None:
    """Draw the accuracy of each condition and its paired difference to the baseline."""
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(results.figures))[::-1]
    for axis in (left, right):
        for place, name in zip(places, results.figures, strict=True):
            value = results.accuracy(name) if axis is left else results.difference(name)
            if value and value["mean"] is not None:
                settings = results.settings[name]
                colour = AUDIO_COLOURS[settings.audio_at_test]
                draw_estimate(axis, place, value, colour, hollow=settings.leaky)
        axis.grid(axis="y", color=LIGHT_GREY, linewidth=0.6)
        axis.tick_params(axis="y", length=0)
        axis.set_axisbelow(True)

    reference = 100 * results.accuracy(BASELINE)["mean"]
    left.axvline(reference, color=BLACK, linewidth=0.6, linestyle=DASHES, zorder=1)
    right.axvline(0, color=BLACK, linewidth=0.6, linestyle=DASHES, zorder=1)
    labels = []
    for name in results.figures:
        suffix = " (kept clips only)" if results.settings[name].kept_only else ""
        labels.append(name + suffix)
    left.set_yticks(places, labels)
    left.set_xlabel("accuracy (%)")
    right.set_xlabel(f"minus {BASELINE}, same clips (points)")

    # Empty lines that only the legend shows.
    handles = []
    for colour in AUDIO_COLOURS.values():
        handles += left.plot([], [], "o-", color=colour, markersize=4)
    handles += left.plot([], [], "o", color=GREY, markerfacecolor="white", markersize=4)
    titles = [*AUDIO_TITLES.values(), "leaky: knows the true action"]
    figure.legend(handles, titles, ncols=4, loc="outside upper center")


def draw_estimate(axis: Axes, place: float, value: dict, colour: str, hollow: bool) -> None:
    """Draw an estimate as a dot on the line of its interval, in per cent."""
    mean, low, high = bounds([value], 100)[:, 0]
    face = "white" if hollow else colour
    axis.plot([low, high], [place, place], color=colour, linewidth=1.2)
    axis.plot(mean, place, "o", color=colour, markerfacecolor=face, markersize=4)


def draw_curves(
    figure: Figure, ticks: list[str], curves: dict[str, list[dict]], x_label: str, order: list[str]
) -> None:
    """Draw accuracies of conditions over the ticks of an axis, with the names at their ends.

    The lines stand apart so that intervals are seen.  curves: estimates at the ticks by condition.
    order: names in the order of their colours, so that a condition has the same in every figure.
    """
    axis = figure.subplots()
    apart = 0.4 / len(curves)
    middle = (len(curves) - 1) / 2
    ends = []
    labels = []
    for i, (name, curve) in enumerate(curves.items()):
        mean, low, high = bounds(curve, 100)
        style = order.index(name) % len(COLOURS)
        colour = COLOURS[style]
        axis.errorbar(
            np.arange(len(ticks)) + apart * (i - middle),
            mean,
            (mean - low, high - mean),
            color=colour,
            marker=MARKS[style],
            ecolor=(colour, 0.6),
            elinewidth=0.6,
            linewidth=0.8,
        )
        ends.append(mean[-1])
        labels.append((name, colour))
    axis.set_xticks(np.arange(len(ticks)), ticks)
    axis.set_xlabel(x_label)
    axis.set_ylabel("accuracy (%)")
    label_ends(axis, labels, ends, [len(ticks) - 0.65] * len(ends))


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


def draw_threshold(figure: Figure, sweep: pd.DataFrame, used: float) -> None:
    """Draw what the filter keeps over its threshold, and what becomes of accuracy.

    sweep: evaluation/filter.py.  used: the threshold that the filter used.
    """
    by_threshold = sweep[sweep.threshold >= 0].set_index("threshold")
    clips = {
        "kept_fraction": ("kept", BLACK),
        "precision": ("precision", BLUE),
        "recall": ("recall", ORANGE),
    }
    accuracy = {
        "random_clips_accuracy": ("test, random", GREY),
        "test_accuracy": ("test", VERMILION),
        "validation_accuracy": ("validation", SKY),
    }
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axis, series, label in ((upper, clips, "share (%)"), (lower, accuracy, "accuracy (%)")):
        ends = []
        places = []
        for column, (_, colour) in series.items():
            values = (100 * by_threshold[column]).dropna()
            axis.plot(values.index, values, color=colour)
            ends.append(values.iloc[-1])
            places.append(values.index[-1] + 0.04)
        axis.axvline(used, color=BLACK, linewidth=0.6, linestyle=DASHES)
        axis.set_ylabel(label)
        label_ends(axis, list(series.values()), ends, places)
    lower.set_xlim(-0.02, 1.02)
    lower.set_xlabel("threshold of the filter")
    upper.annotate(
        f"chosen: {used:g}",
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
    titles = {"own": "of its own clip", "other": "of other clips of the action"}
    axes = figure.subplots(2, len(curves), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (architecture, parts) in zip(axes.T, curves.items(), strict=True):
        lines = (
            (upper, "own", VERMILION),
            (upper, "other", GREY),
            (lower, "difference", VERMILION),
        )
        for axis, part, colour in lines:
            mean, low, high = bounds(parts[part])
            steps = np.arange(1, len(mean) + 1)
            line_style = DASHES if part == "other" else "-"
            axis.plot(steps, mean, color=colour, linestyle=line_style, label=titles.get(part))
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        lower.axhline(0, color=BLACK, linewidth=0.6)
        upper.set_title(ARCHITECTURES[architecture].title)
        lower.set_xlabel("time step")
    axes[0, 0].set_ylabel("centred cosine")
    axes[1, 0].set_ylabel("difference")
    figure.align_ylabels(axes[:, 0])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, ncols=2, loc="outside upper center")


def draw_confusion_difference(figure: Figure, difference: pd.DataFrame, title: str) -> None:
    """Draw the change of the answers' shares [true action, answer], in points."""
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
    figure.colorbar(image, ax=axis, shrink=0.8, aspect=30).set_label(title)
