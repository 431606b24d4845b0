"""The results in Markdown: docs/results.md, which the README links to, and the README's own table.

All figures are those of the run, but for the confirmatory run's, which stand behind a banner that
says so (stamps.py).  The words hold for any outcome: where an interval contains 0, a
sentence says that no difference can be shown.
"""

from pathlib import Path

from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting import row_tables, tables
from audio_from_video.reporting.provenance import RUN_HEADING, Provenance
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import P_VALUE, Content, number, points, share
from audio_from_video.runtime.vocabulary import ARCHITECTURES

# Conditions of the table in the README, in its order.
README_CONDITIONS = (
    "video_only",
    "real_audio",
    "validated",
    "mapped_validated",
    "logistic",
    "logistic_real",
    "logistic_generated",
    "logistic_mapped",
    "logistic_shuffled",
)
# Conditions whose fall over missing rates is told: one without generated audio beside the bound.
MISSING_RATE_CONDITIONS = ("real_audio", "missing_token")

HEAD = """# Results

`python -m stages.report` writes this page from the figures of the last run. Do not edit it.

Does generated audio help a video classifier when the sound is missing?
Does meaning help more, checked afterwards (architecture 1, `semantic_validation`) or built in
(architecture 2, `caption_mapping`)?"""


def results_markdown(
    results: Results,
    confirmed: dict[tuple[str, str], dict],
    figure_captions: dict[str, str],
    run: Provenance,
) -> str:
    """Return docs/results.md.

    confirmed: estimates of the confirmatory run (row_tables.confirmation_estimates), {} without.
    figure_captions: of the figures in metrics/figures/report, by name.
    run: which run the figures are of.
    """
    main = row_tables.main_table(results)
    parts = [
        HEAD,
        row_tables.introduction(results),
        "## Main table",
        tables.grid(main.header, main.rows),
        main.below,
        "## Real audio",
        real_audio_paragraph(results),
        "## Generated audio",
        generated_audio_paragraph(results),
    ]
    if results.contrasts:
        parts += ["## Compared with other conditions", contrast_paragraph(results)]
    parts += ["## Missing rates", missing_rate_paragraph(results)]
    leaky = leaky_paragraph(results)
    if leaky:
        parts += ["## Leaky conditions", leaky]
    if confirmed:
        parts += ["## Confirmation on fresh data", confirmation_paragraph(results, confirmed)]
    parts += ["## All tables and figures", links(figure_captions)]
    parts += [f"## {RUN_HEADING}", run.markdown()]
    return "\n\n".join(parts) + "\n"


def readme_table(results: Results) -> str:
    """Return the README's table of results in Markdown."""
    header = ["condition", "training / at test", "accuracy", f"minus `{BASELINE}`"]
    lines: list[list[Content]] = []
    for name in README_CONDITIONS:
        if name in results.figures:
            audio = row_tables.audio(results, name)
            accuracy = share(results.accuracy(name))
            lines.append([f"`{name}`", audio, accuracy, row_tables.difference_cell(results, name)])
    return tables.grid(header, lines) + "\n"


def generated_conditions(results: Results) -> list[str]:
    """Return the conditions that take an architecture's audio, unfiltered and filtered."""
    names = []
    for architecture in ARCHITECTURES.values():
        for name in (architecture.generated, architecture.filtered):
            if name in results.figures:
                names.append(name)
    return names


def comparison(name: str, difference: dict | None, reference: str = BASELINE) -> str:
    """Return a sentence on a paired difference of accuracies: more, less, or not to be told."""
    if difference is None or difference["mean"] is None:
        return f"`{name}` and `{reference}` cannot be compared: they share no clips."
    # Words follow the interval alone, so that they hold for any outcome.
    figure = f"{points(difference)} points"
    if difference["ci95_low"] > 0:
        return f"`{name}` is more accurate than `{reference}`: {figure}."
    if difference["ci95_high"] < 0:
        return f"`{name}` is less accurate than `{reference}`: {figure}."
    return f"No difference between `{name}` and `{reference}` can be shown: {figure}."


def bullets(sentences: list[str]) -> str:
    """Return sentences as a list in Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def real_audio_paragraph(results: Results) -> str:
    """Return what real audio adds, which bounds what generated audio can."""
    text = comparison(UPPER_BOUND, results.difference(UPPER_BOUND))
    p_value = results.checks[UPPER_BOUND]["p_holm"]
    if p_value is not None:
        text += (
            f" After Holm's correction for all {len(results.others)} comparisons of the main table "
            f"p is {number(p_value, P_VALUE)}."
        )
    return f"{text} Real audio shows how much there is to gain from sound."


def generated_audio_paragraph(results: Results) -> str:
    """Return what the audio of both architectures adds, and which gains would be seen."""
    names = generated_conditions(results)
    if not names:
        return "This run has no condition with generated audio."
    sentences = [comparison(name, results.difference(name)) for name in names]
    if row_tables.has_both_architectures(results):
        unfiltered = [architecture.generated for architecture in ARCHITECTURES.values()]
        between = row_tables.architecture_difference(results)
        sentences.append(comparison(unfiltered[1], between, unfiltered[0]))
    text = bullets(sentences)
    detectable = [results.figures[name].smallest_detectable_difference for name in names]
    measured = [value for value in detectable if value is not None]
    if measured:
        text += (
            "\n\nThis test set would find true differences of "
            f"{100 * min(measured):.1f} to {100 * max(measured):.1f} points with 80 % power, "
            "depending on the condition. Smaller ones cannot be excluded."
        )
    return text


def contrast_paragraph(results: Results) -> str:
    """Return the differences to other conditions than the baseline."""
    sentences = []
    for contrast in results.contrasts:
        sentence = comparison(contrast.condition, contrast.difference, contrast.reference)
        if contrast.gap_share:
            sentence += f" That is {share(contrast.gap_share)} % of the gap to `{contrast.bound}`."
        sentences.append(sentence)
    return bullets(sentences)


def missing_rate_paragraph(results: Results) -> str:
    """Return the accuracies with the least and with the most test clips without audio."""
    sentences = []
    for name in (*MISSING_RATE_CONDITIONS, *generated_conditions(results)):
        curve = results.missing_rates.get(name)
        if not curve:
            continue
        rates = list(curve)
        sentences.append(
            f"`{name}`: {share(curve[rates[0]])} % where {rates[0]} % of the test clips lack their "
            f"audio, {share(curve[rates[-1]])} % where {rates[-1]} % do."
        )
    lead = "The other test clips give their real audio to every condition that hears any."
    return f"{lead}\n\n{bullets(sentences)}"


def leaky_paragraph(results: Results) -> str:
    """Return which conditions know the true action of test clips; '' where there are none."""
    names = [name for name, settings in results.settings.items() if settings.leaky]
    if not names:
        return ""
    sentences = []
    for name in names:
        sentence = comparison(name, results.difference(name))
        if results.settings[name].kept_only:
            clips = results.accuracy(name)["n"]
            sentence += f" It answers only the {clips} test clips that its filter keeps."
        sentences.append(sentence)
    lead = (
        "The filter of these conditions knows the true action of the test clips. So their figures "
        "are bounds and no results."
    )
    return f"{lead}\n\n{bullets(sentences)}"


def confirmation_paragraph(results: Results, confirmed: dict[tuple[str, str], dict]) -> str:
    """Return the differences of the run on fresh data, which nothing was adjusted on."""
    sentences = []
    for name in (UPPER_BOUND, *generated_conditions(results)):
        difference = confirmed.get((name, "difference"))
        if difference:
            sentences.append(comparison(name, difference))
    lead = "Everything ran once more on a sample that nothing was adjusted on."
    parts = (tables.quote(row_tables.confirmation_banner()), lead, bullets(sentences))
    return "\n\n".join(part for part in parts if part)


def links(figure_captions: dict[str, str]) -> str:
    """Return links to all tables and figures, relative to docs/."""
    parts = [
        "All tables are in [metrics/tables.md](../metrics/tables.md), and as CSV and LaTeX in "
        "[metrics/tables](../metrics/tables). "
        "[metrics/report.html](../metrics/report.html) also shows test clips one by one."
    ]
    for name, caption in figure_captions.items():
        parts.append(f"![{name}](../metrics/figures/report/{name}.png)\n\n{caption}")
    return "\n\n".join(parts)


def write_results(
    page: Path,
    table: Path,
    results: Results,
    confirmed: dict[tuple[str, str], dict],
    figure_captions: dict[str, str],
    run: Provenance,
) -> None:
    """Write the page and the README's table; the arguments are those of `results_markdown`."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(results_markdown(results, confirmed, figure_captions, run))
    table.write_text(readme_table(results))
