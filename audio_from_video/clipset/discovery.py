"""Discovery of clip files: a folder in Moments in Time layout, or lists.

A list in MiT's form says which files of such a folder count; a list of clips (clipset/lists.py)
names files anywhere below the root, and parts of them.
"""

import csv
import io
import os
import sys
import unicodedata
from pathlib import Path, PurePosixPath

from audio_from_video.clipset import lists, roots
from audio_from_video.clipset.roots import Root
from audio_from_video.runtime.errors import UserError, printable
from audio_from_video.runtime.remote import RemoteFile
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
    return Path(roots.plain(root_name)).resolve() == layout.SAMPLE.resolve()


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
        listed      what a URL's listing tells of its file (`remote.Listed`); None where there is
                    none, and for files of this machine

    Raises UserError where the root, a name or a place is no clip's, or no training clip is there.
    """
    root = roots.open_root(root_name)
    clips = []
    if clip_list:
        clips = _listed_clips(root, clip_list)
    for folder in () if clip_list else SPLIT_OF_FOLDER:
        if folder_lists.get(folder):
            names = read_list(roots.place(root_name, folder_lists[folder]))
            spelled = (_spelled_as_there(root, f"{folder}/{name}") for name in names)
            paths = list(dict.fromkeys(spelled))
        else:
            paths = _clips_below(root, folder)
        clips += [_clip_of_path(root, folder, path) for path in sorted(paths)]
    for clip in clips:
        clip["listed"] = root.listed(clip["path"])
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


def _listed_clips(root: Root, clip_list: str) -> list[dict]:
    """Return the clips of a list, by path and time; what is odd about it goes to stderr."""
    listed, sentences = lists.read(roots.place(root.name, clip_list))
    no_file = lists.Complaints()
    clips: list[dict] = []
    for row in sorted(listed, key=lambda row: (row.path, row.start_s or 0, row.end_s or 0)):
        path = _spelled_as_there(root, row.path)
        if not root.has(path):
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
    if not any(root.has(clip["path"]) for clip in clips):
        raise UserError(
            f"the clip list {clip_list}: none of its {len(clips)} rows matches a file below "
            f"{root.name}, such as {printable(clips[0]['path'])}"
        )
    for sentence in sentences:
        print(f"clips: {clip_list}: {sentence}", file=sys.stderr)
    return clips


def _clip_of_path(root: Root, folder: str, path: str) -> dict:
    """Return the clip that a file is; its path is relative to the root."""
    if path != path.encode(errors="replace").decode():
        raise UserError(f"{ascii(path)}: the name is not valid UTF-8; rename the file")
    file = Path(path)
    holds_clips = folder == "unlabelled" or len(file.parts) == 2
    if holds_clips and root.is_folder(path):
        raise UserError(
            f"{roots.place(root.name, path)}: a link to a folder is not followed; move the folder "
            "there, or list its files as links"
        )
    clip = {"path": path, "folder": folder, "action": None, "stem": file.stem, "name": file.stem}
    clip |= {"start_s": None, "end_s": None, "source_id": ""}
    if folder == "unlabelled":
        return clip
    if len(file.parts) != 3:
        raise UserError(
            f"{roots.place(root.name, path)}: clips belong into {folder}/<action>/, one folder deep"
        )
    action = unicodedata.normalize("NFC", file.parts[1])
    return clip | {"action": action}


def _spelled_as_there(root: Root, path: str) -> str:
    """A listed path as its file is spelled: letters with marks have a composed form and another."""
    for form in ("NFC", "NFD"):
        spelling = unicodedata.normalize(form, path)
        if not root.has(path) and root.has(spelling):
            return spelling
    return path


def _clips_below(root: Root, folder: str) -> list[str]:
    """The files in a folder without those that claim to be no video, which are told."""
    clips: list[str] = []
    others: list[str] = []
    for path in root.files_below(folder):
        if os.path.splitext(path)[1].lower() in OTHER_SUFFIXES:
            others.append(path)
        else:
            clips.append(path)
    if others:
        first = roots.place(root.name, min(others))
        print(
            f"clips: {len(others)} files below {roots.place(root.name, folder)} are no videos by "
            f"their names and are left out, such as {printable(str(first))}",
            file=sys.stderr,
        )
    return clips


def read_list(path: Path | RemoteFile) -> list[str]:
    """Return the file names of a CSV list in MiT's form; a header line is skipped.

    Its first column is `action/file`; a name that stands there twice counts once.  Raises
    UserError where it is missing or leaves the root.
    """
    if not path.is_file():
        raise UserError(
            f"the clip list {path} does not exist (clips.training_list, validation_list and "
            "test_list are relative to clips.root)"
        )
    content = io.BytesIO(path.read_bytes())
    lines = io.TextIOWrapper(content, "utf-8-sig", "surrogateescape", newline="")
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
