"""A repository like this one, with tiny parameters: for tests and scripts that run `dvc repro`."""

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from audio_from_video.reporting.provenance import without_provenance
from tests.support.closure import ROOT

CONDITIONS = (  # the others: tests/test_classifier.py, tests/classification/test_data.py
    "video_only",
    "real_audio",
    "generated",
    "validated",
    "mapped",
    "mapped_validated",
)
# Of metrics/report.html, which every run writes with another date.
PROVENANCE_SECTION = re.compile('<section class="source".*?</section>', re.DOTALL)
AUTHOR = ("-c", "user.name=t", "-c", "user.email=t@example.org")


def hear_ctrl_c() -> None:
    """Hear Ctrl-C, which a shell has its background jobs and their children ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tiny_parameters() -> dict:
    """Return params.yaml with few clips, few conditions, small networks and short trainings."""
    p = yaml.safe_load((ROOT / "params.yaml").read_text())
    conditions = p["classifier"]["conditions"]
    p["sample"] |= {"training_per_action": 6, "test_per_action": 3, "unlabelled_per_action": 1}
    p["audio_features"]["components"] = 16
    p["label_audio"]["min_evidence"] = 1.0
    p["captions"]["training"]["epochs"] = 1
    p["label_predictor"]["decoder"]["epochs"] = 2
    p["generator"] |= {"seeds": 2, "folds": 2}
    p["classifier"] |= {"seeds": 2, "conditions": {name: conditions[name] for name in CONDITIONS}}
    for network in (p["classifier"]["lstm"], p["generator"]["lstm"]):
        network |= {"epochs": 3, "hidden": 16, "projection": 16}
    bundled = ["video_only", "real_audio", "validated", "mapped_validated"]
    p["bundle"] |= {"conditions": bundled}
    p["report"] |= {"clips": 4}
    return p


class Repository:
    """A clone of the working tree's code with tiny parameters, its own DVC cache and item store."""

    def __init__(self, folder: Path, workers: int):
        self.folder = folder
        self.environment = os.environ | {
            "ITEM_STORE": str(folder / ".items"),
            "WORKERS": str(workers),
            "HF_HUB_OFFLINE": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._copy_code()
        (folder / "params.yaml").write_text(yaml.safe_dump(tiny_parameters()))
        self.run("git", "init", "-q", ".")
        self._initialise_dvc()
        self.commit("start")

    def _copy_code(self) -> None:
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("stages", "tools", "audio_from_video", "models/tiny", "metrics/experiments"):
            shutil.copytree(ROOT / name, self.folder / name, ignore=ignore)
        (self.folder / "metrics").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "metrics/pretrain.json", self.folder / "metrics")
        for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, self.folder)

    def _initialise_dvc(self) -> None:
        """Write what `dvc init` writes, which takes a second."""
        (self.folder / ".dvc").mkdir()
        for name in (".gitignore", "config"):
            shutil.copy(ROOT / ".dvc" / name, self.folder / ".dvc")

    def clone(self, folder: Path) -> "Repository":
        """Return a clone in a folder, with a cache and an item store of its own."""
        self.run("git", "clone", "-q", str(self.folder), str(folder))
        clone = copy.copy(self)
        clone.folder = folder
        clone.environment = self.environment | {"ITEM_STORE": str(folder / ".items")}
        return clone

    def set(self, section: str, **values) -> None:
        """Change values of a section of params.yaml."""
        path = self.folder / "params.yaml"
        document = yaml.safe_load(path.read_text())
        document[section] |= values
        path.write_text(yaml.safe_dump(document))

    def commit(self, subject: str) -> None:
        """Commit everything to git."""
        self.run("git", "add", "-A")
        self.run("git", *AUTHOR, "commit", "-qm", subject)

    def start(self, *command: str) -> subprocess.Popen:
        """Run in the background, silently, in a process group of its own, where it hears Ctrl-C."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=hear_ctrl_c,
        )

    def run(self, *command: str, fails: bool = False) -> str:
        """Run to the end, which is a failure exactly if `fails`; return what it prints."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def hold(self, stage: str) -> Iterator[Path]:
        """Hold a stage's workers in the middle of their work while the context is open.

        Gives a folder to which each worker adds a file "<stage>.<pid>" when it begins to wait.
        Processes that are to be held must be started within the context.
        """
        folder = self.folder / ".hold"
        folder.mkdir(exist_ok=True)
        gate = folder / stage
        gate.touch()
        before = self.environment
        hook = Path(__file__).parent / "hold"
        self.environment = before | {"HOLD_FOLDER": str(folder), "PYTHONPATH": str(hook)}
        try:
            yield folder
        finally:
            self.environment = before
            for file in folder.iterdir():
                file.unlink()

    def stages_run(self, output: str) -> list[str]:
        """Return the stages that ran, by what `dvc repro` printed."""
        lines = output.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def log(self, stage: str) -> dict:
        return json.loads((self.folder / f"logs/{stage}.json").read_text())

    def files(self) -> dict[str, bytes]:
        """Return outputs and metrics, byte by byte.

        What says when and where a run was made is left out of the report's pages.
        """
        contents = {}
        for name in ("data", "models", "metrics"):
            for path in (self.folder / name).rglob("*"):
                if path.is_file():
                    contents[str(path.relative_to(self.folder))] = path.read_bytes()
        for page in {"metrics/tables.md", "metrics/report.html"} & set(contents):
            text = without_provenance(contents[page].decode())
            contents[page] = PROVENANCE_SECTION.sub("", text).encode()
        return contents

    def hashes(self) -> dict[str, str]:
        """Return the digests of outputs in dvc.lock, but for those of `pretrain`."""
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        digests: dict[str, str] = {}
        for name, stage in stages.items():
            if name != "pretrain":
                digests |= {output["path"]: output["md5"] for output in stage["outs"]}
        return digests
