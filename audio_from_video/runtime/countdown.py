"""How far a run of DVC has come: "stage 12 of 33, about 5 min left".

DVC decides from stage to stage what runs, so this is a forecast.  It counts the later stages whose
outputs are missing, and those that follow from a stage that ran.  Seconds come from this machine's
logs, else from a run that is in git, scaled by how fast this run has been so far.
"""

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path, PurePosixPath
from typing import Any

import psutil
from ruamel.yaml import YAML

from audio_from_video.runtime import params
from audio_from_video.runtime.atomic import write_json

PIPELINE = Path("dvc.yaml")
# Seconds by stage of a whole run; benchmarks/default_run.py writes them.
KNOWN_SECONDS = Path("benchmarks/default_run.json")
# They run in every run, and mostly write what was there before.
SURVEYING = {"code", "clips"}
SCALED_FROM_S = 20.0  # seconds of forecast work from which on the run's own speed counts


@dataclass(frozen=True)
class PlannedStage:
    """A stage of dvc.yaml, or one item of a `foreach`: the paths that it reads and writes."""

    deps: tuple[str, ...]
    outs: tuple[str, ...]
    frozen: bool


def announcement(logs: Path) -> str | None:
    """Return where the run of DVC stands at the start of a stage; None outside of DVC.

    logs: folder of the stages' logs, in which the run's own state is kept, too.
    """
    name = os.environ.get("DVC_STAGE")
    process = _process_of_dvc()
    if name is None or process is None or not PIPELINE.is_file():
        return None
    stages = pipeline()
    if name not in stages:
        return None
    state = _state_of(process, logs)
    ran = [other for other in state["ran"] if other in stages and other != name]
    left = [name, *pending(stages, name, ran)]

    write_json(_state_file(logs), state | {"ran": [*ran, name]})
    place = f"stage {len(ran) + 1} of {len(ran) + len(left)}"
    seconds = _known_seconds(stages, logs)
    if not seconds:
        return place

    typical_s = sum(seconds.values()) / len(seconds)
    expected_s = sum(seconds.get(other, typical_s) for other in ran)
    speed = (time.time() - state["start"]) / expected_s if expected_s > SCALED_FROM_S else 1.0
    left_s = speed * sum(seconds.get(other, typical_s) for other in left)
    minutes = round(left_s / 60)
    time_left = f"about {minutes} min" if minutes else "less than a minute"
    return f"{place}, {time_left} left"


def pipeline() -> dict[str, PlannedStage]:
    """Return the stages of dvc.yaml by DVC's names, such as `classifier@video_only`."""
    document = YAML(typ="safe").load(PIPELINE)
    settings = YAML(typ="safe").load(params.file())
    stages = {}
    for name, entry in document["stages"].items():
        if "foreach" not in entry:
            stages[name] = _stage(entry, {})
            continue
        items = entry["foreach"]
        if isinstance(items, str):
            keys = items.strip("${}").split(".")
            items = reduce(getitem, keys, settings)
        for key, item in items.items():
            values = {"key": key, "item": item}
            if isinstance(item, dict):
                values |= {f"item.{part}": value for part, value in item.items()}
            stages[f"{name}@{key}"] = _stage(entry["do"], values)
    return stages


def _stage(entry: dict, values: dict[str, Any]) -> PlannedStage:
    """Return a stage as dvc.yaml describes it, with `values` in place of `${...}`."""

    def paths(kind: str) -> tuple[str, ...]:
        named = [next(iter(path)) if isinstance(path, dict) else path for path in entry[kind]]
        return tuple(re.sub(r"\$\{(.+?)\}", lambda match: str(values[match[1]]), p) for p in named)

    outs = paths("outs") if "outs" in entry else ()
    deps = paths("deps") if "deps" in entry else ()
    return PlannedStage(deps, outs, bool(entry.get("frozen")))


def pending(stages: dict[str, PlannedStage], name: str, ran: list[str]) -> list[str]:
    """Return the stages that will likely run after `name`, where those of `ran` did before."""
    candidates = set(stages) - {name, *ran}
    candidates -= {other for other in candidates if stages[other].frozen}
    found = {other for other in candidates if not all(map(os.path.exists, stages[other].outs))}
    changed = {name, *ran, *found} - SURVEYING
    while changed:
        written = [path for source in changed for path in stages[source].outs]
        changed = {
            other for other in candidates - found if _any_overlap(stages[other].deps, written)
        }
        found |= changed
    return sorted(found)


def _any_overlap(deps: Iterable[str], outs: list[str]) -> bool:
    """Whether one of the paths that are read is, holds or lies in one that is written."""
    for dep in map(PurePosixPath, deps):
        for out in map(PurePosixPath, outs):
            if dep.is_relative_to(out) or out.is_relative_to(dep):
                return True
    return False


def _process_of_dvc() -> list[int] | None:
    """Return number and start of the DVC process that runs this stage, maybe through a shell."""
    for process in psutil.Process().parents()[:2]:
        if any(PurePosixPath(word).name == "dvc" for word in process.cmdline()[:3]):
            return [process.pid, int(process.create_time())]
    return None


def _state_file(logs: Path) -> Path:
    return logs / "run.json"


def _state_of(process: list[int], logs: Path) -> dict[str, Any]:
    """Return what the earlier stages of this run left: its process, its start, their names."""
    try:
        state = json.loads(_state_file(logs).read_text())
    except (OSError, ValueError):
        state = {}
    if state.get("dvc") == process:
        return state
    return {"dvc": process, "start": time.time(), "ran": []}


def _known_seconds(stages: Iterable[str], logs: Path) -> dict[str, float]:
    """Return how long stages took when they ran last, as far as that is known."""
    known: dict[str, float] = {}
    if KNOWN_SECONDS.is_file():
        known |= json.loads(KNOWN_SECONDS.read_text())["seconds"]
    for name in stages:
        path = logs / f"{name.replace('@', '/')}.json"
        if path.is_file():
            known[name] = json.loads(path.read_text())["seconds"]
    return known
