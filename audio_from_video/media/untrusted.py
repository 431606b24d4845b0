"""Strangers' files: the one way to open them, and limits on what they can do.

FFmpeg, through PyAV, gets an open file and no protocol, and reads containers that hold their own
data.  It opens no other file or address that the content names.  What a file can make it allocate
is bounded.  Every function that reads a user's file raises `MediaError` with the decoder's own
message when it cannot.

Importing this module sets nothing: `decoding_process` sets the limits of a worker.
"""

import hashlib
import io
import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from audio_from_video.runtime.digests import new_hash
from audio_from_video.runtime.errors import printable
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.remote import RemoteFile

# Containers that hold their own pictures and sound.  Playlists (HLS, DASH, concat, SDP, IMF, image
# sequences) are not among them: they name other files and addresses.
FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"

MEMORY_BYTES = 4 * 2**30  # address space of a decoding process, whatever the file claims


class MediaError(Exception):
    """A file that cannot be decoded.

    Attributes:
        status: short word for the clip's row, such as `unreadable` or `no_video`.
        reason: the decoder's message on one line.
    """

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status = status
        self.reason = printable(" ".join(reason.split()))


def decoding_process() -> None:
    """Set a worker process up for strangers' files: one thread, MEMORY_BYTES of address space."""
    one_thread()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


@dataclass(frozen=True)
class FetchedFile:
    """A file of another machine, whose content this process holds; name: without its folder."""

    name: str
    content: bytes


class _NamedContent(io.BytesIO):
    """An open file in memory; FFmpeg looks at its name's ending where the content is ambiguous."""

    def __init__(self, file: FetchedFile):
        super().__init__(file.content)
        self.name = file.name


Place = str | Path | RemoteFile  # where a file lies
File = Path | FetchedFile  # a file of this machine


def of_place(place: Place) -> File:
    """Return the file at a place, fetched where it is on another machine.

    The whole file: it is opened several times, and most clips are small.  Raises
    remote.Unreachable.
    """
    if isinstance(place, RemoteFile):
        return FetchedFile(place.name, place.read_bytes())
    return Path(place)


def open_file(file: File) -> io.BufferedReader | io.BytesIO:
    """Open a regular file for reading bytes.

    Raises OSError for anything else, at once: reading a pipe would wait for its writer.
    """
    if isinstance(file, FetchedFile):
        return _NamedContent(file)

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "no regular file")
        return descriptor

    return open(file, "rb", opener=opener)  # the caller's `with` closes it


def content_hash(file: File) -> str:
    """Return BLAKE2b-128 of a file's bytes, hex; raises OSError."""
    with open_file(file) as opened:
        return hashlib.file_digest(opened, new_hash).hexdigest()


@contextmanager
def open_container(file: File) -> Iterator[Any]:
    """Open a file as a PyAV container.

    FFmpeg gets an open file and no protocol, so no playlist leads it to other files.  What FFmpeg
    says against the file, and want of memory, is a MediaError, also within the `with`.
    """
    av.logging.set_level(av.logging.PANIC)
    options = {"protocol_whitelist": "none", "format_whitelist": FORMATS}
    try:
        with bounded_memory(), open_file(file) as opened:
            if not opened.seek(0, os.SEEK_END):
                raise MediaError("unreadable", "the file is empty")
            opened.seek(0)
            with sense():
                container = av.open(
                    opened, mode="r", metadata_errors="replace", container_options=options
                )
            with container:
                yield container
    except (OSError, av.error.FFmpegError) as error:
        reason = str(error.strerror)
        log = getattr(error, "log", None)
        if log:
            detail = log[2].strip()
            if isinstance(file, Path):
                # Without the folder, which is no fact of the clip.
                detail = detail.replace(f"{file.parent}/", "")
            reason = f"{reason} ({detail})"
        raise MediaError("unreadable", reason) from None


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Turn want of memory into a MediaError: a file may claim any size."""
    try:
        yield
    except MemoryError:
        limit_gib = MEMORY_BYTES / 2**30
        reason = f"decoding takes more than {limit_gib:g} GiB of memory"
        raise MediaError("unreadable", reason) from None


@contextmanager
def sense() -> Iterator[None]:
    """Turn PyAV's errors about what it did not expect into a MediaError.

    Such as a stream that the header does not announce.  It goes around calls of PyAV alone: an
    error of our own is to be seen.
    """
    try:
        yield
    except av.error.FFmpegError:
        raise  # some of them are LookupErrors or ValueErrors, too
    except (LookupError, ValueError, ArithmeticError) as error:
        reason = f"its container makes no sense ({type(error).__name__}: {error})"
        raise MediaError("unreadable", reason) from None


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """Yield a stream's packets; raises MediaError where the container makes no sense."""
    iterator = container.demux(stream)
    while True:
        with sense():
            packet = next(iterator, None)
        if packet is None:
            return
        yield packet


def decode(packet: Any) -> list[Any]:
    """Return the frames that a packet makes its decoder give.

    Raises av.error.FFmpegError where it cannot be decoded, MediaError where it makes no sense.
    """
    with sense():
        return packet.decode()


def video_stream(container: Any) -> Any:
    """Return the first video stream that is no cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    if container.streams.video:
        raise MediaError("no_video", "its only video stream is a cover picture")
    raise MediaError("no_video", "the file has no video stream")
