"""Run a named experiment outside the default pipeline: the same pipeline once per setting.

    python -m tools.experiments ablations       writes metrics/experiments/ablations.csv: a row per setting and condition
    python -m tools.experiments training        writes metrics/experiments/training.csv (seconds: they are in no metrics file)
    python -m tools.experiments confirmation    writes metrics/experiments/confirmation/: everything once more, on fresh data

Experiments are named in params.yaml: the rows whose accuracies are read, the generator whose measures are (where there is
one), and the settings, each a set of parameters to change.  A setting is a `dvc exp run --temp` from the last commit (commit
first; stored items are reused), kept as experiment <name>-<number>; settings with rows in the CSV file are not run again
unless `--again` says so.  An experiment that names `stages` runs these where they stand and notes how long they take; one
that names `files` keeps these files of its one setting.
Columns: setting, condition, for each figure X its mean and 95 % interval (X, X_low, X_high), clips, sources, seeds, machine; where
`video_only` is among the rows read, also the paired difference to it at the same setting.
`report` puts the files, which are kept in git, into metrics/tables.md.
"""

import argparse
import io
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
from pydantic import Field

from audio_from_video.evaluation import intervals
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SEMANTIC_VALIDATION
from audio_from_video.storage import layout, predictions

Value = str | int | float | bool
BASELINE = "video_only"


class Experiment(params.Section):
    conditions: list[str] = Field(min_length=1)
    generator: str = ""
    missing_rates: bool = False
    filter: bool = False
    settings: dict[str, dict[str, Value]] = Field(min_length=1)


class Timing(params.Section):
    stages: list[str] = Field(min_length=1)


class Confirmation(params.Section):
    setting: dict[str, Value]
    files: list[str] = Field(min_length=1)


class Experiments(params.Section):
    named: dict[str, Experiment | Timing | Confirmation]


def machine() -> str:
    """What computed a figure: figures of other machines may differ in their last digits, and trainings by more."""
    from audio_from_video.backbones import hub as backbones

    return f"{len(os.sched_getaffinity(0))} cores, {backbones.device()}, torch {version('torch').split('+')[0]}"


def time_one(stage: str) -> dict:
    """Run a stage (`generator mapping`) once and read its log."""
    if subprocess.run([sys.executable, "-m", *f"stages.{stage}".split()]).returncode:
        raise UserError(f"the stage {stage} failed; its message stands above")
    log = json.loads(Path(f"logs/{stage.replace(' ', '/')}.json").read_text())
    return {
        "stage": stage,
        "seconds": f"{log['seconds']:.0f}",
        "of that training": f"{log['computing_s']:.0f}",
        "peak memory MiB": log["peak_memory_mib"],
        "processes": log["workers"],
        "machine": machine(),
    }


def run_pipeline(revision: str, changes: dict[str, Value], targets: list[str]) -> None:
    """Run the pipeline up to `targets` (none: all of it) with changed parameters, as DVC experiment `revision`."""
    settings = [part for key, value in changes.items() for part in ("-S", f"{key}={_text(value)}")]
    command = ["dvc", "exp", "run", "--temp", "--name", revision, *settings, *targets]
    subprocess.run(
        ["dvc", "exp", "remove", revision], capture_output=True
    )  # what an earlier run of the same name left
    if subprocess.run(command).returncode:
        raise UserError(f"`{' '.join(command)}` failed; its message stands above")


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def read_figures(revision: str, condition: str, experiment: Experiment) -> dict:
    """What an experiment's metrics say of a condition and, as the experiment asks, of generator and filter."""
    import dvc.api

    found = dvc.api.metrics_show(f"metrics/classifier/{condition}.json", rev=revision)
    figures = {name: found[name] for name in ("validation_accuracy", "accuracy")}
    if experiment.missing_rates:
        figures |= {
            f"accuracy_missing_{rate}": figure
            for rate, figure in found["accuracy_at_missing_rate"].items()
        }
    if experiment.generator:
        made = dvc.api.metrics_show(f"metrics/generator/{experiment.generator}.json", rev=revision)
        figures |= {
            f"centred_cosine_{split}": made[split]["generated"]["centred_cosine"]
            for split in ("validation", "test")
        }
    if BASELINE in experiment.conditions and condition != BASELINE:
        own, base = (read_answers(revision, name).of("test") for name in (condition, BASELINE))
        figures["accuracy_minus_video_only"] = intervals.paired_difference(
            own.hits(), base.hits(), own.clips.source_id.to_numpy()
        )
    if experiment.filter:
        figures["kept_fraction"] = dvc.api.metrics_show("metrics/filter.json", rev=revision)[
            SEMANTIC_VALIDATION
        ]["kept_fraction"]
    row = {
        f"{name}{end}": figure[key] for name, figure in figures.items() for end, key in ENDS.items()
    }
    accuracy = found["accuracy"]
    return row | {
        "clips": accuracy["n"],
        "sources": accuracy["sources"],
        "seeds": accuracy["seeds"],
    }


def read_answers(revision: str, condition: str) -> predictions.Predictions:
    """What an experiment's condition answered."""
    import dvc.api

    content = dvc.api.read(f"data/predictions/{condition}.parquet", rev=revision, mode="rb")
    return predictions.of_table(pq.read_table(io.BytesIO(content)))


ENDS = {"": "mean", "_low": "ci95_low", "_high": "ci95_high"}


def run_settings(name: str, experiment: Experiment, path: Path, again: bool) -> None:
    """Run the settings one by one; the CSV file grows with each."""
    rows = (
        []
        if again or not path.is_file()
        else pd.read_csv(path, dtype={"setting": str}).to_dict("records")
    )
    for number, (setting, changes) in enumerate(experiment.settings.items()):
        if set(experiment.conditions) <= {
            row["condition"] for row in rows if row["setting"] == setting
        }:
            continue
        revision = f"{name.replace('_', '-')}-{number}"
        run_pipeline(
            revision, changes, [f"classifier@{condition}" for condition in experiment.conditions]
        )
        rows = [row for row in rows if row["setting"] != setting]
        for condition in experiment.conditions:
            found = read_figures(revision, condition, experiment)
            rows.append({"setting": setting, "condition": condition, **found, "machine": machine()})
        order = list(experiment.settings)
        rows.sort(
            key=lambda row: order.index(row["setting"]) if row["setting"] in order else len(order)
        )
        pd.DataFrame(rows).to_csv(path, index=False, float_format="%.6f")


def confirm(name: str, experiment: Confirmation) -> None:
    """Run everything once with the experiment's setting and keep its files below metrics/experiments/<name>."""
    import dvc.api

    run_pipeline(f"{name}-0", experiment.setting, [])
    folder = layout.EXPERIMENTS / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in experiment.files:
        text = dvc.api.read(file, rev=f"{name}-0")
        (folder / Path(file).name).write_text(
            text.split("\n## Experiment: ")[0].rstrip() + "\n"
        )  # those are of other data
    (folder / "setting.json").write_text(
        json.dumps(experiment.setting | {"machine": machine()}, indent=2) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tools.experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", help="an experiment of params.yaml")
    parser.add_argument(
        "--again", action="store_true", help="run settings that have rows already, too"
    )
    arguments = parser.parse_args()
    try:
        run(arguments.name, arguments.again)
    except UserError as error:
        sys.exit(f"experiments: error: {error}")


def run(name: str, again: bool) -> None:
    """Run an experiment."""
    named = params.load("experiments", Experiments).named
    if name not in named:
        raise UserError(
            f"'{name}' is not an experiment of params.yaml; there are {', '.join(named)}"
        )
    path = layout.EXPERIMENTS / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    experiment = named[name]
    if isinstance(experiment, Timing):
        pd.DataFrame([time_one(stage) for stage in experiment.stages]).to_csv(path, index=False)
    elif isinstance(experiment, Confirmation):
        confirm(name, experiment)
    else:
        run_settings(name, experiment, path, again)


if __name__ == "__main__":
    main()
