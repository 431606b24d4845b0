"""Fixtures: a workspace like a checkout's, and folders of real media where the environment names them."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.closure import ROOT
from tests.support.media_files import sine, write_video

LONGEST = [
    f"tests.test_{name}"
    for name in (
        "pipeline",
        "interruptions",
        "captions",
        "generator",
        "full_size",
        "odd_media",
        "leakage",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules go first: begun last, one would run on beside an idle process."""
    items.sort(
        key=lambda item: (
            LONGEST.index(item.module.__name__) if item.module.__name__ in LONGEST else len(LONGEST)
        )
    )


class Workspace:
    """A folder with a params.yaml of its own, in which a test runs stages."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copy(ROOT / "params.yaml", folder / "params.yaml")

    def set(self, **sections) -> None:
        """Change parameters: `set(frames={"fps": 8.0})`; nested dicts are merged, None deletes a key."""
        path = self.folder / "params.yaml"
        document = yaml.safe_load(path.read_text())
        _merge(document, sections)
        path.write_text(yaml.safe_dump(document, sort_keys=False))


def _merge(document: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict) and key != "conditions":
            _merge(document[key], value)
        elif value is None:
            document.pop(key, None)
        else:
            document[key] = value


def write_clip_set(
    root: Path,
    actions: tuple[str, ...] = ("clapping", "knocking"),
    training: int = 4,
    validation: int = 2,
) -> None:
    """Video files with sound in Moments in Time layout: so many clips per action and folder, each of a source of its own."""
    for folder, count in (("training", training), ("validation", validation)):
        for a, action in enumerate(actions):
            (root / folder / action).mkdir(parents=True)
            for i in range(count):
                name = f"{folder[0]}{a}{i}"
                tone = sine(300 + 200 * a + 7 * i, 3, -12)
                write_video(
                    root / folder / action / f"{name}_1.mp4",
                    72,
                    "24",
                    "-c:a",
                    "aac",
                    "-metadata",
                    f"title={name}",
                    sound=tone,
                )


@pytest.fixture
def workspace(tmp_path, monkeypatch) -> Workspace:
    """The current directory is a fresh workspace, with an item store of its own."""
    monkeypatch.setenv("ITEM_STORE", str(tmp_path / "items"))
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.chdir(tmp_path)
    return Workspace(tmp_path)


def in_process(
    function, items, workers=None, timeout_s=None, initializer=lambda: None, initargs=()
):
    """`parallel.map_items` without processes, which take seconds to import PyTorch."""
    initializer(*initargs)
    return map(function, items)


@pytest.fixture(scope="session")
def extra_media() -> Path:
    """A folder with more media, `clips/` (Moments in Time layout) and `odd/` (broken and exotic files)."""
    folder = os.environ.get("EXTRA_MEDIA")
    if not folder:
        pytest.skip("EXTRA_MEDIA names no folder")
    return Path(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    """The directory of a tiny BERT of random weights, for where the meaning of texts does not matter."""
    from tests.backbones.test_text import tiny_bert

    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")
