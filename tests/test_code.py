"""What code a stage runs: exactly the stages that import a file notice that it changed.

Before that, mistakes in any section of params.yaml end a run.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stages import code
from stages.code import ImportGraph
from tests.support.closure import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the code."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("stages", "audio_from_video"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "params.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def before(folder) -> dict[str, str]:
    """What is noted of the code, as text by stage."""
    return note(folder)


def note(folder: Path) -> dict[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code.main()
    return {path.stem: path.read_text() for path in (folder / "data/code").iterdir()}


@contextmanager
def changed(path: Path, old: str, new: str) -> Iterator[None]:
    """A file has another text meanwhile."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new) if old else text + new)
    try:
        yield
    finally:
        path.write_text(text)


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
def test_a_changed_file_is_noticed_by_those_that_use_it_and_no_others(folder, before, file, stages):
    with changed(folder / file, "", "\n"):
        after = note(folder)
    noticed = {stage for stage in before if after[stage] != before[stage]}
    assert noticed == {stage for stage in before if file in json.loads(before[stage])} != set()
    assert stages is None or noticed == stages


def test_imports_inside_functions_and_through_others_count():
    files = {str(path) for path in ImportGraph(ROOT).imported_files(Path("stages/classifier.py"))}
    assert {
        "stages/classifier.py",
        "audio_from_video/__init__.py",
        "audio_from_video/learning/features.py",
        "audio_from_video/audioset/labels.csv",
        "audio_from_video/runtime/errors.py",
    } <= files
    others = {"stages/sample.py", "stages/report.py", "audio_from_video/reporting/page.py"}
    assert not others & files


def test_a_mistake_in_any_section_ends_a_run_and_says_how_to_undo_it(workspace):
    workspace.set(filter={"threshold": 7}, mapping={"top": 3})
    with pytest.raises(SystemExit) as caught:
        code.main()
    message = str(caught.value.code)
    threshold, missing_or_unknown, undo = message.splitlines()
    assert threshold.startswith("code: error: params.yaml: filter.threshold = 7: input should be")
    assert "mapping.top is not a parameter; did you mean 'top_k'?" in missing_or_unknown
    assert "git checkout HEAD params.yaml" in undo
    assert not Path("data").exists()


def test_a_change_of_parameters_alone_changes_no_digest(folder, before):
    with changed(folder / "params.yaml", "silence_db: -50.0", "silence_db: -60.0"):
        assert note(folder) == before


def test_the_check_loads_no_heavy_library():
    """It runs whenever a parameter changes."""
    heavy = ("torch", "sklearn", "scipy", "cv2", "av", "pandas", "pyarrow", "numpy")
    program = f"import stages.code, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
