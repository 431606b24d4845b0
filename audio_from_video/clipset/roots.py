"""Where clips lie (`clips.root`): a folder of this machine, or a URL such as s3://bucket/clips.

`file:///data/clips` is another name of the folder /data/clips.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from audio_from_video.runtime import remote
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.remote import Listed, RemoteFile


def plain(root_name: str) -> str:
    """Return a root without what makes the name of a folder a URL."""
    return root_name.removeprefix("file://")


def place(root_name: str, path: str) -> Path | RemoteFile:
    """Return where a file lies that is named relative to a root, or by an absolute path."""
    if remote.is_url(root_name) and not os.path.isabs(path):
        return RemoteFile(root_name, path)
    return Path(plain(root_name)) / path


class FolderRoot:
    """A folder of this machine."""

    def __init__(self, name: str):
        self.name = name
        self.folder = Path(name)
        if not self.folder.is_dir():
            raise UserError(
                f"clips.root = {name!r} is not a folder; give a folder with "
                "training/<action>/*.mp4 and validation/<action>/*.mp4"
            )

    def has(self, path: str) -> bool:
        """Return whether something is at a path below the root."""
        return (self.folder / path).exists()

    def is_folder(self, path: str) -> bool:
        """Return whether a folder, or a link to one, is at a path below the root."""
        return (self.folder / path).is_dir()

    def listed(self, path: str) -> Listed | None:
        """Return None: the file system is asked for each file."""
        return None

    def files_below(self, folder: str) -> Iterator[str]:
        """Yield the path below the root of everything in a folder but real folders, hidden names.

        Links to folders are not entered, so that none can be a loop.
        """
        top = self.folder / folder

        def raise_unreadable(error: OSError) -> None:
            if top.exists():
                raise UserError(
                    f"{error.filename}: the folder cannot be read ({error.strerror}); "
                    "its clips would be missing unnoticed"
                )

        for where, folders, files in os.walk(top, onerror=raise_unreadable):
            links = [name for name in folders if os.path.islink(os.path.join(where, name))]
            for name in [*files, *links]:
                if not name.startswith("."):
                    yield os.path.join(where, name).removeprefix(f"{self.folder}/")


class UrlRoot:
    """What lies behind a URL; it is listed once."""

    def __init__(self, name: str):
        self.name = name
        try:
            self._files = remote.list_files(name)
        except UserError as error:
            raise UserError(f"clips.root = {error}") from None

    def has(self, path: str) -> bool:
        """Return whether a file is at a path below the root."""
        return path in self._files

    def is_folder(self, path: str) -> bool:
        """Return False: only files are listed."""
        return False

    def listed(self, path: str) -> Listed | None:
        """Return what the listing tells of a file; None where there is none."""
        return self._files.get(path)

    def files_below(self, folder: str) -> Iterator[str]:
        """Yield the path below the root of all files in a folder but those with a hidden name."""
        for path in self._files:
            if path.startswith(f"{folder}/") and not PurePosixPath(path).name.startswith("."):
                yield path


Root = FolderRoot | UrlRoot


def open_root(name: str) -> Root:
    """Return a root; raises UserError where it is not there or cannot be listed."""
    return UrlRoot(name) if remote.is_url(name) else FolderRoot(plain(name))
