"""A repository like this one, with tiny parameters: for tests and scripts that run `dvc repro`."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from tests.support.closure import ROOT

ROWS = (
    "video_only",
    "real_audio",
    "generated",
    "validated",
    "mapped",
    "mapped_validated",
    "published",
)


# the others: tests/test_classifier.py and test_action_data.py


def hear_ctrl_c() -> None:
    """A shell has what it runs in the background ignore it, and so would everything that the tests start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("stages", "audio_from_video", "models/tiny", "metrics/experiments"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        (folder / "metrics").mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "metrics/pretrain.json", folder / "metrics")
        for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
            shutil.copy(ROOT / name, folder)
        p = yaml.safe_load((ROOT / "params.yaml").read_text())
        p["sample"] |= {"training_per_action": 6, "test_per_action": 3, "unlabelled_per_action": 1}
        p["classifier"] |= {
            "seeds": 2,
            "conditions": {name: p["classifier"]["conditions"][name] for name in ROWS},
        }
        p["report"] |= {"clips": 4}
        p["generator"] |= {"seeds": 2, "folds": 2}
        del p["generator"]["architectures"]["shuffled"]
        for network in (p["classifier"]["lstm"], p["generator"]["lstm"]):
            network |= {"epochs": 3, "hidden": 16, "projection": 16}
        p["label_predictor"]["decoder"]["epochs"] = 2
        p["captions"]["training"]["epochs"] = 1
        p["label_audio"]["min_evidence"] = 1.0
        p["audio_features"]["components"] = 16
        (folder / "params.yaml").write_text(yaml.safe_dump(p))
        self.run("git", "init", "-q", ".")
        self.run("dvc", "init", "-q")
        self.run("git", "add", "-A")
        self.run(
            "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start"
        )

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
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def stages_run(self, output: str) -> list[str]:
        return [
            line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")
        ]

    def log(self, stage: str) -> dict:
        return json.loads((self.folder / f"logs/{stage}.json").read_text())

    def files(self) -> dict[str, bytes]:
        """Outputs and metrics, byte by byte."""
        found = [
            path
            for name in ("data", "models", "metrics")
            for path in (self.folder / name).rglob("*")
            if path.is_file()
        ]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found}

    def hashes(self) -> dict[str, str]:
        stages = yaml.safe_load((self.folder / "dvc.lock").read_text())["stages"]
        return {
            out["path"]: out["md5"]
            for name, stage in stages.items()
            if name != "pretrain"
            for out in stage["outs"]
        }
