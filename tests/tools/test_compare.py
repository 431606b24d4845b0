"""The comparison shows what stands in both metrics files, before and after."""

import json
import subprocess
from pathlib import Path

import pytest

from audio_from_video.reporting.results_page import README_CONDITIONS
from audio_from_video.runtime.errors import UserError
from tools import compare


def write_accuracy(name: str, mean: float, n: int = 480) -> None:
    path = Path(f"metrics/classifier/{name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    accuracy = {"mean": mean, "ci95_low": mean - 0.05, "ci95_high": mean + 0.05, "n": n}
    path.write_text(json.dumps({"accuracy": accuracy}))


def git(*arguments: str) -> None:
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
    subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(workspace):
    """A repository whose commit holds all main conditions but `logistic_mapped`, all at 60 %."""
    for name in README_CONDITIONS:
        if name != "logistic_mapped":
            write_accuracy(name, 0.6)
    git("init", "-b", "main")
    git("add", "metrics")
    git("commit", "-m", "figures")


def lines_of(revision: str) -> list[str]:
    before = compare.figures_of_commit(compare.commit_of(revision))
    return compare.comparison(revision, before, compare.figures_of_run())


def test_a_line_for_each_condition_before_and_after(repository):
    write_accuracy("logistic_generated", 0.625)
    write_accuracy("validated", 0.6 - 1e-9)
    write_accuracy("logistic_mapped", 0.7)
    Path("metrics/classifier/logistic.json").unlink()
    lines = lines_of("HEAD")
    assert len(lines) == 2 + len(README_CONDITIONS)  # a heading, and the clips
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert rows["video_only"] == "60.0 [55.0, 65.0] 60.0 [55.0, 65.0] +0.0"
    assert rows["logistic_generated"] == "60.0 [55.0, 65.0] 62.5 [57.5, 67.5] +2.5"
    assert rows["validated"].endswith("+0.0")
    assert rows["logistic_mapped"] == "- 70.0 [65.0, 75.0] -"
    assert rows["logistic"] == "60.0 [55.0, 65.0] - -"
    assert lines[-1].startswith("480 test clips; ")


def test_other_test_clips_are_told(repository):
    for name in README_CONDITIONS:
        write_accuracy(name, 0.6, n=30)
    assert lines_of("main")[-1].startswith("480 test clips before and 30 now")


def test_experiments_of_dvc_are_found_by_name(repository):
    git("update-ref", "refs/exps/ab/cdef/brief-name", "HEAD")
    assert compare.commit_of("brief-name") == compare.commit_of("HEAD")


def test_what_cannot_be_compared_is_a_sentence(repository):
    with pytest.raises(UserError, match="'nowhere' is no commit, no branch and no experiment"):
        compare.commit_of("nowhere")
    git("rm", "-r", "--cached", "metrics")
    git("commit", "-m", "no figures")
    with pytest.raises(UserError, match="HEAD holds no figures of the main conditions"):
        lines_of("HEAD")
    for path in Path("metrics/classifier").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="run `dvc repro` first"):
        lines_of("HEAD~1")
