"""Run a named experiment outside the default pipeline: the same pipeline once per value of a parameter.

    python -m stages.experiments segments     writes metrics/experiments/segments.csv

Experiments are named in params.yaml: which parameter takes which values, and the row whose accuracy is read.  Each value
is a `dvc exp run --temp` from the last commit (commit first; stored items are reused), kept as experiment <name>-<value>.
`report` puts the CSV files, which are kept in git, into metrics/tables.md.
"""
import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd
from pydantic import Field

from stages.common import params
from stages.common.errors import UserError

FIGURES = ("validation_accuracy", "accuracy")


class Experiment(params.Section):
    key: str
    values: list[str | int | float] = Field(min_length=1)
    condition: str


class Experiments(params.Section):
    named: dict[str, Experiment]


def run_one(name: str, experiment: Experiment, value: str | int | float) -> dict:
    """Run the pipeline up to the experiment's condition with one value; the figures as a row of text."""
    import dvc.api

    revision = f"{name}-{value}".replace(".", "-")
    command = ["dvc", "exp", "run", "--temp", "--name", revision, "-S", f"{experiment.key}={value}", f"classifier@{experiment.condition}"]
    subprocess.run(["dvc", "exp", "remove", revision], capture_output=True)  # what an earlier run of the same name left
    if subprocess.run(command).returncode:
        raise UserError(f"`{' '.join(command)}` failed; its message stands above")
    path = f"metrics/classifier/{experiment.condition}.json"
    found = dvc.api.metrics_show(path, rev=revision)
    row = {experiment.key: str(value), "condition": experiment.condition}
    for figure in FIGURES:
        mean, low, high = (100 * found[figure][key] for key in ("mean", "ci95_low", "ci95_high"))
        row[f"{figure} %"] = f"{mean:.1f} [{low:.1f}, {high:.1f}]"
    return row | {"test clips": found["accuracy"]["n"], "sources": found["accuracy"]["sources"], "seeds": found["accuracy"]["seeds"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stages.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="an experiment of params.yaml")
    name = parser.parse_args().name
    try:
        named = params.load("experiments", Experiments).named
        if name not in named:
            raise UserError(f"'{name}' is not an experiment of params.yaml; there are {', '.join(named)}")
        rows = [run_one(name, named[name], value) for value in named[name].values]
        path = Path("metrics/experiments") / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).to_csv(path, index=False)
        print(path.read_text())
    except UserError as error:
        sys.exit(f"experiments: error: {error}")


if __name__ == "__main__":
    main()
