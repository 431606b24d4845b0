"""Tables of the experiments, from their CSV files.

Those of other data, code or parameters than this run's stand behind a banner (stamps.py).
"""

import re
from pathlib import Path

import pandas as pd

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


def experiment_tables() -> list[Table]:
    """Return the results of experiments, which are runs outside the default pipeline."""
    return [experiment_table(path) for path in sorted(layout.EXPERIMENTS.glob("*.csv"))]


def experiment_table(path: Path) -> Table:
    """Return a table of one experiment's CSV file.

    Columns x, x_low and x_high become one column of figures; all others stay as they are.
    """
    text = pd.read_csv(path, dtype=str, keep_default_na=False)
    header = []
    columns: list[list[Content]] = []
    for name in text.columns:
        if is_bound(name, text):
            continue
        if f"{name}_low" in text.columns:
            unit = unit_of(name)
            header.append(name.replace("_", " ") + (" (%)" if unit in (SHARE, POINTS) else ""))
            columns.append(estimates(text, name, unit))
        else:
            header.append(name)
            columns.append(list(text[name]))
    rows = [list(row) for row in zip(*columns, strict=True)]
    script = WRITTEN_BY.get(path.stem, f"tools.experiments {path.stem}")
    title = f"Experiment: {path.stem}"
    note = f"Written by `python -m {script}`."
    banner = experiment_banner(path)
    return Table(f"experiment_{path.stem}", title, header, rows, note, banner=banner)


def experiment_banner(path: Path) -> str:
    """Return the banner above the figures of an experiment's CSV file; '' for those of this run."""
    columns = pd.read_csv(path, dtype=str, keep_default_na=False)
    settings = list(columns["setting"].unique()) if "setting" in columns else [path.stem]
    return stamps.banner(path.stem, settings)


def is_bound(name: str, text: pd.DataFrame) -> bool:
    """Return whether a column is a bound of another one's interval."""
    match = re.fullmatch("(.+)_(low|high)", name)
    return match is not None and match[1] in text.columns


def unit_of(name: str) -> Unit:
    """Return the unit of a column with intervals; a figure that is not known is a number."""
    fitting = [figure for figure in UNITS if name == figure or name.startswith(f"{figure}_")]
    return UNITS[max(fitting, key=len)] if fitting else NUMBER


def estimates(text: pd.DataFrame, name: str, unit: Unit) -> list[Content]:
    """Return the columns x, x_low and x_high as cells; an empty cell where there is no figure."""
    columns = text[[name, f"{name}_low", f"{name}_high"]]
    numbers = columns.replace("", "nan").astype(float)
    cells: list[Content] = []
    for mean, low, high in numbers.to_numpy().tolist():
        values = (None,) if pd.isna(mean) else (mean, low, high)
        cells.append(Cell(values, unit))
    return cells
