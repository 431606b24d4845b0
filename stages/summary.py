"""Gather the figures that an experiment is judged by in one short file, which DVC shows.

Reads    metrics/report.json, metrics/filter.json, metrics/label_predictor.json and
         metrics/generator/<architecture>.json
Writes   metrics/summary.json, all of test clips:
             accuracy, difference   by condition; the difference is to video_only
             threshold, kept        of the filter, by architecture
             generator_cosine       of generated and real features, relative to the mean sound
             labels_f1              of the labels that generated features sound like
It is the only file under `metrics:` in dvc.yaml, so `dvc exp show` and `dvc metrics diff` show
these figures alone.
"""

import json
from pathlib import Path
from typing import Any

from audio_from_video.evaluation.settings import SummaryParams
from audio_from_video.runtime import params, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout


def main(stage: stage_run.StageRun) -> None:
    p = params.load("summary", SummaryParams)
    configured = params.read("generator", "architectures", dict[str, str])
    architectures = [name for name in ARCHITECTURES if name in configured]
    stage.write_metrics(condition_figures(p.conditions) | architecture_figures(architectures))


def condition_figures(names: list[str]) -> dict[str, dict[str, float]]:
    """Return accuracies and differences of conditions; UserError where the report has not one."""
    measured = read_json(layout.metrics("report"))["conditions"]
    unknown = [name for name in names if name not in measured]
    if unknown:
        raise UserError(
            f"summary.conditions names {', '.join(unknown)}, which the report does not have; "
            f"it has {', '.join(measured)}"
        )
    return {
        "accuracy": {name: measured[name]["accuracy"] for name in names},
        "difference": {
            name: measured[name]["difference"] for name in names if "difference" in measured[name]
        },
    }


def architecture_figures(names: list[str]) -> dict[str, dict[str, Any]]:
    """Return the figures of generators, their labels and the filter, by architecture."""
    decided = read_json(layout.metrics("filter"))
    labels = read_json(layout.metrics("label_predictor"))
    figures: dict[str, dict[str, Any]] = {
        "threshold": {},
        "kept": {},
        "generator_cosine": {},
        "labels_f1": {},
    }
    for name in names:
        generated = read_json(layout.metrics("generator", name))["test"]["generated"]
        way = f"{ARCHITECTURES[name].generated}_{labels['head']}"
        figures["threshold"][name] = decided[name]["threshold"]
        figures["kept"][name] = decided[name]["kept_fraction"]["mean"]
        figures["generator_cosine"][name] = generated["centred_cosine"]["mean"]
        figures["labels_f1"][name] = labels["test"][way]["f1"]
    return figures


def read_json(path: Path) -> dict:
    """Return the content of a metrics file."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run `dvc repro`")
    return json.loads(path.read_text())


if __name__ == "__main__":
    stage_run.main(main, __doc__, "summary")
