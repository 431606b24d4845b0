"""What the report's page shows first: the question, the answer in sentences, numbers and a figure.

All words follow the intervals of the run, so that they hold for any outcome.
"""

import numpy as np

from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND, Contrast
from audio_from_video.reporting import figures, tables
from audio_from_video.reporting.condition_groups import Groups
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import points, share
from audio_from_video.runtime.vocabulary import ARCHITECTURES, CAPTION_MAPPING, SEMANTIC_VALIDATION

QUESTION = (
    "Can audio features that are generated from the video stand in for missing sound? Does it help "
    "to check their meaning afterwards (architecture 1), or to build it in (architecture 2)?"
)

# The condition that stands for an architecture here: the first one's point is its filter.
STANDS_FOR = {
    SEMANTIC_VALIDATION: ARCHITECTURES[SEMANTIC_VALIDATION].filtered,
    CAPTION_MAPPING: ARCHITECTURES[CAPTION_MAPPING].generated,
}
HUES = {
    figures.BLACK: "black",
    figures.GREEN: "green",
    figures.PURPLE: "purple",
    figures.ORANGE: "orange",
    figures.VERMILION: "vermilion",
    figures.SKY: "sky",
    figures.BLUE: "blue",
    figures.GREY: "grey",
}
TICK_STEPS = (0.5, 1, 2, 5, 10, 20, 50)  # points between two ticks of the figure's axis
MOST_TICKS = 7


def best_without_sound(results: Results) -> str:
    """Return the condition of highest accuracy among those without real sound at test.

    Leaky ones and those that answer some clips only are left out.
    """
    candidates = without_sound(results)
    return max(candidates, key=lambda name: results.accuracy(name)["mean"] or 0)


def without_sound(results: Results) -> list[str]:
    """Return the conditions that could answer where sound is missing, the baseline among them."""
    names = []
    for name, settings in results.settings.items():
        if settings.audio_at_test != "real" and not settings.leaky and not settings.kept_only:
            names.append(name)
    return names


# ---- sentences ----


def sentences(results: Results) -> list[str]:
    """Return the answer: what real sound adds, what generated sound adds, what does best."""
    parts = [real_sound_sentence(results)]
    if any(name in results.figures for name in STANDS_FOR.values()):
        parts.append(generated_sound_sentence(results))
    if generated_contrasts(results):
        parts.append(same_head_sentence(results))
    return [*parts, best_sentence(results)]


def effect(difference: dict | None) -> str:
    """Return what a difference of accuracies does, with its interval."""
    if difference is None or difference["mean"] is None:
        return "shares no clips with it"
    figure = f"{points(difference)} points"
    if difference["ci95_low"] > 0:
        return f"adds {figure}"
    if difference["ci95_high"] < 0:
        return f"costs {figure}"
    return f"makes no difference that can be shown ({figure})"


def real_sound_sentence(results: Results) -> str:
    """Return what real sound adds to the baseline."""
    base = share(results.accuracy(BASELINE))
    return f"*Real sound* {effect(results.difference(UPPER_BOUND))} to the {base} % of video alone."


def generated_sound_sentence(results: Results) -> str:
    """Return what the sound of each architecture adds to the baseline."""
    parts = []
    for architecture, condition in STANDS_FOR.items():
        if condition in results.figures:
            number = ARCHITECTURES[architecture].number
            done = effect(results.difference(condition))
            parts.append(f"architecture {number} (`{condition}`) {done}")
    return f"*Generated sound*: {', '.join(parts)}."


def generated_contrasts(results: Results) -> list[Contrast]:
    """Return the comparisons of conditions with an architecture's sound (`report.contrasts`)."""
    kinds = {architecture.generated for architecture in ARCHITECTURES.values()}
    return [
        contrast
        for contrast in results.contrasts
        if results.settings[contrast.condition].test_audio in kinds
    ]


def same_head_sentence(results: Results) -> str:
    """Return what generated sound adds to the same classifier without it, and to a control."""
    parts = []
    for contrast in generated_contrasts(results):
        done = effect(contrast.difference)
        parts.append(f"`{contrast.condition}` against `{contrast.reference}` {done}")
    return f"*Compared with its like*: {'; '.join(parts)}."


def best_sentence(results: Results) -> str:
    """Return which condition does best without sound, and that it was picked."""
    best = best_without_sound(results)
    count = len(without_sound(results))
    accuracy = share(results.accuracy(best))
    if best == BASELINE:
        return f"*Without sound* none of {count} conditions is above video alone, {accuracy} %."
    return (
        f"*Without sound* `{best}` does best with {accuracy} %. Compared with video alone it "
        f"{effect(results.difference(best))}; its figure flatters, as it is picked as the highest "
        f"of {count}."
    )


# ---- numbers ----


def numbers_html(results: Results) -> str:
    """Return three large accuracies: video only, the best without sound, real sound."""
    tiles = {
        "Video only": BASELINE,
        "Best without sound": best_without_sound(results),
        "Real sound": UPPER_BOUND,
    }
    return "".join(number_html(title, name, results) for title, name in tiles.items())


def number_html(title: str, condition: str, results: Results) -> str:
    """Return a large accuracy with its interval, its condition and its difference."""
    accuracy = results.accuracy(condition)
    if accuracy["mean"] is None:
        return ""
    low, high = (f"{100 * accuracy[key]:.1f}" for key in ("ci95_low", "ci95_high"))
    name = tables.html_text(f"`{condition}`")
    return (
        f'<div class="number-tile {hue(condition)}"><dt>{title}<br>{name}</dt>'
        f"<dd><b>{100 * accuracy['mean']:.1f} %</b>"
        f'<span class="interval">[{low}, {high}]</span></dd></div>'
    )


def hue_name(condition: str) -> str:
    """Return the name of a condition's colour on the page."""
    return HUES[figures.colour_of(condition)]


def hue(condition: str) -> str:
    """Return the class that gives a condition its colour on the page."""
    return f"hue-{hue_name(condition)}"


# ---- the main figure ----


def differences_html(results: Results, groups: Groups) -> str:
    """Return the paired differences to the baseline as a table of dots and lines, by group.

    Drawn by elements of the page, as its letters stay readable at every width.
    """
    measured = {name: results.difference(name) for name in results.others}
    shown = {name: each for name, each in measured.items() if each and each["mean"] is not None}
    bounds = [100 * each[key] for each in shown.values() for key in ("ci95_low", "ci95_high")]
    low = min([0.0, *bounds])
    high = max([0.0, *bounds])
    margin = 0.03 * max(high - low, 1.0)
    scale = Scale(low - margin, high + margin)

    bodies = []
    for title, members in groups.items():
        lines = [
            difference_line(name, shown[name], scale, results.settings[name].leaky)
            for name in members
            if name in shown
        ]
        if lines:
            heading = (
                f'<tr class="group"><th colspan="3" scope="rowgroup">{tables.html_text(title)}'
            )
            bodies.append(f"<tbody>{heading}</th></tr>{''.join(lines)}</tbody>")
    return (
        '<table class="differences"><thead class="hidden"><tr><th scope="col">condition</th>'
        '<th scope="col">interval</th><th scope="col">difference, points</th></tr></thead>'
        f"{''.join(bodies)}<tfoot><tr><td></td><td>{axis_svg(scale)}</td><td></td></tr></tfoot>"
        "</table>"
    )


class Scale:
    """Where values between two ends lie, in per cent of the width."""

    def __init__(self, low: float, high: float):
        self.low = low
        self.high = high

    def at(self, value: float) -> str:
        """Return the place of a value."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def ticks(self) -> list[float]:
        """Return round values between the ends, MOST_TICKS at most."""
        span = self.high - self.low
        step = next((step for step in TICK_STEPS if span / step <= MOST_TICKS), TICK_STEPS[-1])
        first = np.ceil(self.low / step) * step
        return np.arange(first, self.high, step).tolist()


def difference_line(condition: str, difference: dict, scale: Scale, leaky: bool) -> str:
    """Return a condition's line: its name, its dot and interval, and its numbers."""
    mean, low, high = (scale.at(100 * difference[key]) for key in ("mean", "ci95_low", "ci95_high"))
    zero = scale.at(0)
    badge = ' <span class="badge">leaky</span>' if leaky else ""
    return (
        f'<tr class="{hue(condition)}"><th scope="row">{tables.html_text(f"`{condition}`")}{badge}'
        '</th><td><svg class="track" width="100%" height="18" aria-hidden="true">'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="18"/>'
        f'<line class="reach" x1="{low}" x2="{high}" y1="9" y2="9"/>'
        f'<circle class="{"hollow" if leaky else "dot"}" cx="{mean}" cy="9" r="4.5"/></svg></td>'
        f'<td class="number">{tables.html_text(points(difference))}</td></tr>'
    )


def tick_text(value: float) -> str:
    """Return a value of the axis with its sign."""
    return f"{value:+g}" if value else "0"


def axis_svg(scale: Scale) -> str:
    """Return the axis of the main figure."""
    marks = "".join(
        f'<line class="zero" x1="{scale.at(tick)}" x2="{scale.at(tick)}" y1="0" y2="4"/>'
        f'<text x="{scale.at(tick)}" y="17" text-anchor="middle">{tick_text(tick)}</text>'
        for tick in scale.ticks()
    )
    return f'<svg class="track" width="100%" height="20" aria-hidden="true">{marks}</svg>'
