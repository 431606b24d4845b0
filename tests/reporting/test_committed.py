"""The sentence at the end of a run: are its figures the committed ones?"""

import subprocess
from pathlib import Path

import pytest

from audio_from_video.reporting.committed import comparison_with_commit


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A folder with the metrics of a run."""
    monkeypatch.chdir(tmp_path)
    Path("metrics").mkdir()
    Path("metrics/a.json").write_text("{}\n")
    return tmp_path


def test_without_a_repository_nothing_is_said(run):
    assert comparison_with_commit() is None


def test_without_a_commit_nothing_is_said(run):
    git("init", "-q")
    assert comparison_with_commit() is None


def test_metrics_that_were_never_committed_are_compared_with_nothing(run):
    """A download unpacked within somebody's repository."""
    (run / "other").write_text("x")
    git("init", "-q")
    git("add", "other")
    git("commit", "-qm", "other things")
    assert comparison_with_commit() is None


def test_equal_and_other_figures(run):
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "figures")
    assert "are the committed ones" in comparison_with_commit()

    Path("metrics/new.json").write_text("{}\n")
    assert "metrics/new.json" in comparison_with_commit()
    Path("metrics/new.json").unlink()

    Path("metrics/a.json").write_text('{"accuracy": 1}\n')
    assert comparison_with_commit().startswith("1 files below metrics/ differ")
    assert "metrics/a.json" in comparison_with_commit()
