"""What code a stage runs: exactly the stages that import a file notice that it changed."""

import json
import shutil
from pathlib import Path

import pytest

from stages import code
from stages.code import imported_files
from tests.support.closure import ROOT


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A copy of the code; what is noted of it, as text by stage."""
    for name in ("stages", "audio_from_video"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    monkeypatch.chdir(tmp_path)

    def note() -> dict[str, str]:
        code.main()
        return {path.stem: path.read_text() for path in (tmp_path / "data/code").iterdir()}

    return note


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("audio_from_video/evaluation/baselines.py", {"generator"}),
        ("audio_from_video/reporting/page.html", {"report"}),
        ("audio_from_video/audioset/labels.csv", None),
        ("audio_from_video/storage/__init__.py", None),
        ("stages/frames.py", {"frames"}),
        ("stages/__init__.py", None),
    ],
)
def test_a_changed_file_is_noticed_by_those_that_use_it_and_no_others(
    noted, tmp_path, file, stages
):
    before = noted()
    assert noted() == before
    path = tmp_path / file
    path.write_text(path.read_text() + "\n")
    after = noted()
    changed = {stage for stage in before if after[stage] != before[stage]}
    assert changed == {stage for stage in before if file in json.loads(before[stage])} != set()
    assert stages is None or changed == stages


def test_imports_inside_functions_and_through_others_count():
    files = {str(path) for path in imported_files(Path("stages/classifier.py"), ROOT)}
    assert {
        "stages/classifier.py",
        "audio_from_video/__init__.py",
        "audio_from_video/learning/features.py",
        "audio_from_video/audioset/labels.csv",
        "audio_from_video/runtime/errors.py",
    } <= files
    others = {"stages/sample.py", "stages/report.py", "audio_from_video/reporting/page.py"}
    assert not others & files
