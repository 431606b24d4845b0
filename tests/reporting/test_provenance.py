"""Which run figures are of: commit, changes, parameters, data, dvc.lock, machine."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pytest
import yaml

from audio_from_video.reporting import provenance
from audio_from_video.runtime.atomic import write_json
from audio_from_video.storage import layout, shards
from tests.support.repository import AUTHOR


def git(*arguments: str) -> str:
    command = ["git", *AUTHOR, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def committed(workspace) -> str:
    """The commit of a workspace with its parameters and a stage."""
    Path("stages").mkdir()
    Path("stages/a.py").write_text("a = 1\n")
    Path("README.md").write_text("# A\n")
    git("init", "-q")
    git("add", "params.yaml", "stages", "README.md")
    git("commit", "-qm", "start")
    return git("rev-parse", "HEAD").strip()


def facts() -> dict[str, str]:
    return dict(provenance.of_this_run("cpu").facts())


def test_a_clean_commit(committed):
    commit, changes = facts()["commit"].split(", ")
    assert committed.startswith(commit)
    assert len(commit) >= 7
    assert changes == "without uncommitted changes"
    assert facts()["parameters other than the commit's"] == "none"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts()["date"])


def test_changed_and_new_code_is_named_and_a_changed_readme_is_not(committed):
    Path("stages/a.py").write_text("a = 2\n")
    Path("stages/b.py").write_text("b = 1\n")
    Path("README.md").write_text("# B\n")
    assert provenance.code_state().uncommitted == ["stages/a.py", "stages/b.py"]
    assert facts()["commit"].endswith("with uncommitted changes in stages/a.py, stages/b.py")


def test_parameters_other_than_the_commits_are_named_with_both_values(committed, workspace):
    workspace.set(filter={"threshold": 0.72}, frames={"keep": None, "later": [1, "a"]})
    found = facts()["parameters other than the commit's"]
    assert "filter.threshold 0.72 (committed: auto)" in found
    assert 'frames.later [1, "a"] (added)' in found
    assert "frames.keep removed" in found
    assert len(provenance.of_this_run("cpu").parameters) == 3


def test_without_git_it_says_so(workspace, monkeypatch):
    assert facts()["commit"] == facts()["parameters other than the commit's"]
    assert "no Git repository" in facts()["commit"]
    monkeypatch.setenv("PATH", "")
    assert "no Git repository" in facts()["commit"]


def test_somebody_elses_repository_is_not_this_codes_commit(workspace):
    """A download unpacked within somebody's repository."""
    Path("other").write_text("x")
    git("init", "-q")
    git("add", "other")
    git("commit", "-qm", "other things")
    assert "no Git repository" in facts()["commit"]


def write_lock(**stages: str) -> None:
    entries = {name: {"cmd": command, "outs": []} for name, command in stages.items()}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}))


def test_the_digest_of_the_lock_leaves_out_report_alone(workspace):
    assert provenance.lock_digest() is None
    write_lock(clips="a")
    first = provenance.lock_digest()
    write_lock(clips="a", report="r")
    assert provenance.lock_digest() == first
    write_lock(clips="b", report="r")
    assert provenance.lock_digest() != first


def write_clips(content: str) -> None:
    row = {
        "clip_id": "a/x",
        "content_hash": content,
        "split": "test",
        "action": "a",
        "source_id": "x",
        "status": "ok",
    }
    shards.write_table(shards.with_clip_set(pa.Table.from_pylist([row])), layout.CLIPS)


def test_the_data_set_is_that_of_the_clips(workspace):
    assert "unknown" in facts()["data set"]
    write_clips("1")
    first = facts()["data set"]
    assert first == shards.current_clip_set()
    write_clips("2")
    assert facts()["data set"] != first


def test_the_list_that_models_are_fitted_on_is_named(workspace):
    assert "models fitted on" not in facts()
    write_json(layout.metrics("clips"), {"clips": {"in": 9}})
    assert "models fitted on" not in facts()
    listed = {"list": "fit_on.csv", "digest": "d1", "clips": 1234}
    write_json(layout.metrics("clips"), {"fit_on": listed})
    expected = "1,234 clips of the list fit_on.csv with digest d1"
    assert facts()["models fitted on"] == expected
    assert f"models fitted on: {expected}" in provenance.of_this_run("cpu").markdown()


def test_machine_and_libraries_are_those_that_run(workspace):
    assert facts()["processor"].endswith("cores, cpu")
    assert f"numpy {version('numpy')}" in facts()["libraries"]


def test_every_fact_is_a_line_that_can_be_left_out(committed, workspace):
    workspace.set(filter={"threshold": "a\nb"})
    text = provenance.of_this_run("cpu").markdown()
    assert len(text.splitlines()) == len(facts())
    page = f"# Results\n\n{text}\n\nfigures\n"
    assert provenance.without_provenance(page) == "# Results\n\n\nfigures\n"


def test_many_changes_are_counted():
    names = [str(number) for number in range(8)]
    assert provenance.few(names) == "0, 1, 2, 3, 4 and 3 more"
    assert provenance.few(names[:5]) == "0, 1, 2, 3, 4"
