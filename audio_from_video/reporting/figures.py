"""The figures of a paper: PNG and SVG, 3.4 in (a column) or 7 in (two) wide, letters of 7 points, the same bytes every time.

Colours: Okabe & Ito's, which colour-blind people tell apart (jfly.uni-koeln.de/color); lines also differ in their marks.
A function draws onto a `Figure`; `write` makes and stores it.  Accuracies come as fractions and are drawn in per cent.
"""

from collections.abc import Callable
from pathlib import Path

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from audio_from_video.runtime.vocabulary import ARCHITECTURES

COLUMN, TWO_COLUMNS, LINE = 3.4, 7.0, 9 / 72  # in; a line of text
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = (
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
)
COLOURS = (BLACK, SKY, PURPLE, ORANGE, VERMILION, BLUE, GREEN)
GREY = "#777777"
MARKS = "osD^vPX"
KINDS = {"none": GREY, "generated": VERMILION, "real": GREEN}  # of audio at test
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
DASHES = (0, (3, 2))
CLIPS = {"own": "of its own clip", "other": "of other clips of the action"}
CAPTIONS = {  # by name, in the order in which they are read
    "main_comparison": "Accuracy of every row, and its paired difference to video_only; lines: 95 % intervals over sources.",
    "missing_rates": "Accuracy where some test clips lack their audio: clips that have it give every row their real audio, also those "
    "that learned from generated audio.",
    "label_budget": "Accuracy by labelled training clips per action; generators learn from all audible clips throughout.",
    "threshold": "What a threshold of the filter keeps, and the accuracy of generated where it keeps, video_only where it rejects.",
    "similarity_over_time": "Generated audio features against the real ones of their own clip and of other clips of the action.",
    "confusion_difference": "Answers of real_audio minus answers of video_only: what sound tells apart.",
    "representative_frames": "Frames in which more moves than the threshold times the clip's mean, and the true events.",
    "mel": "Log-mel spectrograms of test clips: the real sound, decoded from its features, and decoded from generated features.",
}
SHOWN_ACTIONS = 24  # of more actions those whose rows change most


def write(folder: Path, name: str, size: tuple[float, float], draw: Callable, *content) -> None:
    """Draw a figure of `size` (width, height in inches) and write <name>.png and <name>.svg."""
    with matplotlib.style.context(["default", STYLE]):  # whatever a user's own matplotlibrc says
        figure = Figure(size, layout="constrained")
        draw(figure, *content)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def bounds(curve: list[dict], scale: float = 1) -> np.ndarray:
    """Figures as an array [3, K]: mean, low, high."""
    return scale * np.array(
        [[figure[key] for figure in curve] for key in ("mean", "ci95_low", "ci95_high")]
    )


def main_comparison(figure: Figure, rows: list[dict], baseline: str) -> None:
    """Accuracy of each row (name, kind, leaky, partial, accuracy, difference) and its paired difference to the baseline."""
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for axis, key in ((left, "accuracy"), (right, "difference")):
        for place, row in zip(places, rows, strict=True):
            if row[key] and row[key]["mean"] is not None:
                mean, low, high = bounds([row[key]], 100)[:, 0]
                face = "white" if row["leaky"] else KINDS[row["kind"]]
                axis.plot([low, high], [place, place], color=KINDS[row["kind"]], linewidth=1.2)
                axis.plot(
                    mean, place, "o", color=KINDS[row["kind"]], markerfacecolor=face, markersize=4
                )
        axis.grid(axis="y", color="#eeeeee", linewidth=0.6)
        axis.tick_params(axis="y", length=0)
        axis.set_axisbelow(True)
    reference = 100 * next(row["accuracy"]["mean"] for row in rows if row["name"] == baseline)
    left.axvline(reference, color=BLACK, linewidth=0.6, linestyle=DASHES, zorder=1)
    right.axvline(0, color=BLACK, linewidth=0.6, linestyle=DASHES, zorder=1)
    left.set_yticks(places, [row["name"] + " (kept clips only)" * row["partial"] for row in rows])
    left.set_xlabel("accuracy (%)")
    right.set_xlabel(f"minus {baseline}, same clips (points)")
    names = {"none": "no audio at test", "generated": "audio from the video", "real": "real audio"}
    handles = [left.plot([], [], "o-", color=colour, markersize=4)[0] for colour in KINDS.values()]
    hollow = left.plot([], [], "o", color=GREY, markerfacecolor="white", markersize=4)[0]
    figure.legend(
        [*handles, hollow],
        [*names.values(), "leaky: knows the true action"],
        ncols=4,
        loc="outside upper center",
    )


def curves(
    figure: Figure, ticks: list[str], lines: dict[str, list[dict]], x_label: str, order: list[str]
) -> None:
    """Accuracies of conditions over the ticks of an axis, named at their ends; the lines stand apart so that intervals are seen.

    order: names in the order of their colours, so that a condition has the same one in every figure.
    """
    axis = figure.subplots()
    apart = 0.4 / len(lines)
    ends = []
    for i, (name, curve) in enumerate(lines.items()):
        mean, low, high = bounds(curve, 100)
        style = order.index(name) % len(COLOURS)
        axis.errorbar(
            np.arange(len(ticks)) + apart * (i - (len(lines) - 1) / 2),
            mean,
            (mean - low, high - mean),
            color=COLOURS[style],
            marker=MARKS[style],
            ecolor=(COLOURS[style], 0.6),
            elinewidth=0.6,
            linewidth=0.8,
        )
        ends.append(mean[-1])
    axis.set_xticks(np.arange(len(ticks)), ticks)
    axis.set_xlabel(x_label)
    axis.set_ylabel("accuracy (%)")
    label_ends(
        axis,
        [(name, COLOURS[order.index(name) % len(COLOURS)]) for name in lines],
        ends,
        [len(ticks) - 0.65] * len(ends),
    )


def label_ends(axis, labels: list[tuple[str, str]], ends: list[float], places: list[float]) -> None:
    """Write labels (text, colour) right of lines that end at (place, end), with room between them."""
    low, high = axis.get_ylim()
    figure = axis.get_figure()
    line = (
        (high - low) * LINE / (0.8 * figure.get_figheight() / len(figure.axes))
    )  # in units of the axis, which are below one another
    for (text, colour), x, y in zip(labels, places, spread(ends, line), strict=True):
        axis.annotate(text, (x, y), color=colour, va="center", annotation_clip=False)


def spread(places: list[float], gap: float) -> list[float]:
    """Places for labels, near those given and at least `gap` apart."""
    order = np.argsort(places, kind="stable")
    found = np.array(places, float)[order]
    for _ in range(200):
        close = np.maximum(gap - np.diff(found), 0) / 2
        found[1:] += close
        found[:-1] -= close
    return found[np.argsort(order, kind="stable")].tolist()


def threshold(figure: Figure, sweep: pd.DataFrame, chosen: float) -> None:
    """The filter's threshold: what is kept and how well it is chosen, and what becomes of accuracy."""
    sweep = sweep[sweep.threshold >= 0]
    upper, lower = figure.subplots(2, 1, sharex=True)
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
    for axis, series, label in ((upper, clips, "share (%)"), (lower, accuracy, "accuracy (%)")):
        drawn = [(100 * sweep.set_index("threshold")[name]).dropna() for name in series]
        for values, (_, colour) in zip(drawn, series.values(), strict=True):
            axis.plot(values.index, values, color=colour)
        axis.axvline(chosen, color=BLACK, linewidth=0.6, linestyle=DASHES)
        axis.set_ylabel(label)
        label_ends(
            axis,
            list(series.values()),
            [values.iloc[-1] for values in drawn],
            [values.index[-1] + 0.04 for values in drawn],
        )
    lower.set_xlim(-0.02, 1.02)
    upper.annotate(
        f"chosen: {chosen:g}",
        (chosen, 1),
        (0, 2),
        ("data", "axes fraction"),
        "offset points",
        ha="center",
        va="bottom",
    )
    lower.set_xlabel("threshold of the filter")


def similarity_over_time(figure: Figure, found: dict[str, dict[str, list[dict]]]) -> None:
    """Cosine of generated to real features per time step: of the own clip and of others, and their paired difference.

    found: architecture -> own, other, difference -> curve.
    """
    axes = figure.subplots(2, len(found), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (architecture, parts) in zip(axes.T, found.items(), strict=True):
        for axis, kind, colour in (
            (upper, "own", VERMILION),
            (upper, "other", GREY),
            (lower, "difference", VERMILION),
        ):
            mean, low, high = bounds(parts[kind])
            steps = np.arange(1, len(mean) + 1)
            axis.plot(
                steps,
                mean,
                color=colour,
                linestyle=DASHES if kind == "other" else "-",
                label=CLIPS.get(kind),
            )
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        lower.axhline(0, color=BLACK, linewidth=0.6)
        upper.set_title(ARCHITECTURES[architecture].title)
        lower.set_xlabel("time step")
    axes[0, 0].set_ylabel("centred cosine")
    axes[1, 0].set_ylabel("difference")
    figure.align_ylabels(axes[:, 0])
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=2, loc="outside upper center")


def confusion_difference(figure: Figure, difference: pd.DataFrame, title: str) -> None:
    """Change of the answers' shares [true action, answer], in points."""
    changed = difference.abs().sum(axis=1) + difference.abs().sum(axis=0)
    kept = set(changed.nlargest(SHOWN_ACTIONS).index)
    shown = [action for action in difference.index if action in kept]
    values = 100 * difference.loc[shown, shown].to_numpy()
    axis = figure.subplots()
    limit = max(1.0, float(np.abs(values).max()))
    image = axis.imshow(values, cmap="PuOr", vmin=-limit, vmax=limit)
    axis.set_xticks(range(len(shown)), shown, rotation=90)
    axis.set_yticks(range(len(shown)), shown)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("answer")
    axis.set_ylabel("true action")
    figure.colorbar(image, ax=axis, shrink=0.8, aspect=30).set_label(title)
