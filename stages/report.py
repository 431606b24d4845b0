"""Write the tables and figures: every condition on all test clips and on subsets.

Differences are paired with `video_only`.

Reads    data/predictions/<condition>.parquet and data/missing_rates/<condition>.parquet of every
         condition in params.yaml, data/audio_features and data/generated (which clips have audible
         sound, and how like it the generated one is), data/filter (which are kept),
         data/truth.parquet (rendered clips only), `report.audio_visual_actions` and the metrics
         files of the stages before
Writes   metrics/tables.md; metrics/tables/<name>.csv and .tex, a table each;
         metrics/tables/readme.md (the README's table); metrics/figures/report/<name>.png and .svg;
         docs/results.md (the results in words); metrics/report.html (reporting/page.py: tables,
         figures, thresholds and test clips in one file); metrics/subsets.csv (every figure of
         every condition on every subset, with its interval); metrics/report.json (their means)
Values are averaged over seeds per clip; intervals and differences resample sources
(evaluation/intervals.py).  A condition, a seed or a missing rate that is not there is an error, not
a gap.
"""

import csv
import re
import shutil
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from audio_from_video.backbones import hub
from audio_from_video.classification.settings import Condition
from audio_from_video.clipset import truth
from audio_from_video.evaluation import curves, filter_gains, read_out, recommended
from audio_from_video.evaluation import rows as condition_evaluation
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND, ConditionAnswers
from audio_from_video.meaning.recommended import CONDITION_OF
from audio_from_video.reporting import (
    condition_groups,
    experiment_tables,
    figure_captions,
    figures,
    missingness_tables,
    page,
    provenance,
    results_page,
    row_tables,
    stage_tables,
    stamps,
    tables,
)
from audio_from_video.reporting.committed import comparison_with_commit
from audio_from_video.reporting.condition_groups import Groups
from audio_from_video.reporting.provenance import Provenance
from audio_from_video.reporting.results import ConditionSettings, LookAlikePairs, Results
from audio_from_video.reporting.settings import ReportParams
from audio_from_video.reporting.tables import Content, Table
from audio_from_video.runtime import atomic, params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES, SEMANTIC_VALIDATION
from audio_from_video.storage import layout, predictions, shards

CONFIRMED = layout.CONFIRMATION / "subsets.csv"


# ---- what the conditions answered ----


def read_answers(name: str, condition: Condition, seeds: int) -> ConditionAnswers:
    """Return what a condition answered on test.

    seeds: how many params.yaml asks for.

    Raises:
        UserError: the predictions are missing or come from another number of seeds.
    """
    test = predictions.read(name).of("test")
    if condition.draws_nothing:
        seeds = 1
    if len(test.clips) and len(test.probabilities) != seeds:
        raise UserError(
            f"{layout.predictions(name)} holds {len(test.probabilities)} seeds, params.yaml asks "
            f"for {seeds}: run `dvc repro classifier@{name}`"
        )
    return condition_evaluation.condition_answers(test)


def clip_subsets(clips: pd.Index) -> dict[str, np.ndarray]:
    """Return test subsets as masks over `clips`.

    They are by audible sound, by the filter's decision, and on rendered clips by whether the sound
    belongs to the action.
    """
    audible = {row["clip_id"] for row in shards.ok_rows(layout.AUDIO_FEATURES)}
    decisions_path = layout.decisions(SEMANTIC_VALIDATION)
    decisions = shards.read_table(decisions_path, ["clip_id", "keep"]).to_pandas()
    kept = set(decisions.clip_id[decisions.keep])
    masks = {
        "with_audio": clips.isin(audible),
        "without_audio": ~clips.isin(audible),
        "kept": clips.isin(kept),
        "rejected": ~clips.isin(kept),
    }
    sound_belongs = truth.sound_belongs()
    if sound_belongs:
        own = {clip_id for clip_id, belongs in sound_belongs.items() if belongs}
        masks["own_sound"] = masks["with_audio"] & clips.isin(own)
        masks["foreign_sound"] = masks["with_audio"] & ~clips.isin(own)
    return masks


def action_subsets(actions: pd.Series, audio_visual: set[str] | None) -> dict[str, np.ndarray]:
    """Return test subsets by whether the clip's action is on the list of audio-visual ones.

    There are none without a list.
    """
    if audio_visual is None:
        return {}
    listed = actions.isin(audio_visual).to_numpy()
    return {"audio_visual": listed, "other_actions": ~listed}


def audio_visual_actions(path: str, actions: list[str]) -> set[str] | None:
    """Return those of `actions` that a list names in its first column, AVMIT's for one.

    Case, `+` and `_` do not matter: Moments in Time writes `playing+music`.  None without a list.

    Raises:
        UserError: the list does not exist or names none of the actions.
    """
    if not path:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"the list {path} does not exist "
            "(report.audio_visual_actions is relative to the repository)"
        )
    with open(path, newline="", encoding="utf-8-sig") as lines:
        listed = {bare_name(line[0]) for line in csv.reader(lines) if line}
    audio_visual = {action for action in actions if bare_name(action) in listed}
    if not audio_visual:
        raise UserError(
            f"{path} (report.audio_visual_actions) names none of the actions {', '.join(actions)} "
            "in its first column"
        )
    return audio_visual


def bare_name(action: str) -> str:
    """Return an action's name without differences of case and of separators."""
    return re.sub(r"[+_\s]+", " ", action).strip().lower()


def evaluate(
    report_params: ReportParams,
    conditions: Mapping[str, ConditionSettings],
    answers: dict[str, ConditionAnswers],
    classifier_metrics: dict[str, dict],
) -> Results:
    """Return everything that is measured of the conditions."""
    partial = {name for name, condition in conditions.items() if condition.kept_only}
    clips = answers[BASELINE].clips
    actions = sorted(set(clips.action))
    audio_visual = audio_visual_actions(report_params.audio_visual_actions, actions)
    subsets = clip_subsets(clips.index) | action_subsets(clips.action, audio_visual)
    condition_figures = condition_evaluation.condition_figures(answers, subsets, partial)
    by_action = {action: [action] for action in actions}

    rates = params.read("classifier", "missing_rates", list[float])
    missing_rates: dict[str, dict] = {}
    missing_rate_differences: dict[str, dict] = {}
    baseline_hits = curves.rate_hits(BASELINE, clips, answers[BASELINE].seeds, rates)
    for name, condition in answers.items():
        if name == recommended.NAME:  # it has no trainings, which these curves are of
            continue
        hits = curves.rate_hits(name, condition.clips, condition.seeds, rates, name in partial)
        sources = condition.clips.source_id
        missing_rates[name] = curves.rate_accuracies(hits, sources)
        if name != BASELINE and hits:
            differences = curves.rate_differences(hits, baseline_hits, sources)
            missing_rate_differences[name] = differences
    return Results(
        root=params.read("clips", "root", str),
        settings=conditions,
        answers=answers,
        figures=condition_figures,
        checks=condition_evaluation.condition_checks(answers, condition_figures),
        classifier_metrics=classifier_metrics,
        missing_rates=missing_rates,
        missing_rate_differences=missing_rate_differences,
        action_accuracy=condition_evaluation.group_accuracy(answers, by_action),
        contrasts=contrasts(report_params, answers),
        audio_visual=audio_visual,
        pairs=look_alike_figures(report_params.look_alike_pairs, actions, answers),
    )


def contrasts(
    report_params: ReportParams, answers: dict[str, ConditionAnswers]
) -> list[condition_evaluation.Contrast]:
    """Return the comparisons that `report.contrasts` asks for, of conditions that there are."""
    found = []
    for asked in report_params.contrasts:
        if {asked.condition, asked.minus} <= set(answers):
            bound = asked.bound if asked.bound in answers else ""
            found.append(
                condition_evaluation.contrast(answers, asked.condition, asked.minus, bound)
            )
    return found


def look_alike_figures(
    pairs: list[list[str]], actions: list[str], answers: dict[str, ConditionAnswers]
) -> LookAlikePairs | None:
    """Return the figures of look-alike actions; None where the test clips show no such pair."""
    pairs = condition_evaluation.look_alike(pairs, actions)
    if not pairs:
        return None
    groups = condition_evaluation.pair_groups(pairs, actions)
    return LookAlikePairs(
        accuracy=condition_evaluation.group_accuracy(answers, groups),
        difference=condition_evaluation.group_differences(answers, groups),
        read_out=read_out.read_out_figures(pairs),
    )


# ---- tables ----


def all_tables(results: Results, generated: dict[str, Path]) -> list[Table]:
    """Return the report's tables in their order.

    generated: directory of each architecture's audio features.
    """
    architecture_lines: list[list[Content]] = []
    if row_tables.has_both_architectures(results):
        architecture_lines = stage_tables.architecture_lines()
    report_tables = row_tables.condition_tables(results, architecture_lines)
    report_tables += missingness_tables.missingness_tables()
    seeds = {name: shards.tensor_shape(path, "features")[0] for name, path in generated.items()}
    report_tables += stage_tables.stage_tables(seeds)
    if CONFIRMED.is_file():
        report_tables.append(row_tables.confirmation_table(results, CONFIRMED))
    return report_tables + experiment_tables.experiment_tables()


def generated_folders() -> dict[str, Path]:
    """Return where the features of each architecture of params.yaml lie."""
    configured = params.read("generator", "architectures", dict[str, str])
    return {name: layout.generated(name) for name in ARCHITECTURES if name in configured}


# ---- figures ----


def draw_figures(
    report_params: ReportParams, results: Results, groups: Groups, generated: dict[str, Path]
) -> dict[str, str]:
    """Write the figures and return their captions by name, in the order in which they are read.

    Those of an empty data set or of an experiment that did not run are left out.
    """
    folder = layout.REPORT_FIGURES
    shutil.rmtree(folder, ignore_errors=True)
    lines = len(results.figures) + len(groups)
    size_in = (figures.TWO_COLUMNS, 0.7 + 0.15 * lines)
    figures.save_figure(
        folder, "main_comparison", size_in, figures.draw_main_comparison, results, groups
    )
    captions = {"main_comparison": figure_captions.main_comparison(results)}
    captions |= draw_curves(folder, report_params.curves, results)
    captions |= draw_dose(folder)
    captions |= draw_threshold(folder)

    similarities = {name: curves.similarity_over_time(path) for name, path in generated.items()}
    if similarities and all(similarities.values()):
        figures.save_figure(
            folder,
            "similarity_over_time",
            (figures.COLUMN, 2.8),
            figures.draw_similarity_over_time,
            similarities,
        )
        captions["similarity_over_time"] = figure_captions.similarity_over_time(similarities)
    return captions | draw_confusion(folder, report_params.look_alike_pairs, results)


def draw_curves(folder: Path, shown: list[str], results: Results) -> dict[str, str]:
    """Write the figures of differences over missing rates and over labelled clips per action.

    shown: conditions that are drawn, as far as they were measured.  Returns their captions by name.
    """
    captions = {}
    missing = {}
    for name in shown:
        if name in results.missing_rate_differences:
            missing[name] = results.missing_rate_differences[name]
    if missing:
        rates = list(results.missing_rates[BASELINE])
        figures.save_figure(
            folder,
            "missing_rates",
            figures.curves_size(len(missing)),
            figures.draw_curves,
            rates,
            {name: list(curve.values()) for name, curve in missing.items()},
            "test clips without audio (%)",
        )
        captions["missing_rates"] = figure_captions.missing_rates(missing)
    if not layout.LABEL_BUDGET.is_file():
        return captions
    budgets, budget_curves = curves.label_budget(layout.LABEL_BUDGET, shown)
    if budget_curves:
        banner = experiment_tables.experiment_banner(layout.LABEL_BUDGET)
        figures.save_figure(
            folder,
            "label_budget",
            figures.curves_size(len(budget_curves)),
            figures.draw_curves,
            budgets,
            budget_curves,
            "labelled clips per action",
            stamps.OTHER_RUN if banner else "",
        )
        caption = figure_captions.label_budget(budgets, budget_curves)
        captions["label_budget"] = f"{banner} {caption}".strip()
    return captions


def draw_dose(folder: Path) -> dict[str, str]:
    """Write the figure of gains over the sample's knobs and return its caption by name."""
    if not layout.DOSE.is_file():
        return {}
    panels = curves.dose(layout.DOSE)
    if not panels:
        return {}
    banner = experiment_tables.experiment_banner(layout.DOSE)
    title = stamps.OTHER_RUN if banner else ""
    size_in = (figures.TWO_COLUMNS, 2.8)
    figures.save_figure(folder, "dose", size_in, figures.draw_dose, panels, title)
    return {"dose": f"{banner} {figure_captions.dose(panels)}".strip()}


def draw_threshold(folder: Path) -> dict[str, str]:
    """Write the figure of the filter's thresholds and return its caption by name."""
    sweep = pd.read_csv(layout.filter_sweep(SEMANTIC_VALIDATION))
    gains = filter_gains.filter_gains(SEMANTIC_VALIDATION, sweep.threshold.to_numpy())
    if gains is None:
        return {}
    used = stage_tables.read_metrics("filter")[SEMANTIC_VALIDATION]["threshold"]
    size_in = (figures.COLUMN, 3.2)
    figures.save_figure(folder, "threshold", size_in, figures.draw_threshold, sweep, used, gains)
    return {"threshold": figure_captions.threshold(used, gains)}


def draw_confusion(folder: Path, pairs: list[list[str]], results: Results) -> dict[str, str]:
    """Write the figure of what sound tells apart and return its caption by name.

    Look-alike actions stand beside each other.
    """
    difference = results.answers[UPPER_BOUND].confusion - results.answers[BASELINE].confusion
    look_alike = condition_evaluation.look_alike(pairs, difference.index)
    order = unique([*chain.from_iterable(look_alike), *difference.index])
    figures.save_figure(
        folder,
        "confusion_difference",
        (5.0, 4.2),
        figures.draw_confusion_difference,
        difference.loc[order, order],
        f"{UPPER_BOUND} minus {BASELINE} (points)",
    )
    return {"confusion_difference": figure_captions.confusion_difference(difference)}


def unique(names: Iterable[str]) -> list[str]:
    """Return names without repetitions, in the order in which they first occur."""
    return list(dict.fromkeys(names))


# ---- files ----


def tables_markdown(
    introduction: str, run: Provenance, report_tables: list[Table], captions: dict[str, str]
) -> str:
    """Return the text of metrics/tables.md.

    run: which run the figures are of.  captions: of the report's figures, by name.
    """
    parts = ["# Results", introduction, f"## {provenance.RUN_HEADING}", run.markdown()]
    parts += [tables.markdown(table) for table in report_tables]
    parts.append("## Figures")
    for name, caption in captions.items():
        parts.append(f"![{name}](figures/report/{name}.png)\n\n{caption}")
    return "\n\n".join(parts) + "\n"


def page_figures(captions: dict[str, str]) -> dict[str, Path]:
    """Return the image files that the page shows, by caption, those of other stages among them.

    captions: of the report's figures, by name.
    """
    paths = {caption: layout.REPORT_FIGURES / f"{name}.svg" for name, caption in captions.items()}
    if layout.REPRESENTATIVE_FRAMES_FIGURE.is_file():
        metrics = stage_tables.read_metrics("representative_frames")
        caption = figure_captions.representative_frames(metrics)
        paths[caption] = layout.REPRESENTATIVE_FRAMES_FIGURE
    if layout.MEL_FIGURE.is_file():
        caption = figure_captions.mel(stage_tables.read_metrics("label_predictor"))
        paths[caption] = layout.MEL_FIGURE
    return paths


def report_metrics(results: Results) -> dict:
    """Return metrics/report.json: means of the figures."""
    clips = results.answers[BASELINE].clips
    measured = {
        "conditions": {name: each.as_metrics() for name, each in results.figures.items()},
        "checks": results.checks,
        "missing_rates": {name: curve for name, curve in results.missing_rates.items() if curve},
    }
    for each in results.contrasts:
        key = f"{each.condition} minus {each.reference}"
        measured.setdefault("contrasts", {})[key] = each.difference
    if results.pairs:
        measured["look_alike_pairs"] = results.pairs.accuracy
        measured["read_out"] = results.pairs.read_out
    counts = {"test_clips": len(clips), "test_sources": clips.source_id.nunique()}
    return counts | condition_evaluation.means(measured)


def main(stage: stage_run.StageRun) -> None:
    """Run the stage."""
    report_params = params.load("report", ReportParams)
    conditions = params.read("classifier", "conditions", dict[str, Condition])
    seeds = params.read("classifier", "seeds", int)
    answers = {}
    for name, condition in stage.progress(conditions.items(), len(conditions), "condition"):
        answers[name] = read_answers(name, condition, seeds)

    classifier_metrics = {name: stage_tables.read_metrics("classifier", name) for name in answers}
    settings: dict[str, ConditionSettings] = dict(conditions)
    generated = generated_folders()
    if recommended.is_available(conditions, generated):
        chain = recommended.recommended_predictions()
        settings[recommended.NAME] = recommended.RecommendedSettings()
        answers[recommended.NAME] = condition_evaluation.condition_answers(chain.of("test"))
        links = [classifier_metrics[name]["parameters"] for name in CONDITION_OF.values()]
        figures_of_chain = condition_evaluation.classifier_figures(chain)
        classifier_metrics[recommended.NAME] = figures_of_chain | {"parameters": sum(links)}

    results = evaluate(report_params, settings, answers, classifier_metrics)
    introduction = row_tables.introduction(results)
    report_tables = all_tables(results, generated)
    groups = condition_groups.arranged(report_params.groups, settings)
    captions = draw_figures(report_params, results, groups, generated)

    tables.write_table_files(layout.TABLES, report_tables)
    run = provenance.of_this_run(hub.device())
    layout.TABLES_PAGE.write_text(tables_markdown(introduction, run, report_tables, captions))
    confirmed = row_tables.confirmation_estimates(CONFIRMED) if CONFIRMED.is_file() else {}
    results_page.write_results(
        layout.RESULTS_PAGE, layout.README_TABLE, results, confirmed, captions, run
    )
    html = page.report_html(
        results,
        groups,
        report_tables,
        page_figures(captions),
        run.facts(),
        report_params.clips,
    )
    atomic.write_text(layout.REPORT_PAGE, html)
    table = condition_evaluation.subset_table(results.figures)
    table.to_csv(layout.SUBSETS, index=False, float_format="%.6f")
    stage.write_metrics(report_metrics(results))
    comparison = comparison_with_commit()
    if comparison:
        print(comparison)


if __name__ == "__main__":
    stage_run.main(main, __doc__, "report")
