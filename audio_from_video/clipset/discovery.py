"""Discovery of clip files: a folder in Moments in Time layout, or lists.

A list in MiT's form says which files of such a folder count; a list of clips (clipset/lists.py)
names files anywhere below the root, and parts of them.
"""

import csv
import os
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from audio_from_video.clipset import lists
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.storage import layout, shards

SPLIT_OF_FOLDER = {"training": "training", "validation": "test", "unlabelled": "unlabelled"}
# What lies beside clips and claims to be no video: half downloads, facts, subtitles, pictures.
OTHER_SUFFIXES = frozenset(
    (
        ".part",
        ".ytdl",
        ".crdownload",
        ".tmp",
        ".json",
        ".csv",
        ".tsv",
        ".txt",
        ".md",
        ".xml",
        ".yaml",
        ".yml",
        ".log",
        ".srt",
        ".vtt",
        ".ass",
        ".jpg",
        ".jpeg",
        ".png",
        ".webp",
        ".db",
        ".ini",
    )
)
LONGEST_NAME = 255  # characters of a file name on common file systems


def is_sample(root_name: str) -> bool:
    """Return whether clips.root is the rendered data set, however it is spelled."""
    return Path(root_name).resolve() == layout.SAMPLE.resolve()


def find_clips(root_name: str, folder_lists: dict[str, str], clip_list: str = "") -> list[dict]:
    """Return every clip of a root, by folder and path.

    folder_lists: by folder, the CSV list that says which files count, relative to the root; '' for
    all that are there.  clip_list: the list that names all clips, relative to the root; '' where
    the folders hold them.

    A clip is a dict with
        path        of its file, relative to the root
        folder      training, validation or unlabelled; of a listed clip the split that its row
                    names, or ''
        action      None for unlabelled clips
        stem        of the file
        name        the clip's id below its action
        start_s, end_s   of its part of the file; None: all of it
        source_id   '' where its name tells it

    Raises UserError where the root, a name or a place is no clip's, or no training clip is there.
    """
    root = Path(root_name)
    if not root.is_dir():
        raise UserError(
            f"clips.root = {root_name!r} is not a folder; give a folder with "
            "training/<action>/*.mp4 and validation/<action>/*.mp4"
        )
    clips = []
    if clip_list:
        clips = _listed_clips(root, clip_list)
    for folder in () if clip_list else SPLIT_OF_FOLDER:
        if folder_lists.get(folder):
            names = read_list(root / folder_lists[folder])
            spelled = (_spelled_as_there(root, f"{folder}/{name}") for name in names)
            paths = list(dict.fromkeys(spelled))
        else:
            paths = [path.removeprefix(f"{root}/") for path in _clips_below(root / folder)]
        clips += [_clip_of_path(root, folder, path) for path in sorted(paths)]
    if not clip_list and not any(clip["folder"] == "training" for clip in clips):
        raise UserError(
            f"clips.root = {root_name!r} holds no clip below training/<action>/; "
            "see the README, 'Your own clips'"
        )
    for action in {clip["action"] for clip in clips}:
        # The outputs have a folder per action, in whose name special characters are encoded.
        if len(Path(shards.partition("training", action)).name) > LONGEST_NAME:
            raise UserError(
                f"{action}: the name of this action is too long for a folder of the outputs; "
                "shorten it"
            )
    return clips


def _listed_clips(root: Path, clip_list: str) -> list[dict]:
    """Return the clips of a list, by path and time; what is odd about it goes to stderr."""
    listed, sentences = lists.read(root / clip_list)
    no_file = lists.Complaints()
    clips: list[dict] = []
    for row in sorted(listed, key=lambda row: (row.path, row.start_s or 0, row.end_s or 0)):
        path = _spelled_as_there(root, row.path)
        if not (root / path).exists():
            no_file.add("match no file", row.path)
        action = unicodedata.normalize("NFC", row.action)
        clips.append(
            {
                "path": path,
                "folder": row.split,
                "action": action or None,
                "stem": PurePosixPath(path).stem,
                "name": f"{PurePosixPath(path).with_suffix('')}{row.part}",
                "start_s": row.start_s,
                "end_s": row.end_s,
                "source_id": row.source_id,
            }
        )
    sentences += no_file.sentences()
    if all(not (root / clip["path"]).exists() for clip in clips):
        raise UserError(
            f"the clip list {clip_list}: none of its {len(clips)} rows matches a file below "
            f"{root}, such as {printable(clips[0]['path'])}"
        )
    for sentence in sentences:
        print(f"clips: {clip_list}: {sentence}", file=sys.stderr)
    return clips


def _clip_of_path(root: Path, folder: str, path: str) -> dict:
    """Return the clip that a file is; its path is relative to the root."""
    if path != path.encode(errors="replace").decode():
        raise UserError(f"{ascii(path)}: the name is not valid UTF-8; rename the file")
    file = Path(path)
    holds_clips = folder == "unlabelled" or len(file.parts) == 2
    if holds_clips and (root / path).is_dir():
        raise UserError(
            f"{root / path}: a link to a folder is not followed; move the folder there, "
            "or list its files as links"
        )
    clip = {"path": path, "folder": folder, "action": None, "stem": file.stem, "name": file.stem}
    clip |= {"start_s": None, "end_s": None, "source_id": ""}
    if folder == "unlabelled":
        return clip
    if len(file.parts) != 3:
        raise UserError(f"{root / path}: clips belong into {folder}/<action>/, one folder deep")
    action = unicodedata.normalize("NFC", file.parts[1])
    return clip | {"action": action}


def _spelled_as_there(root: Path, path: str) -> str:
    """A listed path as its file is spelled: letters with marks have a composed form and another."""
    for form in ("NFC", "NFD"):
        spelling = unicodedata.normalize(form, path)
        if not (root / path).exists() and (root / spelling).exists():
            return spelling
    return path


def _clips_below(folder: Path) -> list[str]:
    """The files below a folder without those that claim to be no video, which are told."""
    clips: list[str] = []
    others: list[str] = []
    for path in _files_below(folder):
        if os.path.splitext(path)[1].lower() in OTHER_SUFFIXES:
            others.append(path)
        else:
            clips.append(path)
    if others:
        print(
            f"clips: {len(others)} files below {folder} are no videos by their names and are left "
            f"out, such as {printable(min(others))}",
            file=sys.stderr,
        )
    return clips


def _files_below(folder: Path) -> Iterator[str]:
    """Yield everything below a folder but real folders and hidden names.

    Links to folders are not entered, so that none can be a loop.
    """

    def raise_unreadable(error: OSError) -> None:
        if folder.exists():
            raise UserError(
                f"{error.filename}: the folder cannot be read ({error.strerror}); "
                "its clips would be missing unnoticed"
            )

    for place, folders, files in os.walk(folder, onerror=raise_unreadable):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*files, *links]:
            if not name.startswith("."):
                yield os.path.join(place, name)


def read_list(path: Path) -> list[str]:
    """Return the file names of a CSV list in MiT's form; a header line is skipped.

    Its first column is `action/file`; a name that stands there twice counts once.  Raises
    UserError where it is missing or leaves the root.
    """
    if not path.is_file():
        raise UserError(
            f"the clip list {path} does not exist (clips.training_list, validation_list and "
            "test_list are relative to clips.root)"
        )
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as lines:
        try:
            rows = list(csv.reader(lines, strict=True))
        except csv.Error as error:
            raise UserError(f"{path} is no CSV file: {error}") from None
    # Without `./` and doubled slashes.
    names = [PurePosixPath(row[0]).as_posix() for row in rows if row and "/" in row[0]]
    for name in names:
        if "\0" in name:
            raise UserError(f"{path} holds zero bytes: save it as UTF-8")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(
                f"{path} names {name!r}, which leaves the root; name clips as action/file"
            )
    return list(dict.fromkeys(names))
