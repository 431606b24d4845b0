"""Tables of the experiments, from their CSV files."""

import re

import pandas as pd

from audio_from_video.reporting.stage_tables import METRICS
from audio_from_video.reporting.tables import Cell, Table

WRITTEN_BY = {
    "interval_coverage": "benchmarks.interval_coverage",
    "search": "tools.search",
}  # tables with a script of their own


def of_experiments() -> list[Table]:
    """The committed results of experiments (runs outside the default pipeline), a table each."""
    tables = []
    for path in sorted((METRICS / "experiments").glob("*.csv")):
        found = pd.read_csv(path, dtype=str, keep_default_na=False)
        header = [
            name
            for name in found.columns
            if not (bound := re.fullmatch("(.+)_(low|high)", name)) or bound[1] not in found.columns
        ]
        columns = [
            _intervals(found, name) if f"{name}_low" in found.columns else list(found[name])
            for name in header
        ]
        shown = [
            f"{name.replace('_', ' ')}{' (%)' * _is_share(name)}"
            if f"{name}_low" in found.columns
            else name
            for name in header
        ]
        rows = [list(row) for row in zip(*columns, strict=True)]
        note = (
            f"Written by `python -m {WRITTEN_BY.get(path.stem, f'tools.experiments {path.stem}')}`."
        )
        tables.append(
            Table(f"experiment_{path.stem}", f"Experiment: {path.stem}", shown, rows, note)
        )
    return tables


def _is_share(name: str) -> bool:
    return "accuracy" in name or name in ("gain", "kept_fraction")


def _intervals(found: pd.DataFrame, name: str) -> list[Cell]:
    """The columns x, x_low and x_high as cells: shares in per cent, other figures to three places."""
    numbers = found[[name, f"{name}_low", f"{name}_high"]].replace("", "nan").astype(float) * (
        100 if _is_share(name) else 1
    )
    form = (
        "{:+.1f}"
        if "minus" in name or name == "gain"
        else "{:.1f}"
        if _is_share(name)
        else "{:.3f}"
    )
    return [
        Cell(tuple(row) if row[0] == row[0] else (None,), form)
        for row in numbers.to_numpy().tolist()
    ]
