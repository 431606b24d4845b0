"""Where every output lies."""

from pathlib import Path

METRICS = Path("metrics")
SWEEPS = {  # architecture: its sweep, its row where every clip is kept
    "validation": (METRICS / "plots/filter/sweep.csv", "generated"),
    "mapping": (METRICS / "plots/filter/mapping.csv", "mapped"),
}
DATA = Path("data")
FILTERS = {
    "validation": DATA / "filter.parquet",
    "mapping": DATA / "filter_mapping.parquet",
}  # by architecture
OUTPUTS = {  # architecture: the row it makes without a filter, decisions, sweep
    "validation": (
        "generated",
        Path("data/filter.parquet"),
        Path("metrics/plots/filter/sweep.csv"),
    ),
    "mapping": (
        "mapped",
        Path("data/filter_mapping.parquet"),
        Path("metrics/plots/filter/mapping.csv"),
    ),
}
