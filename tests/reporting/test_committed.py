"""The sentence at the end of a run: are its figures the committed ones?"""

import subprocess
from pathlib import Path

import pytest

from audio_from_video.reporting.committed import comparison_with_commit
from audio_from_video.reporting.provenance import LINE_START
from tests.support.repository import AUTHOR

PAGES = ("metrics/tables.md", "docs/results.md")
PAGE = f"# Results\n\n{LINE_START}date: 2026-11-27\n{LINE_START}commit: abc\n\n| 64.0 |\n"


def git(*arguments: str) -> None:
    subprocess.run(["git", *AUTHOR, *arguments], check=True, capture_output=True)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A folder with the metrics and the pages of a run."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Path("metrics").mkdir()
    Path("docs").mkdir()
    Path("metrics/a.json").write_text("{}\n")
    for page in PAGES:
        Path(page).write_text(PAGE)
    return folder


@pytest.fixture
def committed(run) -> Path:
    """The same folder after a commit."""
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "figures")
    return run


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


def test_equal_and_other_figures(committed):
    assert "are the committed ones" in comparison_with_commit()

    Path("metrics/new.json").write_text("{}\n")
    assert "metrics/new.json" in comparison_with_commit()
    Path("metrics/new.json").unlink()

    Path("metrics/a.json").write_text('{"accuracy": 1}\n')
    assert comparison_with_commit().startswith("1 files of metrics and docs/results.md differ")
    assert "metrics/a.json" in comparison_with_commit()


@pytest.mark.parametrize("page", PAGES)
def test_date_and_commit_do_not_count_and_figures_do(committed, page):
    Path(page).write_text(PAGE.replace("2026-11-27", "2027-01-01").replace("abc", "def"))
    assert "are the committed ones" in comparison_with_commit()

    Path(page).write_text(PAGE.replace("64.0", "64.1"))
    assert f"1 files of metrics and docs/results.md differ from the committed ones ({page})" in (
        comparison_with_commit()
    )


def test_lines_of_provenance_count_in_every_other_file(committed):
    Path("metrics/a.json").write_text(f"{{}}\n{LINE_START}date: 2027-01-01\n")
    assert "metrics/a.json" in comparison_with_commit()


def test_a_page_that_is_gone_differs(committed):
    Path("docs/results.md").unlink()
    assert "docs/results.md" in comparison_with_commit()


def test_a_folder_within_a_larger_repository_is_compared_by_its_own_paths(run):
    git("init", "-q", "..")
    git("add", "-A")
    git("commit", "-qm", "figures")
    Path("docs/results.md").write_text(PAGE.replace("2026-11-27", "2027-01-01"))
    assert "are the committed ones" in comparison_with_commit()
