"""Tables of the conditions: accuracies, tests, subsets, actions, missing rates.

*Reported* figures are those of the research description and stand beside ours.
"""

from pathlib import Path

import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting import stamps
from audio_from_video.reporting.results import LookAlikePairs, Results, sample_size
from audio_from_video.reporting.tables import (
    COUNT,
    P_VALUE,
    SHARE,
    Content,
    Table,
    number,
    points,
    share,
)
from audio_from_video.runtime.vocabulary import ARCHITECTURES

# Accuracies of the research description, 20 MiT classes, untuned.
REPORTED = {
    "video_only": "17.79 (elsewhere 17.7)",
    "generated": "18.56 (18.6)",
    "published": "35.6, 62.3 % kept",
    "real_audio": "34.32 (34.0)",
}
NOT_COMPARABLE = (
    "*Reported* figures are the research description's: 20 classes of Moments in Time, untuned, "
    "and 35.6 likely scored on the kept clips alone. Ours are of the data set named above: other "
    "videos, other classes, other backbones. They stand side by side for orientation and cannot be "
    "compared."
)
CONFIRMATION = "confirmation"  # the experiment's name
PUBLISHED = "published"  # the condition that does as the research description does

# How the columns of subsets are headed, in their order.
SUBSET_TITLES = {
    "with_audio": "audible sound",
    "without_audio": "no audible sound",
    "kept": "kept",
    "rejected": "rejected",
    "own_sound": "its own sound",
    "foreign_sound": "foreign sound",
    "audio_visual": "audio-visual actions",
    "other_actions": "other actions",
}
SAMPLE_SIZE = "clips / sources / seeds"
KEPT_CLIPS_ONLY = f"`{PUBLISHED}` answers kept clips only."


def condition_tables(results: Results, architecture_lines: list[list[Content]]) -> list[Table]:
    """Return the tables of the conditions in their order.

    architecture_lines: rows of the comparison of both architectures that other stages measured;
    they are needed where there are conditions of both.
    """
    tables = [main_table(results), check_table(results)]
    if results.contrasts:
        tables.append(contrast_table(results))
    tables.append(missing_rate_table(results))
    if has_both_architectures(results):
        tables.append(architecture_table(results, architecture_lines))
    tables += [subset_table(results), action_table(results)]
    pairs = results.pairs
    if pairs:
        tables += [pair_table(results, pairs), pair_difference_table(results, pairs)]
        if pairs.read_out:
            tables.append(read_out_table(pairs))
    return tables


def has_both_architectures(results: Results) -> bool:
    """Return whether there are conditions with the audio of both architectures, also filtered."""
    return all(
        {architecture.generated, architecture.filtered} <= set(results.figures)
        for architecture in ARCHITECTURES.values()
    )


def main_table(results: Results) -> Table:
    """Return accuracies of all conditions and their differences to the baseline."""
    header = [
        "condition",
        "audio in training / at test",
        "accuracy",
        f"minus `{BASELINE}`, same clips",
        "sd over seeds",
        "ensemble",
        "failed trainings",
        "macro F1",
        "top 5",
        "parameters",
        SAMPLE_SIZE,
        "*reported*",
    ]
    lines: list[list[Content]] = []
    for name in results.figures:
        metrics = results.classifier_metrics[name]
        lines.append(
            [
                f"`{name}`",
                audio(results, name),
                share(results.accuracy(name)),
                difference_cell(results, name),
                number(metrics["accuracy"]["seed_sd"], SHARE),
                share(metrics["ensemble"]),
                failed_trainings(metrics),
                share(metrics["macro_f1"]),
                share(metrics["top5"]),
                number(metrics["parameters"], COUNT),
                sample_size(results.accuracy(name), metrics["accuracy"]["seeds"]),
                REPORTED.get(name, ""),
            ]
        )
    below = NOT_COMPARABLE
    if PUBLISHED in results.figures:
        kept = results.accuracy(PUBLISHED)["n"]
        whole = results.accuracy(BASELINE)["n"]
        kept_share = 100 * kept / max(whole, 1)
        below += f" Our `{PUBLISHED}` keeps {kept} of {whole} test clips, {kept_share:.1f} %."
    note = (
        "Accuracies are means over single trainings. Ensemble: of the mean probabilities over "
        "seeds. Failed trainings: those that ended at chance on validation and were repeated with "
        "other random numbers, of all; then those that stayed there."
    )
    return Table("main", "Main table", header, lines, note, below=below)


def failed_trainings(metrics: dict) -> Content:
    """Return how many trainings ended at chance and were repeated, and how many stayed there.

    '' where nothing is drawn at random.
    """
    if "trainings" not in metrics:
        return ""
    counts = metrics["trainings"]
    return f"{counts['repeated']} of {counts['all']}, {counts['at_chance']} at chance"


def audio(results: Results, name: str) -> str:
    """Return the kinds of audio that a condition has in training and at test."""
    return f"{results.settings[name].train_audio} / {results.settings[name].test_audio}"


def difference_cell(results: Results, name: str) -> Content:
    """Return a condition's difference to the baseline, '' for the baseline itself."""
    difference = results.difference(name)
    return "" if difference is None else points(difference)


def check_table(results: Results) -> Table:
    """Return what differences are worth, and whether probabilities can be believed."""
    header = [
        "condition",
        f"minus `{BASELINE}`, same clips",
        "over sources alone",
        "p",
        "p, Holm",
        "smallest detectable difference",
        "gap share %",
        "ECE",
        SAMPLE_SIZE,
    ]
    lines: list[list[Content]] = []
    for name, check in results.checks.items():
        # The baseline has no difference to itself: gaps stand in these five columns.
        difference: list[Content] = [""] * 5
        if name != BASELINE:
            difference = [
                difference_cell(results, name),
                points(check["difference_over_sources"]),
                number(check["p"], P_VALUE),
                number(check["p_holm"], P_VALUE),
                number(results.figures[name].smallest_detectable_difference, SHARE),
            ]
        gap_share = "" if check["gap_share"] is None else share(check["gap_share"])
        error = number(check["calibration_error"])
        lines.append([f"`{name}`", *difference, gap_share, error, results.sample_size(name)])
    note = (
        "Differences in points. Intervals resample sources and trainings; over sources alone: "
        "with the trainings as they are (what that does to coverage is simulated in the experiment "
        "`interval_coverage`). p: two-sided, jackknife over sources and deviation over trainings; "
        f"Holm: adjusted for all {len(results.others)} comparisons of this table. "
        "Smallest detectable difference: the true one that would be found in 80 % of test sets "
        "like this, at 5 %, one comparison. "
        f"Gap share: (condition - `{BASELINE}`) / (`{UPPER_BOUND}` - `{BASELINE}`) on the "
        "condition's clips, left out where the interval of the denominator contains 0. ECE: "
        "expected calibration error of each seed's probabilities, 15 bins, averaged over seeds."
    )
    return Table("tests_and_calibration", "Main table: tests and calibration", header, lines, note)


def contrast_table(results: Results) -> Table:
    """Return the differences to other conditions than the baseline, as `report.contrasts` asks."""
    lines: list[list[Content]] = []
    for contrast in results.contrasts:
        gap_share = share(contrast.gap_share) if contrast.gap_share else ""
        bound = f"`{contrast.bound}`" if contrast.bound else ""
        lines.append(
            [
                f"`{contrast.condition}`",
                f"`{contrast.reference}`",
                points(contrast.difference),
                number(contrast.difference["p"], P_VALUE),
                gap_share,
                bound,
            ]
        )
    header = ["condition", "minus", "difference", "p", "gap share", "of the gap to"]
    note = (
        "Paired differences of accuracies on the same test clips, by resampling sources and "
        "trainings. p: two-sided, not corrected. Gap share: what part of the way to the last "
        "column the condition goes, per cent, by resampling sources; left out where the interval "
        "of the whole way contains 0."
    )
    return Table("contrasts", "Compared with other conditions", header, lines, note)


def missing_rate_table(results: Results) -> Table:
    """Return accuracies where some test clips have lost their audio."""
    rates = results.missing_rates[BASELINE]
    header = ["condition", *(f"{rate} % missing" for rate in rates), SAMPLE_SIZE]
    lines: list[list[Content]] = []
    for name, curve in results.missing_rates.items():
        # Conditions that answer some clips only may be without missing rates.
        if not curve:
            continue
        cells = [share(figure) for figure in curve.values()]
        size = sample_size(next(iter(curve.values())), results.answers[name].seeds)
        lines.append([f"`{name}`", *cells, size])
    note = (
        "Accuracy where so many test clips have lost their audio: drawn once per seed, the same "
        "clips for all conditions. The others give their real audio to every condition that hears "
        "any, also to conditions trained on generated audio alone; conditions without audio do not "
        "change; those that answer kept clips only are left out."
    )
    return Table("missing_rates", "Missing rates", header, lines, note)


def subset_table(results: Results) -> Table:
    """Return the accuracy of every condition on every subset."""
    measured = results.figures[BASELINE].accuracy
    subsets = [subset for subset in SUBSET_TITLES if subset in measured]
    titles = [f"{SUBSET_TITLES[subset]} (n = {measured[subset]['n']})" for subset in subsets]
    lines: list[list[Content]] = []
    for name, figures in results.figures.items():
        cells = [share(figures.accuracy[subset]) for subset in subsets]
        lines.append([f"`{name}`", *cells, results.sample_size(name)])
    header = ["condition", *titles, SAMPLE_SIZE]
    return Table("subsets", "On subsets of the test clips", header, lines, KEPT_CLIPS_ONLY)


def action_table(results: Results) -> Table:
    """Return the accuracy of every condition per action.

    An action is a row: data sets have more actions than this table has conditions.
    """
    has_list = results.audio_visual is not None
    header = ["action"]
    if has_list:
        header.append("audio-visual")
    header += [f"`{name}` ({results.answers[name].seeds})" for name in results.action_accuracy]
    header += ["clips", "sources"]
    lines: list[list[Content]] = []
    for action, base in results.action_accuracy[BASELINE].items():
        line: list[Content] = [action]
        if has_list:
            line.append("yes" if action in (results.audio_visual or ()) else "no")
        line += [share(accuracies[action]) for accuracies in results.action_accuracy.values()]
        line += [base["n"], base["sources"]]
        lines.append(line)
    note = (
        "Accuracy on the clips of each action; in brackets the number of seeds. " + KEPT_CLIPS_ONLY
    )
    return Table("actions", "Per action", header, lines, note)


# ---- look-alike pairs ----


def pair_table(results: Results, pairs: LookAlikePairs) -> Table:
    """Return the accuracy of every condition on the clips of look-alike actions."""
    accuracy = pairs.accuracy
    titles = [f"{group} (n = {base['n']})" for group, base in accuracy[BASELINE].items()]
    lines: list[list[Content]] = []
    for name, by_group in accuracy.items():
        cells = [share(figure) for figure in by_group.values()]
        lines.append([f"`{name}`", *cells, results.sample_size(name)])
    header = ["condition", *titles, SAMPLE_SIZE]
    note = (
        "Accuracy (over all actions) on the clips of actions that look alike and sound different."
    )
    return Table("look_alike_pairs", "Within look-alike pairs", header, lines, note)


def pair_difference_table(results: Results, pairs: LookAlikePairs) -> Table:
    """Return the differences to the baseline on the clips of look-alike actions."""
    difference = pairs.difference
    lines: list[list[Content]] = []
    for name, by_group in difference.items():
        cells = [points(figure) for figure in by_group.values()]
        lines.append([f"`{name}`", *cells, results.sample_size(name)])
    header = ["condition", *next(iter(difference.values())), SAMPLE_SIZE]
    note = (
        f"Points, on the same clips; {len(lines)} rows by {len(header) - 2} columns without "
        "correction: for exploration."
    )
    title = f"Within look-alike pairs, minus `{BASELINE}`"
    return Table("look_alike_differences", title, header, lines, note)


def read_out_table(pairs: LookAlikePairs) -> Table:
    """Return linear read-outs of the frozen features within look-alike pairs (read_out.py)."""
    header = [
        "read from",
        "pair",
        "learned from",
        "clips of the two",
        "accuracy between the two",
        "AUROC",
        SAMPLE_SIZE,
    ]
    lines: list[list[Content]] = []
    for name, by_lesson in pairs.read_out.items():
        for lesson, by_pair in by_lesson.items():
            for pair, figure in by_pair.items():
                clips = figure["learned_from"]
                auroc = number(figure["auroc"])
                size = sample_size(figure, 1)
                lines.append([name, pair, lesson, clips, share(figure), auroc, size])
    note = (
        "Logistic regression between the two actions of a pair, on mean and standard deviation "
        "over time; chance is 50 %. Where it learns from unlabelled clips, too, it is told their "
        "true actions, which no condition knows: the clips that generators learn from."
    )
    title = "What a linear read-out knows of look-alike actions"
    return Table("read_out", title, header, lines, note)


# ---- comparisons ----


def architecture_table(results: Results, measured_lines: list[list[Content]]) -> Table:
    """Return the two architectures side by side, on the same clips and folds.

    measured_lines: rows with what was measured before the classifier, a column per architecture.
    """
    names = list(ARCHITECTURES)
    unfiltered = [architecture.generated for architecture in ARCHITECTURES.values()]
    filtered = [architecture.filtered for architecture in ARCHITECTURES.values()]
    difference = architecture_difference(results)
    lines: list[list[Content]] = [
        *measured_lines,
        ["accuracy %, every clip", *(share(results.accuracy(name)) for name in unfiltered)],
        ["accuracy %, filtered", *(share(results.accuracy(name)) for name in filtered)],
        [f"`{names[1]}` minus `{names[0]}`, every clip, points", "", points(difference)],
        [SAMPLE_SIZE, *(results.sample_size(name) for name in unfiltered)],
    ]
    note = (
        f"`{names[0]}` generates and then checks; `{names[1]}` builds the meaning in. Same clips, "
        "folds and seeds; cosines and labels are of audible clips. Seconds of training stand in "
        "the experiment `training` below."
    )
    header = ["on test", *(f"`{name}`" for name in names)]
    return Table("architectures", "The two architectures", header, lines, note)


def architecture_difference(results: Results) -> dict:
    """Return the paired difference of the second architecture's accuracy to the first one's.

    It is that of their generated audio without a filter, in fractions.
    """
    unfiltered = [architecture.generated for architecture in ARCHITECTURES.values()]
    first, second = (results.answers[name].clips for name in unfiltered)
    return intervals.paired_difference(second.hit, first.hit.loc[second.index], second.source_id)


def confirmation_estimates(path: Path) -> dict[tuple[str, str], dict]:
    """Return the estimates on all test clips of the confirmatory run.

    path: its subsets.csv.  Keys are (condition, measure); measures are accuracy and difference.
    """
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"subset": str})
    whole = table[table.subset.isna()]
    return {
        (estimate["condition"], estimate["measure"]): estimate
        for estimate in whole.to_dict("records")
    }


def confirmation_table(results: Results, path: Path) -> Table:
    """Return accuracies and differences of the confirmatory run, of the conditions of this run.

    path: subsets.csv of that run, which was on fresh data.  Its figures stand apart from those of
    this run.
    """
    confirmed = confirmation_estimates(path)
    lines: list[list[Content]] = []
    for name in results.figures:
        accuracy = confirmed.get((name, "accuracy"))
        difference = confirmed.get((name, "difference"))
        if accuracy is None:
            continue
        size = f"{int(accuracy['n'])} / {int(accuracy['sources'])}"
        cells = [share(accuracy), points(difference) if difference else "", size]
        lines.append([f"`{name}`", *cells])
    stamp = stamps.read(CONFIRMATION).get(CONFIRMATION)
    setting = f": {', '.join(stamp.changes)} ({stamp.machine})" if stamp else ""
    note = (
        f"Everything once more on a sample that nothing was adjusted on{setting}; "
        f"written by `python -m tools.experiments {CONFIRMATION}`."
    )
    header = ["condition", "accuracy", f"minus `{BASELINE}`", "clips / sources"]
    banner = confirmation_banner()
    return Table(CONFIRMATION, "Confirmatory run", header, lines, note, banner=banner)


def confirmation_banner() -> str:
    """Return the banner above the figures of the confirmatory run, which is of other data."""
    return stamps.banner(CONFIRMATION, [CONFIRMATION])


def introduction(results: Results) -> str:
    """Return the paragraph about the data set and what its test clips can show."""
    clips = results.answers[BASELINE].clips
    audible = results.figures[BASELINE].accuracy["with_audio"]
    text = (
        f"Data set: `{results.root}`; {len(clips)} test clips of {clips.source_id.nunique()} "
        f"sources and {clips.action.nunique()} actions; {audible['n']} of them "
        f"({audible['sources']} sources) have audible sound. Accuracies in per cent with 95 % "
        "intervals, differences in points; both by resampling sources and trainings (macro F1 and "
        "gap shares: sources alone)."
    )
    detectable = results.figures[UPPER_BOUND].smallest_detectable_difference
    if detectable is not None:
        text += (
            f" The smallest true difference between `{UPPER_BOUND}` and `{BASELINE}` that this "
            f"test set would find with 80 % power is {100 * detectable:.1f} points."
        )
    return text
