"""What the report's page says and shows of the filter's thresholds."""

import json
from collections.abc import Iterator

import pandas as pd

from audio_from_video.evaluation.filter_gains import FilterGains, filter_gains
from audio_from_video.evaluation.rows import BASELINE
from audio_from_video.reporting import clip_browser, tables
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import points, share
from audio_from_video.runtime.vocabulary import ARCHITECTURES, Architecture
from audio_from_video.storage import layout


def swept() -> Iterator[tuple[Architecture, pd.DataFrame, FilterGains | None]]:
    """Yield each architecture that has a sweep, with the sweep and what the filter gains there."""
    for name, architecture in ARCHITECTURES.items():
        path = layout.filter_sweep(name)
        if path.is_file():
            sweep = pd.read_csv(path)
            yield architecture, sweep, filter_gains(name, sweep.threshold.to_numpy())


def sweeps() -> dict:
    """Return the sweep over the filter's threshold of each architecture that has one.

    By architecture: the condition that takes all of its generated audio, the threshold that the
    filter used (None where it has no metrics), and the figures at each threshold; among them
    `gain`, `gain_low` and `gain_high` over keeping nothing and `random_gain` of keeping as many
    clips at random, where the filter's decisions are there.
    """
    path = layout.metrics("filter")
    filter_metrics = json.loads(path.read_text()) if path.is_file() else {}
    found = {}
    for architecture, sweep, gains in swept():
        if gains:
            estimates = gains.by_threshold
            sweep["gain"] = [estimate["mean"] for estimate in estimates]
            sweep["gain_low"] = [estimate["ci95_low"] for estimate in estimates]
            sweep["gain_high"] = [estimate["ci95_high"] for estimate in estimates]
            sweep["random_gain"] = gains.random_by_threshold
        steps = []
        for step in sweep.to_dict("records"):
            steps.append({key: clip_browser.rounded(value, 6) for key, value in step.items()})
        found[architecture.name] = {
            "condition": architecture.generated,
            "chosen": filter_metrics.get(architecture.name, {}).get("threshold"),
            "steps": steps,
        }
    return found


def findings_html(results: Results) -> str:
    """Return what the thresholds show, a list for each architecture whose filter has run."""
    parts = []
    for architecture, _, gains in swept():
        if gains:
            title = tables.html_text(f"Architecture {architecture.title}")
            sentences = findings(architecture, gains, results)
            items = "".join(f"<li>{tables.html_text(sentence)}</li>" for sentence in sentences)
            parts.append(f"<div><h3>{title}</h3><ul>{items}</ul></div>")
    return "".join(parts)


def findings(architecture: Architecture, gains: FilterGains, results: Results) -> list[str]:
    """Return sentences: the filter against nothing, random and all, and against the main table."""
    sentences = [
        f"At the threshold used, {share(gains.accuracy)} % of the test clips are answered right.",
        comparison("Keeping nothing", gains.over_nothing),
        comparison("Keeping as many clips at random", gains.over_random),
        comparison("Keeping everything", gains.over_all),
    ]
    if architecture.filtered in results.figures:
        trained = share(results.accuracy(architecture.filtered))
        sentences.append(
            f"The main table has {trained} % for `{architecture.filtered}`, which is something "
            "else: that classifier is trained on filtered audio. Here nothing is trained: "
            f"`{architecture.generated}` answers where the audio is kept, `{BASELINE}` where it is "
            "rejected."
        )
    return sentences


def comparison(other: str, gain: dict) -> str:
    """Return whether something else does better than the filter, and by how much.

    gain: of the filter over it, in fractions.
    """
    if gain["mean"] == 0:
        return f"{other} does as well as the filter."
    verdict = "better" if gain["mean"] < 0 else "worse"
    reverse = {
        "mean": -gain["mean"],
        "ci95_low": -gain["ci95_high"],
        "ci95_high": -gain["ci95_low"],
    }
    chance = reverse["ci95_low"] <= 0 <= reverse["ci95_high"]
    doubt = ", which may be chance" if chance else ""
    return f"{other} does {verdict} than the filter: {points(reverse)} points{doubt}."
