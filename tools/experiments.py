"""Run a named experiment outside the default pipeline: the same pipeline once per setting.

    python -m tools.experiments <name> [--again] [--samples <seed> ...]

params.yaml names the experiments. There are three kinds of them:

settings   runs the pipeline once per setting and writes metrics/experiments/<name>.csv, a row per
           setting and condition. A setting is a set of parameters to change, run by
           `dvc exp run --temp` from the last commit (commit first; stored items are reused) and
           kept as experiment <name>-<number>. Conditions that params.yaml lacks are taken from
           params/full.yaml. Settings with rows in the file are not run again unless `--again` says
           so.
stages     runs these stages where they stand and writes how long each takes: seconds stand in no
           metrics file.
files      runs everything once with the experiment's setting, and keeps these files of it in
           metrics/experiments/<name>/.

Columns of the first kind: setting, condition; for each figure X its mean and 95 % interval (X,
X_low, X_high); with a generator its figures out of fold; clips, sources, seeds, machine. Paired
differences at the same setting are among the figures: to `video_only` where it is among the
conditions, and to what the experiment names (`baselines`, `controls`, `upper_bounds`). With
`together` last rows hold the paired differences on the test clips of all settings. With `samples`
every setting is run on each of these samples: the column `sample_seed` says which, and its rows
`all` hold means over the samples and their intervals, whose unit is the sample.
metrics/experiments/<name>.json holds the stamps of the figures: data, code, parameters, commit and
machine (audio_from_video/reporting/stamps.py).
`report` puts the files, which are kept in git, into metrics/tables.md; those whose stamps are not
of its own data, code and parameters stand behind a banner.
"""

import argparse
import io
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from audio_from_video.evaluation import intervals
from audio_from_video.evaluation.settings import (
    ALL_SAMPLES,
    Confirmation,
    Experiment,
    Experiments,
    Timing,
    Value,
)
from audio_from_video.reporting import provenance, stamps
from audio_from_video.reporting.stamps import Stamp
from audio_from_video.runtime import params
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import SEMANTIC_VALIDATION
from audio_from_video.storage import layout, predictions, shards

Figure = dict[str, float]  # mean, ci95_low, ci95_high, and what else the metrics hold
BASELINE = "video_only"
# Figures that have a mean over samples.
OVER_SAMPLES = ("accuracy", "accuracy_minus_video_only", "gain", "gain_over_control", "gap_share")
COUNTS = ("seeds", "samples")  # columns of whole numbers, which some rows lack
FULL_SET = Path("params/full.yaml")
# Figures of a generator by which its settings are chosen.
OUT_OF_FOLD = ("r2", "r2_first_components", "own_minus_same_action")
ONE_SAMPLE = (None,)  # the one that params.yaml names
# Suffixes of the columns of a figure, and the figure's parts that stand there.
INTERVAL_COLUMNS = {"": "mean", "_low": "ci95_low", "_high": "ci95_high"}
# A section of metrics/tables.md with an experiment's table, up to the next section.
EXPERIMENT_SECTION = re.compile(r"\n## (Experiment: |Confirmatory run).*?(?=\n## |\Z)", re.DOTALL)


def machine() -> str:
    """Return what computed a figure: other machines may give other last digits."""
    # PyTorch takes a second to import, which `--help` need not wait for.
    from audio_from_video.backbones import hub

    torch_version = version("torch").split("+")[0]
    return f"{provenance.processor(hub.device())}, torch {torch_version}"


def run(name: str, again: bool, samples: Sequence[int] = ()) -> None:
    """Run an experiment and write its file or files.

    again: also settings that have rows.  samples: those of the experiment to run; () = all.
    Raises UserError when params.yaml does not name it, or when one of its runs fails.
    """
    named = params.load("experiments", Experiments).named
    if name not in named:
        raise UserError(
            f"'{name}' is not an experiment of params.yaml; there are {', '.join(named)}"
        )
    layout.EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    path = layout.EXPERIMENTS / f"{name}.csv"
    experiment = named[name]
    if isinstance(experiment, Timing):
        stamp = stamps.begin(machine(), [])
        rows = [time_stage(stage) for stage in experiment.stages]
        pd.DataFrame(rows).to_csv(path, index=False)
        targets = [stage.replace(" ", "@") for stage in experiment.stages]
        stamps.write(name, {name: stamps.finish_in_workspace(stamp, targets)})
    elif isinstance(experiment, Confirmation):
        confirm(name, experiment)
    else:
        run_settings(name, experiment, path, again, samples)


def time_stage(stage: str) -> dict:
    """Run a stage (`generator caption_mapping`) once; return its row of the table, from its log."""
    command = [sys.executable, "-m", *f"stages.{stage}".split()]
    if subprocess.run(command).returncode:
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


@dataclass(frozen=True)
class Run:
    """A setting to run.

    sample: seed of the rendered sample, as text; '' for the one that params.yaml names.
    changes: parameters by their dotted names.
    """

    revision: str
    setting: str
    sample: str
    changes: dict[str, Value]

    def has(self, row: dict) -> bool:
        """Return whether a row of the table is of this run."""
        return (row["setting"], row.get("sample_seed", "")) == (self.setting, self.sample)


def runs_of(name: str, experiment: Experiment) -> list[Run]:
    """Return all runs of an experiment, sample by sample."""
    runs = []
    for sample in experiment.samples or ONE_SAMPLE:
        of_sample = {} if sample is None else {"sample.seed": sample}
        for number, (setting, own_changes) in enumerate(experiment.settings.items()):
            changes = experiment.always | of_sample | own_changes
            revision = revision_of(name, number)
            if sample is None:
                runs.append(Run(revision, setting, "", changes))
            else:
                runs.append(Run(f"{revision}-sample-{sample}", setting, str(sample), changes))
    return runs


def run_settings(
    name: str, experiment: Experiment, path: Path, again: bool, samples: Sequence[int] = ()
) -> None:
    """Run the settings one by one; the CSV file at `path` grows with each.

    samples: seeds of the samples that are run now; () = all.  Raises UserError where the
    experiment does not name one of them.
    """
    unknown = set(samples) - set(experiment.samples)
    if unknown:
        raise UserError(
            f"--samples {' '.join(map(str, sorted(unknown)))}: not among the samples of '{name}' "
            f"in params.yaml ({', '.join(map(str, experiment.samples)) or 'it names none'})"
        )
    rows: list[dict] = []
    if path.is_file() and not again:
        kinds = {"setting": str, "sample_seed": str}
        rows = pd.read_csv(path, dtype=kinds).to_dict("records")

    stamped = stamps.read(name)
    added = conditions_of_full_set(experiment.conditions)
    for run in runs_of(name, experiment):
        if samples and int(run.sample) not in samples:
            continue
        finished = {row["condition"] for row in rows if run.has(row)}
        if finished >= set(experiment.conditions):
            continue
        targets = [f"classifier@{condition}" for condition in experiment.conditions]
        stamp = begin_stamp(run.changes)
        run_pipeline(run.revision, added | run.changes, targets)

        rows = [row for row in rows if not run.has(row)]
        for condition in experiment.conditions:
            row = {"setting": run.setting, "condition": condition}
            if run.sample:
                row["sample_seed"] = run.sample
            row |= figure_columns(run.revision, condition, experiment)
            rows.append(row | {"machine": machine()})
        rows = in_order(rows, experiment)
        write_rows(rows, path)
        # Rows of earlier runs keep their own stamps.
        stamp_name = stamps.name_of_run(run.setting, run.sample)
        stamped[stamp_name] = finish_stamp(stamp, run.revision, targets, run.changes)
        stamps.write(name, stamped)
    if experiment.together:
        rows = [row for row in rows if row["setting"] != experiment.together]
        rows += rows_together(name, experiment)
        write_rows(rows, path)
        stamped[experiment.together] = stamped[list(experiment.settings)[-1]]
        stamps.write(name, stamped)


def write_rows(rows: list[dict], path: Path) -> None:
    """Write an experiment's table."""
    table = pd.DataFrame(rows)
    for name in COUNTS:
        if name in table:
            table[name] = table[name].astype("Int64")
    table.to_csv(path, index=False, float_format="%.6f")


def in_order(rows: list[dict], experiment: Experiment) -> list[dict]:
    """Return the rows by setting and sample, with new rows over all samples.

    Settings and samples that params.yaml no longer names come last.
    """
    settings = {setting: position for position, setting in enumerate(experiment.settings)}
    samples = {str(sample): position for position, sample in enumerate(experiment.samples)}

    def position(row: dict) -> tuple[int, int]:
        sample = samples.get(row.get("sample_seed", ""), len(samples))
        return settings.get(row["setting"], len(settings)), sample

    if not experiment.samples:
        return sorted(rows, key=position)
    of_samples = [row for row in rows if row["sample_seed"] != ALL_SAMPLES]
    return sorted([*of_samples, *rows_over_samples(of_samples)], key=position)


def rows_over_samples(rows: list[dict]) -> list[dict]:
    """Return a row per setting and condition that has rows of at least two samples.

    Figures are means over the samples with 95 % intervals of Student's t, whose unit is the
    sample: another one is another set of looks, of clips and of trainings.  A figure that a sample
    lacks is left out.
    """
    table = pd.DataFrame(rows)
    summary = []
    for (setting, condition), own in table.groupby(["setting", "condition"], sort=False):
        if len(own) < 2:
            continue
        figures = {}
        for name in OVER_SAMPLES:
            if name in own and own[name].notna().all():
                figures[name] = intervals.mean_over_samples(own[name].to_numpy())
        row = {"setting": setting, "condition": condition, "sample_seed": ALL_SAMPLES}
        sizes = {"clips": own.clips.sum(), "sources": own.sources.sum(), "samples": len(own)}
        summary.append(row | spread_out(figures) | sizes)
    return summary


def revision_of(name: str, number: int) -> str:
    """Return the name of the DVC experiment of a setting, by its number."""
    return f"{name.replace('_', '-')}-{number}"


def conditions_of_full_set(names: list[str]) -> dict[str, Value]:
    """Return the settings of those conditions that params.yaml lacks, as params/full.yaml has them.

    They are dotted names that `dvc exp run -S` adds (`++`), with their values.  Raises UserError
    where a condition is in neither file.
    """
    here = params.read("classifier", "conditions", dict)
    lacking = [name for name in names if name not in here]
    if not lacking:
        return {}
    others = YAML(typ="safe").load(FULL_SET)["classifier"]["conditions"]
    found: dict[str, Value] = {}
    for name in lacking:
        if name not in others:
            raise UserError(f"'{name}' is no condition of params.yaml or {FULL_SET}")
        found |= leaves(f"++classifier.conditions.{name}", others[name])
    return found


def leaves(name: str, value: Any) -> dict[str, Value]:
    """Return the plain values below a name, by dotted names."""
    if not isinstance(value, dict):
        return {name: value}
    found: dict[str, Value] = {}
    for key, part in value.items():
        found |= leaves(f"{name}.{key}", part)
    return found


def rows_together(name: str, experiment: Experiment) -> list[dict]:
    """Return a row per condition on the test clips of all settings together."""
    revisions = [revision_of(name, number) for number in range(len(experiment.settings))]
    answers = {}
    for condition in experiment.conditions:
        answers[condition] = pooled([read_answers(revision, condition) for revision in revisions])
    rows = []
    for condition, own in answers.items():
        accuracy = intervals.interval(own.hits, own.sources)
        figures = {"accuracy": accuracy} | comparisons(condition, answers, experiment)
        row = {"setting": experiment.together, "condition": condition, **spread_out(figures)}
        sizes = {"clips": accuracy["n"], "sources": accuracy["sources"]}
        rows.append(row | sizes | {"seeds": own.hits.shape[1], "machine": machine()})
    return rows


def begin_stamp(changes: dict[str, Value]) -> Stamp:
    """Return the stamp of a setting's run, before it starts: a commit may be made meanwhile."""
    return stamps.begin(machine(), [f"{key} {yaml_value(value)}" for key, value in changes.items()])


def finish_stamp(
    stamp: Stamp, revision: str, targets: list[str], changes: dict[str, Value]
) -> Stamp:
    """Return the stamp with data and code of an experiment's run.

    targets: stages whose metrics were read.  changes: parameters that the experiment changed.
    A sample that the experiment draws is never that of the main table. It follows from code and
    parameters, so that the data play no part then.
    """
    import dvc.api

    lock = YAML(typ="safe").load(dvc.api.read("dvc.lock", rev=revision))
    code = stamps.code_in_lock(lock, targets)
    if any(key.startswith("sample.") for key in changes):
        return stamps.finish(stamp, None, code)
    clips = dvc.api.read(str(layout.CLIPS), rev=revision, mode="rb")
    data = shards.clip_set(pq.read_schema(io.BytesIO(clips))) or stamps.UNKNOWN
    return stamps.finish(stamp, data, code)


def run_pipeline(revision: str, changes: dict[str, Value], targets: list[str]) -> None:
    """Run the pipeline up to `targets` (none: all of it) as DVC experiment `revision`.

    changes: parameters by their dotted names. Raises UserError when the run fails.
    """
    command = ["dvc", "exp", "run", "--temp", "--name", revision]
    for key, value in changes.items():
        command += ["-S", f"{key}={yaml_value(value)}"]
    command += targets
    # An earlier run may have left an experiment of this name.
    subprocess.run(["dvc", "exp", "remove", revision], capture_output=True)
    if subprocess.run(command).returncode:
        raise UserError(f"`{' '.join(command)}` failed; its message stands above")


def yaml_value(value: Value) -> str:
    """Return a value as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def figure_columns(revision: str, condition: str, experiment: Experiment) -> dict:
    """Return the columns of a row that come from the metrics of an experiment's run."""
    metrics = read_metrics(f"metrics/classifier/{condition}.json", revision)
    figures = {name: metrics[name] for name in ("validation_accuracy", "accuracy")}
    choosing: dict[str, float] = {}
    if experiment.missing_rates:
        for rate, figure in metrics["accuracy_at_missing_rate"].items():
            figures[f"accuracy_missing_{rate}"] = figure
    if experiment.generator:
        of_generator = read_metrics(f"metrics/generator/{experiment.generator}.json", revision)
        for split in ("validation", "test"):
            figure = of_generator[split]["generated"]["centred_cosine"]
            figures[f"centred_cosine_{split}"] = figure
        out_of_fold = of_generator["out_of_fold"]["generated"]
        choosing = {f"{name}_out_of_fold": out_of_fold[name] for name in OUT_OF_FOLD}
    compared = {condition, BASELINE} if BASELINE in experiment.conditions else {condition}
    for others in (experiment.baselines, experiment.controls, experiment.upper_bounds):
        compared |= {others[condition]} if condition in others else set()
    if len(compared) > 1:
        answers = {name: read_answers(revision, name) for name in sorted(compared)}
        figures |= comparisons(condition, answers, experiment)
    if experiment.filter:
        of_filter = read_metrics("metrics/filter.json", revision)
        figures["kept_fraction"] = of_filter[SEMANTIC_VALIDATION]["kept_fraction"]

    columns = spread_out(figures) | choosing
    accuracy = metrics["accuracy"]
    columns["clips"] = accuracy["n"]
    columns["sources"] = accuracy["sources"]
    columns["seeds"] = accuracy["seeds"]
    return columns


def spread_out(figures: dict[str, Figure]) -> dict[str, float]:
    """Return the columns of figures, three each."""
    columns = {}
    for name, figure in figures.items():
        for suffix, part in INTERVAL_COLUMNS.items():
            columns[f"{name}{suffix}"] = figure[part]
    return columns


@dataclass(frozen=True)
class Answers:
    """What a condition answers on test clips.

    hits [N, trainings] bool: whether it is right.  sources [N]: of the clips.
    """

    hits: np.ndarray
    sources: np.ndarray


def read_answers(revision: str, condition: str) -> Answers:
    """Return the answers of a condition in an experiment's run."""
    test = read_predictions(revision, condition).of("test")
    return Answers(test.hits_by_seed().T, test.clips.source_id.to_numpy())


def pooled(parts: list[Answers]) -> Answers:
    """Return the answers on the clips of several runs, which have as many trainings each."""
    hits = np.concatenate([part.hits for part in parts])
    return Answers(hits, np.concatenate([part.sources for part in parts]))


def comparisons(
    condition: str, answers: dict[str, Answers], experiment: Experiment
) -> dict[str, Figure]:
    """Return a condition's paired differences in test accuracy to other conditions, by name."""
    own = answers[condition]

    def minus(other: str) -> Figure:
        return intervals.paired_difference(own.hits, answers[other].hits, own.sources)

    figures = {}
    if BASELINE in answers and condition != BASELINE:
        figures["accuracy_minus_video_only"] = minus(BASELINE)
    baseline = experiment.baselines.get(condition)
    if baseline:
        figures["gain"] = minus(baseline)
    if condition in experiment.controls:
        figures["gain_over_control"] = minus(experiment.controls[condition])
    upper = experiment.upper_bounds.get(condition)
    if baseline and upper:
        share = intervals.gap_share(
            own.hits.mean(1),
            answers[baseline].hits.mean(1),
            answers[upper].hits.mean(1),
            own.sources,
        )
        if share:
            figures["gap_share"] = share
    return figures


def read_metrics(path: str, revision: str) -> dict:
    """Return a metrics file of an experiment's run."""
    import dvc.api

    # `metrics_show` does not find files that this commit lacks, such as those of another condition.
    return json.loads(dvc.api.read(path, rev=revision))


def read_predictions(revision: str, condition: str) -> predictions.Predictions:
    """Return the predictions of a condition in an experiment's run."""
    import dvc.api

    path = str(layout.predictions(condition))
    content = dvc.api.read(path, rev=revision, mode="rb")
    return predictions.from_table(pq.read_table(io.BytesIO(content)))


def confirm(name: str, experiment: Confirmation) -> None:
    """Run everything once with the experiment's setting and keep its files."""
    import dvc.api

    revision = f"{name}-0"
    stamp = begin_stamp(experiment.setting)
    run_pipeline(revision, experiment.setting, [])
    folder = layout.EXPERIMENTS / name
    folder.mkdir(parents=True, exist_ok=True)
    for file in experiment.files:
        text = without_experiments(dvc.api.read(file, rev=revision))
        (folder / Path(file).name).write_text(text)
    stamps.write(name, {name: finish_stamp(stamp, revision, ["report"], experiment.setting)})


def without_experiments(text: str) -> str:
    """Return metrics/tables.md without the tables of experiments, which are of another run."""
    return EXPERIMENT_SECTION.sub("", text).rstrip() + "\n"


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
    parser.add_argument(
        "--samples",
        nargs="+",
        type=int,
        default=[],
        metavar="SEED",
        help="run these of the experiment's samples only, for instance one per machine",
    )
    arguments = parser.parse_args()
    try:
        run(arguments.name, arguments.again, arguments.samples)
    except UserError as error:
        sys.exit(f"experiments: error: {error}")


if __name__ == "__main__":
    main()
