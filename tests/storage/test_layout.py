"""layout.py holds every path that dvc.yaml names, and no path that nothing writes."""

import inspect
from itertools import product
from pathlib import Path

import yaml

from audio_from_video.runtime import stage_run
from audio_from_video.storage import layout
from tests.support.closure import ROOT

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
# Written by tools/experiments.py, not by a stage.
EXPERIMENTS = {layout.EXPERIMENTS, layout.CONFIRMATION, layout.DOSE, layout.LABEL_BUDGET}
# A page of the documentation, which the report writes and git holds.
PAGES = {layout.RESULTS_PAGE}


def items_of(foreach: dict | str) -> list[str]:
    """The items of a foreach stage; a string such as ${classifier.conditions} names parameters."""
    if isinstance(foreach, dict):
        return list(foreach)
    section, key = foreach.strip("${}").split(".")
    return list(PARAMS[section][key])


def declared(*kinds: str) -> set[Path]:
    """All paths in dvc.yaml's entries of some kinds (outs, metrics, plots, deps)."""
    paths = set()
    for entry in DVC["stages"].values():
        body = entry.get("do", entry)
        keys = items_of(entry["foreach"]) if "foreach" in entry else [""]
        for kind, key in product(kinds, keys):
            for path in body.get(kind, []):
                name = next(iter(path)) if isinstance(path, dict) else path
                if "${item" not in name:
                    paths.add(Path(name.replace("${key}", key)))
    return paths


def laid_out() -> set[Path]:
    """All paths that layout.py gives: constants, and functions of every architecture, condition."""
    domains = {
        "architecture": items_of(DVC["stages"]["generator"]["foreach"]),
        "condition": list(PARAMS["classifier"]["conditions"]),
        "kind": ["loss", "confusion"],
    }
    paths = {value for value in vars(layout).values() if isinstance(value, Path)}
    for _, function in inspect.getmembers(layout, inspect.isfunction):
        if function is layout.metrics:
            continue
        values = [domains[name] for name in inspect.signature(function).parameters]
        paths |= {function(*arguments) for arguments in product(*values)}
    for stage, entry in DVC["stages"].items():
        if "foreach" in entry:
            paths |= {layout.metrics(stage, item) for item in items_of(entry["foreach"])}
        elif stage != "code":
            paths.add(layout.metrics(stage))
    return paths


def test_every_output_of_dvc_yaml_is_a_path_of_the_layout():
    models = {layout.TINY_MODELS / name for name in ("ast", "blip", "vit")}
    assert declared("outs", "metrics", "plots") - models <= laid_out()


def test_every_path_of_the_layout_is_an_output_or_a_folder_or_part_of_one():
    outputs = declared("outs", "metrics", "plots")
    folders = {parent for path in outputs for parent in path.parents}
    never_written = []
    for path in laid_out() - outputs - folders - EXPERIMENTS - PAGES:
        architecture = path.stem
        control = architecture == "shuffled"  # it has no labels and no filter
        if not control and not outputs & set(path.parents):
            never_written.append(path)
    assert not never_written


def test_every_dependency_is_a_path_of_the_layout_or_in_git():
    paths = laid_out()
    unknown = []
    for path in declared("deps"):
        known = path in paths or paths & set(path.parents) - {layout.DATA, layout.METRICS}
        in_git = path.parts[0] in ("stages", "audio_from_video", "params.yaml")
        folder = any(path in inner.parents for inner in paths)
        if not (known or in_git or folder):
            unknown.append(path)
    assert not unknown


def test_stages_write_their_metrics_where_the_layout_has_them():
    assert stage_run.METRICS == layout.METRICS
