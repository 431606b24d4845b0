"""Tables of the experiments, from their CSV files.

Those of other data, code or parameters than this run's stand behind a banner (stamps.py).
"""

import re
from pathlib import Path

import pandas as pd

from audio_from_video.evaluation.settings import ALL_SAMPLES
from audio_from_video.reporting import stamps
from audio_from_video.reporting.tables import NUMBER, POINTS, SHARE, Cell, Content, Table, Unit
from audio_from_video.storage import layout

# Tables with a script of their own; all others are written by tools.experiments.
WRITTEN_BY = {"interval_coverage": "benchmarks.interval_coverage", "search": "tools.search"}

# Units of the figures with intervals.  A name also holds for figures that go on with `_`, such as
# accuracy_missing_0.25; of two that hold the longer one counts.
UNITS = {
    "validation_accuracy": SHARE,
    "accuracy": SHARE,
    "accuracy_minus_video_only": POINTS,
    "gain": POINTS,
    "gap_share": SHARE,
    "kept_fraction": SHARE,
    "centred_cosine": NUMBER,
}

PLAIN = "_out_of_fold"  # ends the names of figures without an interval

SAMPLES_NOTE = (
    " Rows `all` are means over samples that differ in their seed, with 95 % intervals over samples"
    " (Student's t). The rows of the samples are in `{path}`."
)

INTERVAL = ["mean", "ci95_low", "ci95_high"]  # columns of metrics/subsets.csv


def experiment_tables() -> list[Table]:
    """Return the results of experiments, which are runs outside the default pipeline.

    The confirmatory run has a table of its own (row_tables.py).
    """
    tables = [experiment_table(path) for path in sorted(layout.EXPERIMENTS.glob("*.csv"))]
    for path in sorted(layout.EXPERIMENTS.glob("*/subsets.csv")):
        if path.parent != layout.CONFIRMATION:
            tables.append(kept_run_table(path))
    return tables


def experiment_table(path: Path) -> Table:
    """Return a table of one experiment's CSV file.

    Columns x, x_low and x_high become one column of figures; all others stay as they are.  Where
    there are rows over several samples, those of the single ones are left out.
    """
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    script = WRITTEN_BY.get(path.stem, f"tools.experiments {path.stem}")
    note = f"Written by `python -m {script}`."
    if "sample_seed" in text and (text.sample_seed == ALL_SAMPLES).any():
        text = over_samples(text)
        note += SAMPLES_NOTE.format(path=path)
    header = []
    columns: list[list[Content]] = []
    for name in text.columns:
        if is_bound(name, text):
            continue
        if f"{name}_low" in text.columns:
            unit = unit_of(name)
            header.append(name.replace("_", " ") + (" (%)" if unit in (SHARE, POINTS) else ""))
            columns.append(estimates(text, name, unit))
        elif name.endswith(PLAIN):
            header.append(name.replace("_", " "))
            columns.append([plain_figure(value) for value in text[name]])
        else:
            header.append(name)
            columns.append(list(text[name]))
    rows = [list(row) for row in zip(*columns, strict=True)]
    title = f"Experiment: {path.stem}"
    banner = experiment_banner(path)
    return Table(f"experiment_{path.stem}", title, header, rows, note, banner=banner)


def over_samples(text: pd.DataFrame) -> pd.DataFrame:
    """Return an experiment's rows without those of single samples that a row over samples has.

    A column that is empty in all that remain is left out.
    """
    rows = ["setting", "condition"]
    is_over_samples = text.sample_seed == ALL_SAMPLES
    has_such_a_row = is_over_samples.groupby([text[name] for name in rows]).transform("any")
    shown = text[is_over_samples | ~has_such_a_row]
    return shown.loc[:, (shown != "").any()]


def kept_run_table(path: Path) -> Table:
    """Return accuracies and differences of a run whose files an experiment keeps.

    path: its subsets.csv, in the folder that has the experiment's name.
    """
    name = path.parent.name
    estimates = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"subset": str})
    estimates = estimates[estimates.subset.isna()]
    rows: list[list[Content]] = []
    for condition, own in estimates.groupby("condition", sort=False):
        by_measure = own.set_index("measure")
        accuracy = by_measure.loc["accuracy"]
        difference: Content = ""
        if "difference" in by_measure.index:
            difference = kept_estimate(by_measure.loc["difference", INTERVAL], POINTS)
        size = f"{accuracy.n:.0f} / {accuracy.sources:.0f}"
        cells = [kept_estimate(accuracy[INTERVAL], SHARE), difference, size]
        rows.append([f"`{condition}`", *cells])
    note = f"Written by `python -m tools.experiments {name}`."
    header = ["condition", "accuracy (%)", "minus `video_only` (points)", "clips / sources"]
    title = f"Experiment: {name}"
    banner = stamps.banner(name, [name])
    return Table(f"experiment_{name}", title, header, rows, note, banner=banner)


def kept_estimate(values: pd.Series, unit: Unit) -> Cell:
    """Return the cell of a mean and its bounds; a condition without clips has none."""
    if values.isna().any():
        return Cell((None,), unit, "no clips")
    return Cell(tuple(values.tolist()), unit)


def experiment_banner(path: Path) -> str:
    """Return the banner above the figures of an experiment's CSV file; '' for those of this run."""
    columns = pd.read_csv(path, dtype=str, keep_default_na=False)
    if "setting" not in columns:
        return stamps.banner(path.stem, [path.stem])
    if "sample_seed" not in columns:
        return stamps.banner(path.stem, list(columns["setting"].unique()))
    of_samples = columns[columns.sample_seed != ALL_SAMPLES]
    runs = of_samples[["setting", "sample_seed"]].drop_duplicates().itertuples(index=False)
    return stamps.banner(path.stem, [stamps.name_of_run(*run) for run in runs])


def is_bound(name: str, text: pd.DataFrame) -> bool:
    """Return whether a column is a bound of another one's interval."""
    match = re.fullmatch("(.+)_(low|high)", name)
    return match is not None and match[1] in text.columns


def unit_of(name: str) -> Unit:
    """Return the unit of a column with intervals; a figure that is not known is a number."""
    fitting = [figure for figure in UNITS if name == figure or name.startswith(f"{figure}_")]
    return UNITS[max(fitting, key=len)] if fitting else NUMBER


def plain_figure(value: str) -> Cell:
    """Return the cell of a figure without an interval; an empty one where there is none."""
    return Cell((float(value) if value else None,), NUMBER)


def estimates(text: pd.DataFrame, name: str, unit: Unit) -> list[Content]:
    """Return the columns x, x_low and x_high as cells; an empty cell where there is no figure."""
    columns = text[[name, f"{name}_low", f"{name}_high"]]
    numbers = columns.replace("", "nan").astype(float)
    cells: list[Content] = []
    for mean, low, high in numbers.to_numpy().tolist():
        values = (None,) if pd.isna(mean) else (mean, low, high)
        cells.append(Cell(values, unit))
    return cells
