"""Fixtures: a workspace like a checkout's, no processes, a tiny BERT, and a user's own media."""

import os
from pathlib import Path

import pytest

from audio_from_video.runtime import parallel
from tests.support.map_items import without_processes
from tests.support.workspace import Workspace

# The longest modules go first: begun last, one would run on beside an idle process.
LONGEST = [
    "tests.system.test_pipeline",
    "tests.system.test_interruptions",
    "tests.test_captions",
    "tests.test_generator",
    "tests.system.test_full_size",
    "tests.system.test_odd_media",
    "tests.system.test_leakage",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        name = item.module.__name__
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """The current directory is a fresh workspace, with an item store of its own."""
    monkeypatch.setenv("ITEM_STORE", str(tmp_path / "items"))
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


@pytest.fixture
def in_process(monkeypatch) -> None:
    """`parallel.map_items` starts no processes, which take seconds to import PyTorch."""
    monkeypatch.setattr(parallel, "map_items", without_processes)


@pytest.fixture(scope="session")
def extra_media() -> Path:
    """A folder of more media: `clips/` (Moments in Time layout) and `odd/` (broken and exotic)."""
    folder = os.environ.get("EXTRA_MEDIA")
    if not folder:
        pytest.skip("EXTRA_MEDIA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> str:
    """The folder of a tiny BERT of random weights, for where the meaning of texts is no matter."""
    # Imported here, as transformers takes seconds and most files of tests do without a BERT.
    from tests.support.text_models import write_bert

    return write_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def any_clip_set(monkeypatch) -> None:
    """`clips` takes a root that could make no experiment: for tests of what becomes of files."""
    monkeypatch.setattr("stages.clips.require_splits", lambda clips, p: None)
