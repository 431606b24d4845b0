"""Run a named experiment outside the default pipeline: the same pipeline once per value of a parameter.

    python -m stages.experiments segments     writes metrics/experiments/segments.csv

Experiments are named in params.yaml: which parameter takes which values, and whose accuracy is read.  Each value is a
`dvc exp run --temp` from the last commit (so commit first; shared items are reused), kept as experiment <name>-<value>.
`report` puts the CSV files, which are kept in git, into metrics/tables.md.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
from pydantic import Field

from stages.common import params
from stages.common.errors import UserError


class Experiment(params.Section):
    key: str
    values: list[str | int | float] = Field(min_length=1)
    condition: str


def experiments() -> dict[str, Experiment]:
    """The experiments that params.yaml names."""

    class Experiments(params.Section):
        named: dict[str, Experiment]

    return params.load("experiments", Experiments).named


def run_one(name: str, experiment: Experiment, value) -> dict:
    """Run the pipeline up to the experiment's condition with one value; its figures as a row."""
    revision = f"{name}-{value}"
    target = f"classifier@{experiment.condition}"
    command = ["dvc", "exp", "run", "--temp", "--force-name" if False else "--name", revision, "-f", "-S", f"{experiment.key}={value}", target]
    if subprocess.run(command).returncode:
        raise UserError(f"`{' '.join(command)}` failed; its message stands above")
    shown = subprocess.run(["dvc", "metrics", "show", "--json", "--all-commits"], capture_output=True, text=True)
    return {"revision": revision, "shown": shown.stdout}
