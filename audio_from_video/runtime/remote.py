"""Files behind URLs such as s3://bucket/clips, by fsspec, with the package of the URL's protocol.

A file is named by its root's URL and its path below it, which is never read as a part of a URL: a
stranger's file name may hold `::`, by which fsspec would find an address in it.
"""

import logging
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from audio_from_video.runtime.errors import UserError, printable

# What a listing tells of a file that changes with its content, by kind of store.
MARKS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")
# A file is held in memory as a whole, once or twice.
MAX_BYTES = 512 * 2**20


class Unreachable(UserError):
    """A file or folder that could not be read now: it may be there at the next run."""


class Listed(NamedTuple):
    """What a listing tells of a file: its size, and a text that changes with its content."""

    size_bytes: int
    state: str


def is_url(place: str) -> bool:
    """Return whether a place is to be read by fsspec; a folder of this machine is not."""
    return "://" in place and not place.startswith("file://")


@dataclass(frozen=True)
class RemoteFile:
    """A file below the root of a URL; of `pathlib.Path` it has what readers of small files need."""

    root: str
    path: str

    def __str__(self) -> str:
        return f"{self.root.rstrip('/')}/{self.path}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.path).name

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return PurePosixPath(self.path).suffix

    def is_file(self) -> bool:
        """Return whether the file is there; raises Unreachable where that cannot be told."""
        file_system, base = _file_system(self.root)
        try:
            return file_system.info(f"{base}/{self.path}")["type"] == "file"
        except FileNotFoundError:
            return False
        except Exception as error:  # each protocol's package has errors of its own
            raise Unreachable(
                f"{printable(str(self))}: cannot be looked up ({_cause(error)})"
            ) from None

    def read_bytes(self) -> bytes:
        """Return the content; raises Unreachable."""
        file_system, base = _file_system(self.root)
        try:
            return file_system.cat_file(f"{base}/{self.path}")
        except Exception as error:  # each protocol's package has errors of its own
            raise Unreachable(f"{printable(str(self))}: cannot be read ({_cause(error)})") from None


def list_files(root: str) -> dict[str, Listed]:
    """Return all files below the root of a URL, by path.

    A folder at a time, as a listing may have a million files.  Raises Unreachable where a folder
    cannot be listed, and UserError where the listing does not tell when a file changes.
    """
    file_system, base = _file_system(root)
    files: dict[str, Listed] = {}
    folders = [base]
    while folders:
        folder = folders.pop()
        try:
            entries = file_system.ls(folder, detail=True)
        except FileNotFoundError:
            raise Unreachable(f"{root!r}: nothing is there, or it may not be seen") from None
        except Exception as error:  # each protocol's package has errors of its own
            raise Unreachable(
                f"{root!r}: cannot be listed ({_cause(error)}); is the address right, and may this "
                "machine read it?"
            ) from None
        for entry in entries:
            name = entry["name"].rstrip("/")
            if name == folder:  # stores have such markers of folders
                continue
            if entry["type"] == "directory":
                folders.append(name)
            else:
                files[name.removeprefix(f"{base}/")] = _listed(root, entry)
    return files


def _file_system(root: str) -> tuple[Any, str]:
    """The file system of a URL and the root's path in it; raises UserError where there is none."""
    # Only roots that are URLs need it, and it takes a tenth of a second to import.
    from fsspec.core import url_to_fs

    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it prints the traces of its errors
    try:
        # A listing that is remembered would hide changes.
        file_system, base = url_to_fs(root, use_listings_cache=False)
    except ImportError as error:
        advice = "`pip install` the package into the virtual environment"
        raise UserError(f"{root!r}: {_cause(error)}; {advice}") from None
    except Exception as error:  # each protocol's package has errors of its own
        raise UserError(f"{root!r} is no URL that fsspec knows ({_cause(error)})") from None
    return file_system, base.rstrip("/")


def _listed(root: str, entry: dict[str, Any]) -> Listed:
    marks = [f"{mark}={entry[mark]}" for mark in MARKS if entry.get(mark) is not None]
    if not marks:
        raise UserError(
            f"{root!r}: its listing tells neither a version nor a time of its files, so changes "
            "would stay unseen; copy the files to a folder"
        )
    return Listed(entry["size"], " ".join(marks))


def _cause(error: Exception) -> str:
    """An error on one line; some have no text but their kind."""
    text = " ".join(str(error).split())
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
