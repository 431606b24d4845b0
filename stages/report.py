"""Write the tables: every condition on all test clips and on subsets, paired with `video_only`.

Reads    data/predictions/<condition>.parquet of every condition in params.yaml, data/audio_features (which clips have
         audible sound), data/filter.parquet (which are kept), data/truth.parquet (rendered clips only) and the metrics
         files of the stages before
Writes   metrics/tables.md, metrics/subsets.csv (every figure of every condition on every subset, with its interval),
         metrics/report.json (their means, for `dvc metrics diff`)
Values are averaged over seeds per clip; intervals and differences resample sources (common/statistics.py).  A condition
or a seed that is missing is an error, not a gap.
"""
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from stages.common import params, predictions, run, shards, statistics, tables
from stages.common.errors import UserError
from stages.common.tables import markdown, percent

BASELINE, UPPER_BOUND = "video_only", "real_audio"
REPORTED = {  # accuracies of the research description, 20 MiT classes, untuned
    "video_only": "17.79 (elsewhere 17.7)",
    "generated": "18.56 (18.6)",
    "published": "35.6, 62.3 % kept",
    "real_audio": "34.32 (34.0)",
}
ARCHITECTURES = {"validation": ("generated", "validated"), "mapping": ("mapped", "mapped_validated")}  # rows: every clip, filtered
NOT_COMPARABLE = (
    "*Reported* figures are the research description's: 20 classes of Moments in Time, untuned, and 35.6 likely scored on the "
    "kept clips alone. Ours are of the data set named above: other videos, other classes, other backbones. They stand side by "
    "side for orientation and cannot be compared."
)
WRITTEN_BY = {"statistics": "benchmarks.statistics"}  # experiments that need no pipeline
SUBSETS = {  # how a subset's columns are headed
    "with_audio": "audible sound", "without_audio": "no audible sound", "kept": "kept", "rejected": "rejected",
    "own_sound": "its own sound", "foreign_sound": "foreign sound",
}  # fmt: skip


class ReportParams(params.Section):
    look_alike_pairs: list[list[str]]


class Conditions(params.Section):
    conditions: dict[str, dict]
    seeds: int


class Root(params.Section):
    root: str


def read_test(condition: str, row: dict, seeds: int) -> pd.DataFrame:
    """Test clips of one condition, indexed by clip_id: action, source_id and `hit`, the share of seeds that are right."""
    test = predictions.read(condition).of("test")
    found = len(test.probabilities)
    seeds = 1 if row["model"] == "logistic" and row["train_audio"] == "none" else seeds  # nothing in it is drawn
    if len(test.clips) and found != seeds:
        raise UserError(
            f"data/predictions/{condition}.parquet holds {found} seeds, params.yaml asks for {seeds}: "
            f"run `dvc repro classifier@{condition}`"
        )
    return test.clips.assign(hit=test.hits()).set_index("clip_id").sort_index()


def subsets(clips: pd.Index) -> dict[str, np.ndarray]:
    """Test subsets as masks over `clips`: by audible sound, by the filter's decision, and on rendered clips by whether the
    sound belongs to the action."""
    heard = {row["clip_id"] for row in shards.ok_rows(Path("data/audio_features"))}
    decisions = pq.read_table("data/filter.parquet", columns=["clip_id", "keep"]).to_pandas()
    kept = set(decisions.clip_id[decisions.keep])
    masks = {"with_audio": clips.isin(heard), "without_audio": ~clips.isin(heard), "kept": clips.isin(kept), "rejected": ~clips.isin(kept)}
    truth = pq.read_table("data/truth.parquet", columns=["clip_id", "sound_belongs"]).to_pandas()
    if len(truth):
        belongs = set(truth.clip_id[truth.sound_belongs])
        masks["own_sound"] = masks["with_audio"] & clips.isin(belongs)
        masks["foreign_sound"] = masks["with_audio"] & ~clips.isin(belongs)
    return masks


def figures(tests: dict[str, pd.DataFrame], partial: set[str]) -> dict:
    """Per condition: accuracy on all its test clips and on subsets, and the paired differences to the baseline on the same
    clips.  Conditions in `partial` answer some test clips only."""
    everything = tests[BASELINE]
    masks = {"": np.ones(len(everything), bool)} | subsets(everything.index)
    result: dict = {}
    for name, clips in tests.items():
        if name not in partial and not clips.index.equals(everything.index):
            raise UserError(f"{name} answers other test clips than {BASELINE}: run `dvc repro` so that both see the same features")
        row: dict = {}
        for subset, mask in masks.items():
            chosen = clips.loc[clips.index.intersection(everything.index[mask])]
            base, suffix = everything.hit[chosen.index].to_numpy(), f"_{subset}" if subset else ""
            row[f"accuracy{suffix}"] = statistics.interval(chosen.hit, chosen.source_id)
            if name != BASELINE:
                row[f"difference{suffix}"] = statistics.paired_difference(chosen.hit, base, chosen.source_id)
        if name != BASELINE:
            base = everything.hit[clips.index].to_numpy()
            row["smallest_detectable_difference"] = statistics.smallest_detectable_difference(clips.hit, base, clips.source_id)
        result[name] = row
    return result


def long_table(result: dict) -> pd.DataFrame:
    """All figures as rows: condition, measure (accuracy, or difference to the baseline), subset ('' for all test clips)."""
    rows = []
    for condition, figures_of in result.items():
        for name, figure in figures_of.items():
            if isinstance(figure, dict):
                measure, _, subset = name.partition("_")
                rows.append({"condition": condition, "measure": measure, "subset": subset, **figure})
    return pd.DataFrame(rows)


def means(result: dict) -> dict:
    """The figures without their intervals: what `dvc metrics diff` should compare at a glance."""
    plain = {key: figure["mean"] if isinstance(figure, dict) and "mean" in figure else figure for key, figure in result.items()}
    return {key: means(figure) if isinstance(figure, dict) else figure for key, figure in plain.items()}


def pair_accuracy(tests: dict[str, pd.DataFrame], pairs: list[list[str]]) -> dict:
    """Accuracy on the clips of each look-alike pair, on all of them and on the other actions."""
    result: dict = {}
    for name, clips in tests.items():
        groups = {" / ".join(pair): clips.action.isin(pair) for pair in pairs}
        groups["all pairs"] = clips.action.isin([action for pair in pairs for action in pair])
        groups["other actions"] = ~groups["all pairs"]
        result[name] = {group: statistics.interval(clips.hit[mask], clips.source_id[mask]) for group, mask in groups.items()}
    return result


def main_table(result: dict, conditions: dict) -> str:
    rows = []
    for name, row in result.items():
        own = tables.metrics_of(f"classifier/{name}")
        accuracy = row["accuracy"]
        rows.append([
            f"`{name}`", f"{conditions[name]['train_audio']} / {conditions[name]['test_audio']}", percent(accuracy),
            percent(row["difference"], True) if name != BASELINE else "", f"{100 * own['accuracy']['seed_sd']:.1f}",
            percent(own["macro_f1"]), percent(own["top5"]), f"{own['parameters']:,}",
            f"{accuracy['n']} / {accuracy['sources']} / {own['accuracy']['seeds']}", REPORTED.get(name, ""),
        ])  # fmt: skip
    header = ["condition", "audio in training / at test", "accuracy", f"minus `{BASELINE}`, same clips", "sd over seeds", "macro F1",
              "top 5", "parameters", "clips / sources / seeds", "*reported*"]  # fmt: skip
    return markdown(header, rows)


def subset_table(result: dict) -> str:
    """Accuracy of every condition on every subset."""
    names = [name for name in SUBSETS if f"accuracy_{name}" in result[BASELINE]]
    header = ["condition", *(f"{SUBSETS[name]} (n = {result[BASELINE][f'accuracy_{name}']['n']})" for name in names)]
    rows = [[f"`{condition}`", *(percent(row[f"accuracy_{name}"]) for name in names)] for condition, row in result.items()]
    return markdown(header, rows)


def pair_table(pairs: dict) -> str:
    groups = list(pairs[BASELINE])
    header = ["condition", *(f"{group} (n = {pairs[BASELINE][group]['n']})" for group in groups)]
    return markdown(header, [[f"`{name}`", *(percent(row[group]) for group in groups)] for name, row in pairs.items()])


def introduction(root: str, tests: dict[str, pd.DataFrame], result: dict) -> str:
    base, heard = tests[BASELINE], result[BASELINE]["accuracy_with_audio"]
    resolved = result[UPPER_BOUND]["smallest_detectable_difference"]
    return (
        f"Data set: `{root}`; {len(base)} test clips of {base.source_id.nunique()} sources and {base.action.nunique()} actions; "
        f"{heard['n']} of them ({heard['sources']} sources) have audible sound. Accuracies in per cent with 95 % intervals, differences "
        f"in points; both by resampling sources. The smallest true difference between `{UPPER_BOUND}` and `{BASELINE}` that this test "
        f"set would find with 80 % power is {100 * resolved:.1f} points."
    )


def architecture_table(tests: dict[str, pd.DataFrame], result: dict) -> str:
    """The two architectures side by side, on the same clips and folds."""
    rows, columns = tables.architecture_figures(ARCHITECTURES), list(ARCHITECTURES)
    for name, kind in (("accuracy %, every clip", 0), ("accuracy %, filtered", 1)):
        rows.append([name, *(percent(result[ARCHITECTURES[column][kind]]["accuracy"]) for column in columns)])
    first, second = (tests[ARCHITECTURES[column][0]] for column in columns)
    difference = statistics.paired_difference(second.hit, first.hit.loc[second.index], second.source_id)
    rows.append([f"`{columns[1]}` minus `{columns[0]}`, every clip, points", "", percent(difference, True)])
    return markdown(["on test", *(f"`{column}`" for column in columns)], rows)


def main(stage: run.StageRun) -> None:
    p = params.load("report", ReportParams)
    rows = params.load("classifier", Conditions, only=True)
    named = stage.progress(rows.conditions.items(), len(rows.conditions), "condition")
    tests = {name: read_test(name, condition, rows.seeds) for name, condition in named}
    result = figures(tests, {name for name, condition in rows.conditions.items() if condition.get("kept_only")})
    metrics: dict = {
        "test_clips": len(tests[BASELINE]), "test_sources": tests[BASELINE].source_id.nunique(), "conditions": means(result)
    }  # fmt: skip
    root = params.load("clips", Root, only=True).root
    text = ["# Results", introduction(root, tests, result)]
    text += ["## Main table", main_table(result, rows.conditions), NOT_COMPARABLE]
    if all(name in tests for kinds in ARCHITECTURES.values() for name in kinds):
        text += [
            "## The two architectures", "`validation` generates and then checks; `mapping` builds the meaning in. Same clips, folds and "
            "seeds. Seconds of training stand in the experiment `training` below.", architecture_table(tests, result),
        ]  # fmt: skip
    text += ["## On subsets of the test clips", "`published` answers kept clips only.", subset_table(result)]
    if pairs := [pair for pair in p.look_alike_pairs if set(pair) <= set(tests[BASELINE].action)]:
        accuracies = pair_accuracy(tests, pairs)
        metrics["look_alike_pairs"] = means(accuracies)
        text += ["## Within look-alike pairs", "Accuracy (over all actions) on the clips of actions that look alike and sound different.",
                 pair_table(accuracies)]  # fmt: skip
    text += tables.of_stages()
    text += experiment_tables()
    long_table(result).to_csv("metrics/subsets.csv", index=False, float_format="%.6f")
    Path("metrics/tables.md").write_text("\n\n".join(text) + "\n")
    stage.write_metrics(metrics)


def experiment_tables() -> list[str]:
    """The committed results of runs outside the default pipeline, `python -m stages.experiments` most of them, a table each."""
    text = []
    for path in sorted(Path("metrics/experiments").glob("*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        text += [f"## Experiment: {path.stem}", f"Written by `python -m {WRITTEN_BY.get(path.stem, f'stages.experiments {path.stem}')}`.",
                 markdown(list(table.columns), table.to_numpy().tolist())]  # fmt: skip
    return text


if __name__ == "__main__":
    run.main(main, __doc__, "report")
