"""Stages as processes: processor time and peak memory of each, in a folder of its own."""

import ctypes
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

PR_SET_CHILD_SUBREAPER = 36  # of Linux's prctl
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Measurement:
    """What a stage took.

    part: files, tables, training or real.  clips: in its input.  cpu_s: processor time of all
    processes.  memory_mib: peak of all processes together.  size_bytes: of its output.
    """

    part: str
    stage: str
    clips: int
    cpu_s: float
    memory_mib: int
    size_bytes: int = 0


Record = Callable[[Measurement], None]


class Folder:
    """A folder with a params.yaml of its own, in which stages are run."""

    def __init__(self, path: Path, changes: dict[str, dict]):
        """Make the folder; changes: values of params.yaml by section."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._p = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section in ("video_features", "audio_features", "captions"):
            model = ROOT / self._p[section]["model"]
            if model.is_dir():  # else it is a name on the hub
                self._p[section]["model"] = str(model)
        self.set(changes)

    def set(self, changes: dict[str, dict]) -> None:
        """Change values of params.yaml by section."""
        for section, values in changes.items():
            merge(self._p[section], values)
        (self.path / "params.yaml").write_text(yaml.safe_dump(self._p))

    def run(self, *arguments: str) -> tuple[float, int]:
        """Run a stage, and its item if any; return processor time in s and peak memory in MiB."""
        cpu_s = processor_time_s(f"stages.{arguments[0]}", *arguments[1:], folder=self.path)
        log = json.loads((self.path / "logs" / ("/".join(arguments) + ".json")).read_text())
        return cpu_s, log["peak_memory_mib"]


def processor_time_s(module: str, *arguments: str, folder: Path) -> float:
    """Run `python -m module arguments` in a folder with an item store; return its processor time.

    That is the time of all its processes.  Raises RuntimeError where it fails.
    """
    command = [sys.executable, "-m", module, *arguments]
    environment = os.environ | {"ITEM_STORE": str(folder / "items"), "PYTHONPATH": str(ROOT)}
    others = children()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with orphans_adopted():
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        wait_for_adopted(others)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[2:])}: {done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@contextmanager
def orphans_adopted() -> Iterator[None]:
    """Be the parent of processes whose own parent ends: their time would not be counted else.

    That is the server that a stage's workers are forked from.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def children() -> set[int]:
    """Return the numbers of this process's children."""
    return {child.pid for child in psutil.Process().children()}


def wait_for_adopted(others: set[int]) -> None:
    """Wait until all adopted processes have ended, but for `others`, children of before."""
    while adopted := children() - others:
        for number in adopted:
            with suppress(ChildProcessError):
                os.waitpid(number, 0)


def merge(values: dict, changes: dict) -> None:
    """Change values in place; nested dictionaries are merged, too."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            merge(values[key], value)
        else:
            values[key] = value
