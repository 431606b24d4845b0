"""A folder like a checkout, and a folder of clips, for tests that run stages."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from audio_from_video.runtime import parallel
from tests.support.closure import ROOT
from tests.support.map_items import without_processes
from tests.support.media_files import sine, write_video


class Workspace:
    """A folder with a params.yaml of its own, in which a test runs stages."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copy(ROOT / "params.yaml", folder / "params.yaml")

    def set(self, **sections) -> None:
        """Change parameters: `set(frames={"fps": 8.0})`.

        Nested dicts are merged, but conditions replaced as a whole; None deletes a key.
        """
        path = self.folder / "params.yaml"
        # libyaml's reader and writer: PyYAML's own take ten times as long, in each of many tests.
        document = yaml.load(path.read_text(), yaml.CSafeLoader)
        _merge(document, sections)
        path.write_text(yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False))


@contextmanager
def prepared(folder: Path) -> Iterator[Workspace]:
    """Make a folder the current directory, as a workspace whose stages start no processes.

    A module's tests that begin alike copy such a folder, which was filled once.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITEM_STORE", str(folder / "items"))
        patch.setenv("DEVICE", "cpu")
        patch.setattr(parallel, "map_items", without_processes)
        patch.chdir(folder)
        yield Workspace(folder)


def _merge(document: dict, changes: dict) -> None:
    for key, value in changes.items():
        both_are_dicts = isinstance(value, dict) and isinstance(document.get(key), dict)
        if both_are_dicts and key != "conditions":
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
    """Write video files with sound in the layout of Moments in Time.

    `training` and `validation` are numbers of clips per action; each clip is a source of its own.
    """
    for split, count in (("training", training), ("validation", validation)):
        for a, action in enumerate(actions):
            folder = root / split / action
            folder.mkdir(parents=True)
            for i in range(count):
                name = f"{split[0]}{a}{i}"
                tone = sine(300 + 200 * a + 7 * i, 3, -12)
                options = ("-c:a", "aac", "-metadata", f"title={name}")
                write_video(folder / f"{name}_1.mp4", 72, "24", *options, sound=tone)
