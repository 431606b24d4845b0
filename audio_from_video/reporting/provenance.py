"""Which run the figures of a report are of: date, code, parameters, data, processor, libraries.

`facts` is what the report's pages show.  In Markdown each fact is a line with a fixed beginning, so
that the comparison with the committed figures can leave these lines out (committed.py): two runs
with the same figures differ in them.
"""

import json
import os
import platform
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from audio_from_video.reporting import git
from audio_from_video.runtime import params
from audio_from_video.runtime.digests import digest
from audio_from_video.storage import layout, shards

RUN_HEADING = "This run"  # above the facts
LINE_START = "- Run, "  # every line of `Provenance.markdown` begins with it
LONGEST_VALUE = 60  # characters of a parameter's value
SHOWN = 5  # changed files and parameters that are named

# What a run's figures are made from, as far as Git holds it.
SOURCES = (
    "audio_from_video",
    "stages",
    "dvc.yaml",
    "params.yaml",
    "models/tiny",
)
EXPERIMENTS = "metrics/experiments"  # of which a report shows tables
# Distributions whose code makes figures, as pip names them.
LIBRARIES = (
    "torch",
    "transformers",
    "sentence-transformers",
    "numpy",
    "scipy",
    "scikit-learn",
    "opencv-contrib-python-headless",
    "av",
    "pyarrow",
)
LOCK = Path("dvc.lock")
NO_GIT = "unknown: no Git repository holds this code"


@dataclass(frozen=True)
class Provenance:
    """Which run figures are of.

    date: UTC, when they were written.
    commit: None without a repository that holds this code.
    uncommitted: changed files among SOURCES and experiments.
    parameters: those that differ from the commit's params.yaml, as text; [] without a commit.
    data: digest of the data set (storage/shards.py); None where data/clips.parquet says nothing.
    fit_on: the list of clips that models are fitted on (`clips.fit_on`), as text; None without one.
    lock: digest of dvc.lock without the stage `report`, whose entry is written after its outputs;
    None without the file.
    processor: model, cores and device.
    libraries: releases by name.
    """

    date: str
    commit: str | None
    uncommitted: list[str]
    parameters: list[str]
    data: str | None
    fit_on: str | None
    lock: str | None
    processor: str
    libraries: dict[str, str]

    def facts(self) -> list[tuple[str, str]]:
        """Return titles and texts in the order in which they are shown."""
        commit = NO_GIT
        parameters = NO_GIT
        if self.commit:
            changes = "without uncommitted changes"
            if self.uncommitted:
                changes = f"with uncommitted changes in {few(self.uncommitted)}"
            commit = f"{self.commit}, {changes}"
            parameters = few(self.parameters) or "none"
        libraries = [f"{name} {release}" for name, release in self.libraries.items()]
        fit_on = [("models fitted on", self.fit_on)] if self.fit_on else []
        return [
            ("date", self.date),
            ("commit", commit),
            ("parameters other than the commit's", parameters),
            ("data set", self.data or "unknown, as data/clips.parquet does not say"),
            *fit_on,
            ("dvc.lock without `report`", self.lock or "there is none"),
            ("processor", self.processor),
            ("libraries", ", ".join(libraries)),
        ]

    def markdown(self) -> str:
        """Return the facts as a list in Markdown, a line each, which begins with LINE_START."""
        return "\n".join(f"{LINE_START}{title}: {text}" for title, text in self.facts())


def few(names: list[str]) -> str:
    """Return the first names of a list, and how many there are beside them."""
    shown = ", ".join(names[:SHOWN])
    others = len(names) - SHOWN
    return f"{shown} and {others} more" if others > 0 else shown


def without_provenance(text: str) -> str:
    """Return a text without the lines of `Provenance.markdown`."""
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(LINE_START))


@dataclass(frozen=True)
class CodeState:
    """What Git says of the code: the fields of the same names of `Provenance`."""

    commit: str | None
    uncommitted: list[str]
    parameters: list[str]


def code_state(*others: str) -> CodeState:
    """Return the commit and what differs from it.

    others: places that count beside SOURCES.
    """
    committed = git.committed("params.yaml")
    revision = git.lines("rev-parse", "--short=12", "HEAD")
    # A repository without params.yaml is somebody else's, in which this code was unpacked.
    if committed is None or revision is None:
        return CodeState(None, [], [])
    reader = YAML(typ="safe")
    changes = parameter_changes(reader.load(committed), reader.load(params.file()))
    return CodeState(revision[0], git.changed(*SOURCES, *others) or [], changes)


def of_this_run(device: str) -> Provenance:
    """Return the provenance of figures that are written now.

    device: where models run, cpu or cuda.
    """
    state = code_state(EXPERIMENTS)
    libraries = {"Python": platform.python_version()}
    libraries |= {name: version(name) for name in LIBRARIES}
    return Provenance(
        date=now(),
        commit=state.commit,
        uncommitted=state.uncommitted,
        parameters=state.parameters,
        data=shards.current_clip_set(),
        fit_on=fit_list(),
        lock=lock_digest(),
        processor=processor(device),
        libraries=libraries,
    )


def fit_list() -> str | None:
    """Return which list of clips models are fitted on; None where they are fitted on all."""
    metrics = layout.metrics("clips")
    if not metrics.is_file():
        return None
    listed = json.loads(metrics.read_text()).get("fit_on")
    if listed is None:
        return None
    return f"{listed['clips']:,} clips of the list {listed['list']} with digest {listed['digest']}"


def now() -> str:
    """Return the time in UTC to the minute, such as 2026-11-27 05:42 UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def parameter_changes(committed: dict, used: dict) -> list[str]:
    """Return what differs between two documents of parameters, a text for each key."""
    before = flat(committed)
    after = flat(used)
    changes = []
    for key in [*after, *(key for key in before if key not in after)]:
        if key not in after:
            changes.append(f"{key} removed")
        elif key not in before:
            changes.append(f"{key} {shown(after[key])} (added)")
        elif before[key] != after[key]:
            changes.append(f"{key} {shown(after[key])} (committed: {shown(before[key])})")
    return changes


def flat(document: dict, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested parameters by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def shown(value: Any) -> str:
    """Return a parameter's value on one line, long ones shortened."""
    text = value if isinstance(value, str) else json.dumps(value)
    return textwrap.shorten(text, LONGEST_VALUE, placeholder=" ...")


def lock_digest() -> str | None:
    """Return the digest of dvc.lock's stages without `report`; None without the file."""
    lock = read_lock()
    if lock is None:
        return None
    return digest({name: entry for name, entry in lock["stages"].items() if name != "report"})


def read_lock() -> dict | None:
    """Return the content of dvc.lock; None without the file."""
    return YAML(typ="safe").load(LOCK) if LOCK.is_file() else None


def processor(device: str) -> str:
    """Return the processor's model, the cores that this process may use, and the device."""
    cores = len(os.sched_getaffinity(0))
    return f"{processor_model()}, {cores} cores, {device}"


def processor_model() -> str:
    """Return the model's name as Linux has it, else the kind of machine."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()
