"""Which files of a root are clips: a folder in Moments in Time layout, or CSV lists in MiT's form."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards

FOLDERS = {
    "training": "training",
    "validation": "test",
    "unlabelled": "unlabelled",
}  # folder -> split


def find(name: str, lists: dict[str, str]) -> list[dict]:
    """Every clip file of the root of this name as {path, folder, action, stem}, sorted by path.

    lists: of a folder, the CSV list that says which files count, relative to the root; '' for all that are there.
    """
    root = Path(name)
    if not root.is_dir():
        raise UserError(
            f"clips.root = {name!r} is not a folder; give a folder with training/<action>/*.mp4 and validation/<action>/*.mp4"
        )
    clips = []
    for folder in FOLDERS:
        if lists.get(folder):
            paths = [f"{folder}/{name}" for name in read_list(root / lists[folder])]
        else:
            paths = [path.removeprefix(f"{root}/") for path in _files(root / folder)]
        for path in sorted(paths):
            if path != path.encode(errors="replace").decode():
                raise UserError(f"{ascii(path)}: the name is not valid UTF-8; rename the file")
            file = Path(path)
            parts = file.parts
            if folder != "unlabelled" and len(parts) == 2 and (root / path).is_dir():
                raise UserError(
                    f"{root / path}: a link to a folder is not followed; move the folder there, or list its files as links"
                )
            if folder != "unlabelled" and len(parts) != 3:
                raise UserError(
                    f"{root / path}: clips belong into {folder}/<action>/, one folder deep"
                )
            clips.append(
                {
                    "path": path,
                    "folder": folder,
                    "action": None if folder == "unlabelled" else parts[1],
                    "stem": file.stem,
                }
            )
    if not any(clip["folder"] == "training" for clip in clips):
        raise UserError(
            f"clips.root = {name!r} holds no clip below training/<action>/; see the README, 'Your own folder'"
        )
    for action in {clip["action"] for clip in clips}:
        if len(Path(shards.partition("training", action)).name) > 255:
            raise UserError(
                f"{action}: the name of this action is too long for a folder of the outputs; shorten it"
            )
    return clips


def _files(folder: Path) -> Iterator[str]:
    """Everything below a folder but real folders and hidden names; links to folders are not entered, so none can be a loop."""

    def refuse(error: OSError) -> None:
        if folder.exists():
            raise UserError(
                f"{error.filename}: the folder cannot be read ({error.strerror}); its clips would be missing unnoticed"
            )

    for place, folders, files in os.walk(folder, onerror=refuse):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        yield from (
            os.path.join(place, name) for name in [*files, *links] if not name.startswith(".")
        )


def read_list(path: Path) -> list[str]:
    """File names of a CSV list in MiT's form: the first column is `action/file`; a header line is skipped."""
    if not path.is_file():
        raise UserError(
            f"the clip list {path} does not exist (clips.training_list, validation_list and test_list are relative to clips.root)"
        )
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as lines:
        names = [row[0] for row in csv.reader(lines) if row and "/" in row[0]]
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{path} names {name!r}, which leaves the root; name clips as action/file"
            )
    return names
