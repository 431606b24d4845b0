"""What code a stage runs: exactly the stages that import a file notice that it changed."""

import json
import shutil

import pytest

from stages import code
from stages.code import imported_files
from tests.closure import ROOT


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A copy of the code; what is noted of it, as text by stage."""
    shutil.copytree(
        ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.chdir(tmp_path)

    def note() -> dict[str, str]:
        code.main()
        return {path.stem: path.read_text() for path in (tmp_path / "data/code").iterdir()}

    return note


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("stages/common/retrieval.py", {"classifier", "generator", "search"}),
        ("stages/common/page.html", {"report"}),
        ("stages/common/audioset_labels.csv", None),
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
    files = imported_files(ROOT / "stages/classifier.py", ROOT)
    assert {
        "stages/classifier.py",
        "stages/common/retrieval.py",
        "stages/common/audioset_labels.csv",
        "stages/common/errors.py",
    } <= files
    assert not [file for file in files if "sample" in file or "report" in file]
