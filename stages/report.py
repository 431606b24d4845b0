"""Write the tables: every condition on all test clips and on subsets, paired with `video_only`.

Reads    data/predictions/<condition>.parquet of every condition in params.yaml, data/audio_features (which clips have
         audible sound), data/truth.parquet (rendered clips only) and the metrics files of the stages before
Writes   metrics/tables.md and metrics/report.json
Values are averaged over seeds per clip; intervals and differences resample sources (common/statistics.py).  A condition
or a seed that is missing is an error, not a gap.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from stages.common import params, predictions, run, shards, statistics
from stages.common.errors import UserError

BASELINE, UPPER_BOUND = "video_only", "real_audio"
REPORTED = {  # accuracies of the research description, 20 MiT classes, untuned
    "video_only": "0.1779 (elsewhere 0.177)",
    "real_audio": "0.3432 (0.340)",
}
NOT_COMPARABLE = (
    "*Reported* figures are the research description's: 20 classes of Moments in Time, untuned, on a test population of which "
    "only the kept clips may have been scored. Ours are of the data set named above: other videos, other classes, other "
    "backbones. They stand side by side for orientation and cannot be compared."
)


class ReportParams(params.Section):
    look_alike_pairs: list[list[str]]


class Conditions(params.Section):
    conditions: dict[str, dict]
    seeds: int


class Root(params.Section):
    root: str


def read_test(condition: str, model: str, seeds: int) -> pd.DataFrame:
    """Test clips of one condition, indexed by clip_id: action, source_id and `hit`, the share of seeds that are right."""
    test = predictions.read(condition).of("test")
    found = len(test.probabilities)
    if found != (1 if model == "logistic" else seeds):
        raise UserError(f"data/predictions/{condition}.parquet holds {found} seeds, params.yaml asks for {seeds}: run `dvc repro classifier@{condition}`")
    return test.clips.assign(hit=test.hits()).set_index("clip_id").sort_index()


def subsets(clips: pd.Index) -> dict[str, np.ndarray]:
    """Test subsets as masks over `clips`: by audible sound, and on rendered clips by whether the sound belongs."""
    heard = {row["clip_id"] for row in shards.ok_rows(Path("data/audio_features"))}
    masks = {"with_audio": clips.isin(heard), "without_audio": ~clips.isin(heard)}
    truth = pq.read_table("data/truth.parquet", columns=["clip_id", "sound_belongs"]).to_pandas()
    if len(truth):
        belongs = set(truth.clip_id[truth.sound_belongs])
        masks["own_sound"] = masks["with_audio"] & clips.isin(belongs)
        masks["foreign_sound"] = masks["with_audio"] & ~clips.isin(belongs)
    return masks


def figures(tests: dict[str, pd.DataFrame]) -> dict:
    """Per condition: accuracy on all test clips and subsets, and the paired difference to the baseline on each."""
    base = tests[BASELINE]
    masks = {"": np.ones(len(base), bool)} | subsets(base.index)
    result: dict = {}
    for name, clips in tests.items():
        if not clips.index.equals(base.index):
            raise UserError(f"{name} answers other test clips than {BASELINE}: run `dvc repro` so that both see the same features")
        row = {}
        for subset, mask in masks.items():
            suffix = f"_{subset}" if subset else ""
            sources = clips.source_id.to_numpy()[mask]
            row[f"accuracy{suffix}"] = statistics.interval(clips.hit.to_numpy()[mask], sources)
            if name != BASELINE:
                row[f"difference{suffix}"] = statistics.paired_difference(clips.hit.to_numpy()[mask], base.hit.to_numpy()[mask], sources)
        if name != BASELINE:
            row["smallest_detectable_difference"] = statistics.smallest_detectable_difference(clips.hit, base.hit, clips.source_id.to_numpy())
        result[name] = row
    return result


def pair_accuracy(tests: dict[str, pd.DataFrame], pairs: list[list[str]]) -> dict:
    """Accuracy on the clips of each look-alike pair, on all of them and on the other actions."""
    result: dict = {}
    for name, clips in tests.items():
        groups = {" / ".join(pair): clips.action.isin(pair) for pair in pairs}
        groups["all pairs"] = clips.action.isin([action for pair in pairs for action in pair])
        groups["other actions"] = ~groups["all pairs"]
        result[name] = {
            group: statistics.interval(clips.hit[mask].to_numpy(), clips.source_id[mask].to_numpy()) for group, mask in groups.items()
        }
    return result


def percent(value: dict, signed: bool = False) -> str:
    """A figure with its interval as text, in per cent (points for differences)."""
    if value["mean"] is None:
        return "no clips"
    form = "{:+.1f}" if signed else "{:.1f}"
    mean, low, high = (form.format(100 * value[key]) for key in ("mean", "ci95_low", "ci95_high"))
    return f"{mean} [{low}, {high}]"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def main_table(result: dict, conditions: dict) -> str:
    rows = []
    for name, row in result.items():
        own = json.loads((Path("metrics/classifier") / f"{name}.json").read_text())
        rows.append([
            f"`{name}`", f"{conditions[name]['train_audio']} / {conditions[name]['test_audio']}",
            percent(row["accuracy"]), f"{100 * own['accuracy']['seed_sd']:.1f}",
            percent(row["difference"], True) if name != BASELINE else "",
            percent(row["accuracy_with_audio"]), percent(row["accuracy_without_audio"]), percent(own["macro_f1"]), percent(own["top5"]),
            f"{own['parameters']:,}", str(own["accuracy"]["seeds"]), REPORTED.get(name, ""),
        ])  # fmt: skip
    header = ["condition", "audio in training / at test", "accuracy", "sd over seeds", f"minus `{BASELINE}`", "accuracy, clips with audible sound",
              "without", "macro F1", "top 5", "parameters", "seeds", "*reported*"]  # fmt: skip
    return markdown(header, rows)


def main(stage: run.StageRun) -> None:
    p = params.load("report", ReportParams)
    rows = params.load("classifier", Conditions, only=True)
    named = stage.progress(rows.conditions.items(), len(rows.conditions), "condition")
    tests = {name: read_test(name, condition["model"], rows.seeds) for name, condition in named}
    result = figures(tests)
    base = tests[BASELINE]
    n, sources = len(base), base.source_id.nunique()
    resolved = result[UPPER_BOUND]["smallest_detectable_difference"]
    heard = result[BASELINE]["accuracy_with_audio"]
    text = [
        "# Results",
        f"Data set: `{params.load('clips', Root, only=True).root}`; {n} test clips of {sources} sources and "
        f"{base.action.nunique()} actions; {heard['n']} of them ({heard['sources']} sources) have audible sound. Accuracies in per cent with "
        "95 % intervals, differences in points; both by resampling sources. The smallest true difference between "
        f"`{UPPER_BOUND}` and `{BASELINE}` that this test set would find with 80 % power is {100 * resolved:.1f} points.",
        "## Main table", main_table(result, rows.conditions), NOT_COMPARABLE,
    ]  # fmt: skip
    metrics = {"test_clips": n, "test_sources": sources, "conditions": result}
    if "accuracy_own_sound" in result[BASELINE]:
        names = ["own_sound", "foreign_sound"]
        header = ["condition", *(f"{name.replace('_', ' ')} (n = {result[BASELINE][f'accuracy_{name}']['n']})" for name in names)]
        lines = [[f"`{name}`", *(percent(row[f"accuracy_{subset}"]) for subset in names)] for name, row in result.items()]
        text += ["## By what the sound is", "Truth of the rendered clips: audible and its own, or audible and foreign (another action's, music).", markdown(header, lines)]
    if p.look_alike_pairs:
        pairs = pair_accuracy(tests, p.look_alike_pairs)
        groups = list(pairs[BASELINE])
        header = ["condition", *(f"{group} (n = {pairs[BASELINE][group]['n']})" for group in groups)]
        text += ["## Within look-alike pairs", "Accuracy (over all actions) on the clips of actions that look alike and sound different.",
                 markdown(header, [[f"`{name}`", *(percent(pairs[name][group]) for group in groups)] for name in pairs])]  # fmt: skip
        metrics["look_alike_pairs"] = pairs
    text += experiment_tables()
    Path("metrics").mkdir(exist_ok=True)
    Path("metrics/tables.md").write_text("\n\n".join(text) + "\n")
    stage.write_metrics(metrics)


def experiment_tables() -> list[str]:
    """The committed results of `python -m stages.experiments` (runs outside the default pipeline), a table each."""
    text = []
    for path in sorted(Path("metrics/experiments").glob("*.csv")):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        text += [f"## Experiment: {path.stem}", f"`python -m stages.experiments {path.stem}` writes it.", markdown(list(table.columns), table.to_numpy().tolist())]
    return text


if __name__ == "__main__":
    run.main(main, __doc__, "report")
