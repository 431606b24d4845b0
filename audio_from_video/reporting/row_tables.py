"""Tables of the classifier's rows: accuracies, tests, subsets, actions, missing rates; *reported* figures stand beside ours.

rows, result, checks: see row_measures.py, by condition.
"""

import json
from pathlib import Path

import pandas as pd

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND, Row
from audio_from_video.reporting.stage_tables import architecture_figures, metrics_of
from audio_from_video.reporting.tables import Content, Table, number, percent
from audio_from_video.runtime.vocabulary import ARCHITECTURES

REPORTED = {  # accuracies of the research description, 20 MiT classes, untuned
    "video_only": "17.79 (elsewhere 17.7)",
    "generated": "18.56 (18.6)",
    "published": "35.6, 62.3 % kept",
    "real_audio": "34.32 (34.0)",
}
NOT_COMPARABLE = (
    "*Reported* figures are the research description's: 20 classes of Moments in Time, untuned, and 35.6 likely scored on the "
    "kept clips alone. Ours are of the data set named above: other videos, other classes, other backbones. They stand side by "
    "side for orientation and cannot be compared."
)
SUBSETS = {  # how a subset's columns are headed
    "with_audio": "audible sound",
    "without_audio": "no audible sound",
    "kept": "kept",
    "rejected": "rejected",
    "own_sound": "its own sound",
    "foreign_sound": "foreign sound",
    "audio_visual": "audio-visual actions",
    "other_actions": "other actions",
}
STANDS_ON = "clips / sources / seeds"


def stands_on(figure: dict, seeds: int) -> str:
    return f"{figure['n']} / {figure['sources']} / {seeds}"


def main_table(result: dict, conditions: dict) -> Table:
    lines: list[list[Content]] = []
    for name, row in result.items():
        own, accuracy = metrics_of(f"classifier/{name}"), row["accuracy"]
        lines.append(
            [
                f"`{name}`",
                f"{conditions[name]['train_audio']} / {conditions[name]['test_audio']}",
                percent(accuracy),
                percent(row["difference"], True) if name != BASELINE else "",
                number(100 * own["accuracy"]["seed_sd"], "{:.1f}"),
                percent(own["macro_f1"]),
                percent(own["top5"]),
                number(own["parameters"], "{:,}"),
                stands_on(accuracy, own["accuracy"]["seeds"]),
                REPORTED.get(name, ""),
            ]
        )
    header = [
        "condition",
        "audio in training / at test",
        "accuracy",
        f"minus `{BASELINE}`, same clips",
        "sd over seeds",
        "macro F1",
        "top 5",
        "parameters",
        STANDS_ON,
        "*reported*",
    ]
    below = NOT_COMPARABLE
    if "published" in result:
        own, whole = (result[name]["accuracy"]["n"] for name in ("published", BASELINE))
        below += f" Our `published` keeps {own} of {whole} test clips, {100 * own / max(whole, 1):.1f} %."
    return Table("main", "Main table", header, lines, below=below)


def check_table(rows: dict[str, Row], result: dict, checks: dict) -> Table:
    """What a difference is worth, and whether probabilities can be believed."""
    lines: list[list[Content]] = []
    for name, check in checks.items():
        share = check["gap_share"]
        detectable = result[name].get("smallest_detectable_difference")
        difference: list[Content] = [""] * 5
        if name != BASELINE:
            difference = [
                percent(result[name]["difference"], True),
                percent(check["difference_over_trainings"], True),
                number(check["p"], "{:.2g}"),
                number(check["p_holm"], "{:.2g}"),
                number(None if detectable is None else 100 * detectable, "{:.1f}"),
            ]
        error = number(check["calibration_error"])
        lines.append(
            [
                f"`{name}`",
                *difference,
                "" if share is None else percent(share),
                error,
                stands_on(result[name]["accuracy"], rows[name].seeds),
            ]
        )
    header = [
        "condition",
        f"minus `{BASELINE}`, same clips",
        "also over trainings",
        "p",
        "p, Holm",
        "smallest detectable difference",
        "gap share %",
        "ECE",
        STANDS_ON,
    ]
    note = (
        "Differences in points; also over trainings: with the luck of the seeds, which resampling sources takes as given (what that does "
        f"to coverage is simulated in the experiment `interval_coverage`). p: two-sided, jackknife over sources; Holm: adjusted for all "
        f"{len(checks) - 1} comparisons of this table. "
        "Smallest detectable difference: the true one that would be found in 80 % of test sets like this, at 5 %, one comparison. "
        f"Gap share: (row - `{BASELINE}`) / (`{UPPER_BOUND}` - `{BASELINE}`) on the row's clips, left out where the interval of the "
        "denominator contains 0. ECE: expected calibration error of each seed's probabilities, 15 bins, averaged over seeds."
    )
    return Table("tests_and_calibration", "Main table: tests and calibration", header, lines, note)


def missing_rate_table(rows: dict[str, Row], curves: dict[str, dict[str, dict]]) -> Table:
    header = ["condition", *(f"{rate} % missing" for rate in curves[BASELINE]), STANDS_ON]
    lines: list[list[Content]] = [
        [
            f"`{name}`",
            *(percent(figure) for figure in curve.values()),
            stands_on(next(iter(curve.values())), rows[name].seeds),
        ]
        for name, curve in curves.items()
        if curve
    ]
    note = (
        "Accuracy where so many test clips have lost their audio: drawn once per seed, the same clips for all rows. The others give their "
        "real audio to every row that hears any, also to rows trained on made audio alone; rows without audio do not change; those that "
        "answer kept clips only are left out."
    )
    return Table("missing_rates", "Missing rates", header, lines, note)


def subset_table(rows: dict[str, Row], result: dict) -> Table:
    """Accuracy of every condition on every subset."""
    names = [name for name in SUBSETS if f"accuracy_{name}" in result[BASELINE]]
    header = [
        "condition",
        *(f"{SUBSETS[name]} (n = {result[BASELINE][f'accuracy_{name}']['n']})" for name in names),
        STANDS_ON,
    ]
    lines: list[list[Content]] = [
        [
            f"`{condition}`",
            *(percent(row[f"accuracy_{name}"]) for name in names),
            stands_on(row["accuracy"], rows[condition].seeds),
        ]
        for condition, row in result.items()
    ]
    return Table(
        "subsets",
        "On subsets of the test clips",
        header,
        lines,
        "`published` answers kept clips only.",
    )


def action_table(rows: dict[str, Row], accuracies: dict, audio_visual: set[str] | None) -> Table:
    """Accuracy of every condition per action, an action a row: sets have more actions than this table has conditions."""
    some = ["audio-visual"] if audio_visual is not None else []
    lines: list[list[Content]] = [
        [
            action,
            *("yes" if action in (audio_visual or ()) else "no" for _ in some),
            *(percent(row[action]) for row in accuracies.values()),
            base["n"],
            base["sources"],
        ]
        for action, base in accuracies[BASELINE].items()
    ]
    header = [
        "action",
        *some,
        *(f"`{name}` ({rows[name].seeds})" for name in accuracies),
        "clips",
        "sources",
    ]
    note = "Accuracy on the clips of each action; in brackets the number of seeds. `published` answers kept clips only."
    return Table("actions", "Per action", header, lines, note)


def pair_table(rows: dict[str, Row], result: dict, pairs: dict) -> Table:
    groups = list(pairs[BASELINE])
    header = [
        "condition",
        *(f"{group} (n = {pairs[BASELINE][group]['n']})" for group in groups),
        STANDS_ON,
    ]
    lines: list[list[Content]] = [
        [
            f"`{name}`",
            *(percent(row[group]) for group in groups),
            stands_on(result[name]["accuracy"], rows[name].seeds),
        ]
        for name, row in pairs.items()
    ]
    note = (
        "Accuracy (over all actions) on the clips of actions that look alike and sound different."
    )
    return Table("look_alike_pairs", "Within look-alike pairs", header, lines, note)


def pair_difference_table(rows: dict[str, Row], result: dict, differences: dict) -> Table:
    lines: list[list[Content]] = [
        [
            f"`{name}`",
            *(percent(figure, True) for figure in row.values()),
            stands_on(result[name]["accuracy"], rows[name].seeds),
        ]
        for name, row in differences.items()
    ]
    header = ["condition", *next(iter(differences.values())), STANDS_ON]
    note = f"Points, on the same clips; {len(lines)} rows by {len(header) - 2} columns without correction: for exploration."
    return Table(
        "look_alike_differences",
        f"Within look-alike pairs, minus `{BASELINE}`",
        header,
        lines,
        note,
    )


def architecture_table(rows: dict[str, Row], result: dict) -> Table:
    """The two architectures side by side, on the same clips and folds."""
    lines, columns = architecture_figures(ARCHITECTURES), list(ARCHITECTURES)
    for name, kind in (
        ("accuracy %, every clip", "generated"),
        ("accuracy %, filtered", "filtered"),
    ):
        lines.append(
            [
                name,
                *(
                    percent(result[getattr(ARCHITECTURES[column], kind)]["accuracy"])
                    for column in columns
                ),
            ]
        )
    first, second = (rows[ARCHITECTURES[column].generated].clips for column in columns)
    difference = intervals.paired_difference(
        second.hit, first.hit.loc[second.index], second.source_id
    )
    lines.append(
        [f"`{columns[1]}` minus `{columns[0]}`, every clip, points", "", percent(difference, True)]
    )
    shown = [ARCHITECTURES[column].generated for column in columns]
    lines.append(
        [STANDS_ON, *(stands_on(result[name]["accuracy"], rows[name].seeds) for name in shown)]
    )
    note = (
        "`semantic_validation` generates and then checks; `caption_mapping` builds the meaning in. Same clips, folds and seeds; cosines and labels are of "
        "audible clips. Seconds of training stand in the experiment `training` below."
    )
    return Table(
        "architectures",
        "The two architectures",
        ["on test", *(f"`{column}`" for column in columns)],
        lines,
        note,
    )


def read_out_table(found: dict[str, dict[str, dict[str, dict]]]) -> Table:
    """Linear read-outs of the frozen features within look-alike pairs (pair_read_out.py)."""
    lines: list[list[Content]] = [
        [
            name,
            pair,
            learned,
            figure["learned_from"],
            percent(figure),
            number(figure["auroc"]),
            stands_on(figure, 1),
        ]
        for name, ways in found.items()
        for learned, pairs in ways.items()
        for pair, figure in pairs.items()
    ]
    header = [
        "read from",
        "pair",
        "learned from",
        "clips of the two",
        "accuracy between the two",
        "AUROC",
        STANDS_ON,
    ]
    note = (
        "Logistic regression between the two actions of a pair, on mean and standard deviation over time; chance is 50 %. Where it "
        "learns from unlabelled clips, too, it is told their true actions, which no row knows: the clips that generators learn from."
    )
    return Table(
        "read_out", "What a linear read-out knows of look-alike actions", header, lines, note
    )


def confirmation_table(result: dict, path: Path) -> Table:
    """The accuracies and differences of this run beside those of the confirmatory run on fresh data."""
    found = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"subset": str})
    found = found[found.subset.isna()].set_index(["condition", "measure"])

    def there(name: str, measure: str) -> Content:
        key = (name, measure)
        return (
            percent(found.loc[key].to_dict(), measure == "difference") if key in found.index else ""
        )

    def clips(name: str) -> str:
        key = (name, "accuracy")
        return (
            " / ".join(str(int(found.loc[key, part])) for part in ("n", "sources"))
            if key in found.index
            else ""
        )

    lines: list[list[Content]] = [
        [
            f"`{name}`",
            percent(row["accuracy"]),
            there(name, "accuracy"),
            percent(row["difference"], True) if "difference" in row else "",
            there(name, "difference"),
            clips(name),
        ]
        for name, row in result.items()
    ]
    header = [
        "condition",
        "accuracy",
        "accuracy, confirmatory",
        f"minus `{BASELINE}`",
        f"minus `{BASELINE}`, confirmatory",
        "clips / sources, confirmatory",
    ]
    setting = json.loads((path.parent / "setting.json").read_text())
    note = (
        "Everything once more on a sample that nothing was adjusted on: "
        f"{', '.join(f'{key} {value}' for key, value in setting.items() if key != 'machine')} ({setting['machine']}); written by "
        "`python -m tools.experiments confirmation`."
    )
    return Table("confirmation", "Confirmatory run", header, lines, note)
