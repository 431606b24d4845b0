"""Write the paper's tables and figures: every condition on all test clips and on subsets, paired with `video_only`.

Reads    data/predictions/<condition>.parquet and data/missing_rates/<condition>.parquet of every condition in params.yaml,
         data/audio_features and data/generated (which clips have audible sound, and how like it the generated one is),
         data/filter/semantic_validation.parquet (which are kept), data/truth.parquet (rendered clips only), `report.audio_visual_actions` and the
         metrics files of the stages before
Writes   metrics/tables.md; metrics/tables/<name>.csv and .tex, a table each; metrics/figures/report/<name>.png and .svg;
         metrics/report.html (common/page.py: tables, figures, thresholds and test clips in one file);
         metrics/subsets.csv (every figure of every condition on every subset, with its interval); metrics/report.json
         (their means, for `dvc metrics diff`)
Values are averaged over seeds per clip; intervals and differences resample sources (common/statistics.py).  A condition,
a seed or a missing rate that is not there is an error, not a gap.
"""

import csv
import re
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from audio_from_video.clipset import truth
from audio_from_video.evaluation import curves, intervals, read_out
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND, Row
from audio_from_video.reporting import (
    experiment_tables,
    figures,
    page,
    row_tables,
    stage_tables,
    tables,
)
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, SEMANTIC_VALIDATION
from audio_from_video.storage import layout, predictions, shards

FIGURES, PICTURES = (
    layout.REPORT_FIGURES,
    (layout.REPRESENTATIVE_FRAMES_FIGURE, layout.MEL_FIGURE),
)
CONFIRMED = layout.CONFIRMATION / "subsets.csv"
LEAKY = ("keep_oracle", "keep_published")  # gates that know the true action
FILLED = ("none", "zeros", "mean", "noise", "token")  # audio at test that says nothing of the clip


class ReportParams(params.Section):
    clips: int = Field(ge=0, le=400)
    look_alike_pairs: list[list[str]]
    audio_visual_actions: str
    curves: list[str]


def read_test(condition: str, row: dict, seeds: int) -> Row:
    """The answers of one condition, which must come from as many seeds as params.yaml asks for."""
    test = predictions.read(condition).of("test")
    found = len(test.probabilities)
    seeds = (
        1 if row["model"] == "logistic" and row["train_audio"] == "none" else seeds
    )  # nothing in it is drawn
    if len(test.clips) and found != seeds:
        raise UserError(
            f"data/predictions/{condition}.parquet holds {found} seeds, params.yaml asks for {seeds}: "
            f"run `dvc repro classifier@{condition}`"
        )
    clips = test.clips.assign(hit=test.hits()).set_index("clip_id").sort_index()
    error = intervals.calibration_error(test.probabilities, test.labels) if len(clips) else None
    return Row(
        clips,
        found,
        condition_evaluation.over_seeds(test, 1)["seed_sd"],
        error,
        condition_evaluation.confusion(test),
    )


def subsets(clips: pd.Index) -> dict[str, np.ndarray]:
    """Test subsets as masks over `clips`: by audible sound, by the filter's decision, and on rendered clips by whether the
    sound belongs to the action."""
    heard = {row["clip_id"] for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    decisions = shards.read_table(
        "data/filter/semantic_validation.parquet", ["clip_id", "keep"]
    ).to_pandas()
    kept = set(decisions.clip_id[decisions.keep])
    masks = {
        "with_audio": clips.isin(heard),
        "without_audio": ~clips.isin(heard),
        "kept": clips.isin(kept),
        "rejected": ~clips.isin(kept),
    }
    sound_belongs = truth.sound_belongs()
    if sound_belongs:
        belongs = {clip_id for clip_id, own in sound_belongs.items() if own}
        masks["own_sound"] = masks["with_audio"] & clips.isin(belongs)
        masks["foreign_sound"] = masks["with_audio"] & ~clips.isin(belongs)
    return masks


def audio_visual_actions(path: str, actions: list[str]) -> set[str] | None:
    """Those of `actions` that a list names in its first column, AVMIT's for one; None without a list.

    Case, `+` and `_` do not matter: Moments in Time writes `playing+music`.
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"the list {path} does not exist (report.audio_visual_actions is relative to the repository)"
        )

    def bare(name: str) -> str:
        return re.sub(r"[+_\s]+", " ", name).strip().lower()

    with open(path, newline="", encoding="utf-8-sig") as lines:
        named = {bare(line[0]) for line in csv.reader(lines) if line}
    found = {action for action in actions if bare(action) in named}
    if not found:
        raise UserError(
            f"{path} (report.audio_visual_actions) names none of the actions {', '.join(actions)} in its first column"
        )
    return found


def action_subsets(actions: pd.Series, audio_visual: set[str] | None) -> dict[str, np.ndarray]:
    """Test subsets by whether the clip's action is on the list of audio-visual ones; none without a list."""
    if audio_visual is None:
        return {}
    listed = actions.isin(audio_visual).to_numpy()
    return {"audio_visual": listed, "other_actions": ~listed}


def introduction(root: str, base: pd.DataFrame, result: dict) -> str:
    heard, resolved = (
        result[BASELINE]["accuracy_with_audio"],
        result[UPPER_BOUND]["smallest_detectable_difference"],
    )
    return (
        f"Data set: `{root}`; {len(base)} test clips of {base.source_id.nunique()} sources and {base.action.nunique()} actions; "
        f"{heard['n']} of them ({heard['sources']} sources) have audible sound. Accuracies in per cent with 95 % intervals, differences "
        f"in points; both by resampling sources. The smallest true difference between `{UPPER_BOUND}` and `{BASELINE}` that this test "
        f"set would find with 80 % power is {100 * resolved:.1f} points."
    )


def lines(
    shown: list[str], rates: dict[str, dict[str, dict]]
) -> dict[str, tuple[list[str], dict, str]]:
    """What is drawn as curves, by figure: ticks, curves of the conditions `shown`, label of the axis."""
    missing = {name: list(rates[name].values()) for name in shown if rates.get(name)}
    ticks = list(rates[BASELINE])
    found = {"missing_rates": (ticks, missing, "test clips without audio (%)")}
    path = layout.LABEL_BUDGET
    if path.is_file():
        found["label_budget"] = (*curves.label_budget(path, shown), "labelled clips per action")
    return found


def gallery() -> str:
    """The figures, for readers of tables.md."""
    drawn = {
        name: caption
        for name, caption in figures.CAPTIONS.items()
        if (FIGURES / f"{name}.png").is_file()
    }
    return "\n\n".join(
        [
            "## Figures",
            *(
                f"![{name}](figures/report/{name}.png)\n\n{caption}"
                for name, caption in drawn.items()
            ),
        ]
    )


def generated_folders() -> dict[str, Path]:
    """Where the features of each architecture of params.yaml lie."""
    made = params.read("generator", "architectures", dict[str, str])
    return {name: layout.generated(name) for name in ARCHITECTURES if name in made}


def kind(test_audio: str) -> str:
    """How a row is coloured, by its audio at test."""
    return "real" if test_audio == "real" else "none" if test_audio in FILLED else "generated"


def draw(
    p: ReportParams,
    conditions: dict[str, dict],
    rows: dict[str, Row],
    result: dict,
    rates: dict,
    folders: dict[str, Path],
) -> None:
    """Write the figures; those of an empty data set or of an experiment that did not run are left out."""
    shutil.rmtree(FIGURES, ignore_errors=True)
    points = [
        {
            "name": name,
            "kind": kind(conditions[name]["test_audio"]),
            "leaky": conditions[name].get("gate") in LEAKY,
            "partial": bool(conditions[name].get("kept_only")),
            "accuracy": row["accuracy"],
            "difference": row.get("difference"),
        }
        for name, row in result.items()
    ]
    figures.write(
        FIGURES,
        "main_comparison",
        (figures.TWO_COLUMNS, 0.7 + 0.16 * len(points)),
        figures.main_comparison,
        points,
        BASELINE,
    )
    for name, (ticks, found, label) in lines(p.curves, rates).items():
        if found:
            figures.write(
                FIGURES, name, (figures.COLUMN, 2.6), figures.curves, ticks, found, label, p.curves
            )
    chosen = stage_tables.metrics_of("filter")[SEMANTIC_VALIDATION]["threshold"]
    sweep = pd.read_csv(layout.filter_sweep(SEMANTIC_VALIDATION))
    figures.write(FIGURES, "threshold", (figures.COLUMN, 3.2), figures.threshold, sweep, chosen)
    similar = {name: curves.similarity_over_time(folder) for name, folder in folders.items()}
    if similar and all(similar.values()):
        figures.write(
            FIGURES,
            "similarity_over_time",
            (figures.COLUMN, 2.8),
            figures.similarity_over_time,
            similar,
        )
    difference = rows[UPPER_BOUND].confusion - rows[BASELINE].confusion
    order = list(
        dict.fromkeys(
            [
                *chain(*condition_evaluation.look_alike(p.look_alike_pairs, difference.index)),
                *difference.index,
            ]
        )
    )
    label = f"{UPPER_BOUND} minus {BASELINE} (points)"
    figures.write(
        FIGURES,
        "confusion_difference",
        (figures.COLUMN, 2.8),
        figures.confusion_difference,
        difference.loc[order, order],
        label,
    )


def main(stage: stage_run.StageRun) -> None:
    p = params.load("report", ReportParams)
    root = params.read("clips", "root", str)
    conditions = params.read("classifier", "conditions", dict[str, dict])
    seeds = params.read("classifier", "seeds", int)
    rates_asked = params.read("classifier", "missing_rates", list[float])
    named = stage.progress(conditions.items(), len(conditions), "condition")
    rows = {name: read_test(name, condition, seeds) for name, condition in named}
    partial = {name for name, condition in conditions.items() if condition.get("kept_only")}
    base = rows[BASELINE].clips
    actions = sorted(set(base.action))
    audio_visual = audio_visual_actions(p.audio_visual_actions, actions)
    result = condition_evaluation.accuracies(
        rows, subsets(base.index) | action_subsets(base.action, audio_visual), partial
    )
    checked = condition_evaluation.checks(rows, result)
    rates = {
        name: curves.missing_rates(name, row.clips, row.seeds, rates_asked, name in partial)
        for name, row in rows.items()
    }
    pairs = condition_evaluation.look_alike(p.look_alike_pairs, actions)
    per_action = condition_evaluation.group_accuracy(rows, {action: [action] for action in actions})
    groups = condition_evaluation.pair_groups(pairs, actions)
    within = condition_evaluation.group_accuracy(rows, groups) if pairs else {}
    folders = generated_folders()

    made = [
        row_tables.main_table(result, conditions),
        row_tables.check_table(rows, result, checked),
        row_tables.missing_rate_table(rows, rates),
    ]
    if all(
        name in rows for kind in ARCHITECTURES.values() for name in (kind.generated, kind.filtered)
    ):
        made.append(row_tables.architecture_table(rows, result))
    made += [
        row_tables.subset_table(rows, result),
        row_tables.action_table(rows, per_action, audio_visual),
    ]
    read = read_out.measure(pairs)
    if pairs:
        made += [
            row_tables.pair_table(rows, result, within),
            row_tables.pair_difference_table(
                rows, result, condition_evaluation.group_differences(rows, groups)
            ),
            *([row_tables.read_out_table(read)] if read else []),
        ]
    made += stage_tables.of_stages(
        {name: shards.tensor_shape(folder, "features")[0] for name, folder in folders.items()}
    )
    if CONFIRMED.is_file():
        made.append(row_tables.confirmation_table(result, CONFIRMED))
    made += experiment_tables.of_experiments()
    tables.write(layout.TABLES, made)
    draw(p, conditions, rows, result, rates, folders)
    text = [
        "# Results",
        introduction(root, base, result),
        *(tables.markdown(table) for table in made),
        gallery(),
    ]
    layout.TABLES_PAGE.write_text("\n\n".join(text) + "\n")
    paths = {path.stem: path for path in [*FIGURES.glob("*.svg"), *PICTURES] if path.is_file()}
    shown = {caption: paths[name] for name, caption in figures.CAPTIONS.items() if name in paths}
    layout.REPORT_PAGE.write_text(
        page.build("\n\n".join(text[:-1]), shown, p.clips, list(conditions))
    )
    condition_evaluation.long_table(result).to_csv(layout.SUBSETS, index=False, float_format="%.6f")
    figures_of = {
        "conditions": result,
        "checks": checked,
        "missing_rates": {name: curve for name, curve in rates.items() if curve},
    }
    figures_of |= {"look_alike_pairs": within, "read_out": read} if pairs else {}
    stage.write_metrics(
        {"test_clips": len(base), "test_sources": base.source_id.nunique()}
        | condition_evaluation.means(figures_of)
    )


if __name__ == "__main__":
    stage_run.main(main, __doc__, "report")
