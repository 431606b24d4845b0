"""Media files in, arrays out: probing and time stamps (PyAV), frames (OpenCV), sound (ffmpeg), JPEG and FLAC bytes.

Every function that reads a user's file raises `MediaError` with the decoder's own message when it cannot.  Files are
strangers' work: FFmpeg, in its three forms here, opens this one file, in a container that holds its own data, and no other
file or address that the content names; what a file makes it allocate is bounded.
"""

import os
import re
import resource
import stat
import subprocess
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from audio_from_video.media.codecs import SAMPLE_RATE_HZ
from audio_from_video.runtime.errors import printable
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import die_with_parent

# Containers that hold their own pictures and sound.  Playlists (HLS, DASH, concat, SDP, IMF, image sequences) are not among
# them: they name other files and addresses.
FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"
# Decoders of common video files, the only ones that OpenCV may use: its wheel's FFmpeg 8.1.1 has a decoder that a file can make
# write beyond its memory (MagicYUV, CVE-2026-8461).  PyAV's 8.1.2 and ffmpeg's 9 do not; what else there is, is PyAV's work.
VIDEO_DECODERS = "h264,hevc,mpeg4,vp8,vp9,libdav1d,mpeg1video,mpeg2video,mjpeg,theora,flv,h263,gif,wmv1,wmv2,wmv3,msmpeg4v2,msmpeg4"
AUDIO_DECODERS = "aac,mp3float,mp3,mp2float,mp2,ac3,eac3,opus,vorbis,flac,pcm_s16le,pcm_s16be,pcm_u8,pcm_f32le,pcm_mulaw,wmav2"
MEMORY_BYTES = 4 * 2**30  # address space of a decoding process, whatever the file claims
FFMPEG_MEMORY_BYTES = 2**30

# FFmpeg inside OpenCV, with no threads of its own; set before cv2 is imported.
os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = (
    f"protocol_whitelist;file|format_whitelist;{FORMATS}|codec_whitelist;{VIDEO_DECODERS},{AUDIO_DECODERS}|threads;1"
)
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


class MediaError(Exception):
    """A file that cannot be decoded: `status` for the table, the message for people."""

    def __init__(self, status: str, reason: str):
        super().__init__(reason)
        self.status, self.reason = status, printable(" ".join(reason.split()))


def decoding_process() -> None:
    """Set a worker up for strangers' files: one thread, and an end to what they can make it allocate."""
    one_thread()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def open_file(path: Path):
    """Open a regular file for reading bytes; OSError for anything else, at once (a pipe would wait for its writer)."""

    def opener(name: str, flags: int) -> int:
        number = os.open(name, flags | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(number).st_mode):
            os.close(number)
            raise OSError(0, "no regular file")
        return number

    return open(path, "rb", opener=opener)  # the caller's `with` closes it


@contextmanager
def _open(path: Path):
    """A PyAV container over an open file object, without any protocol: no playlist leads FFmpeg to other files."""
    import av

    av.logging.set_level(av.logging.PANIC)
    options = {"protocol_whitelist": "none", "format_whitelist": FORMATS}
    try:
        with open_file(path) as file:
            if not os.fstat(file.fileno()).st_size:
                raise MediaError("unreadable", "the file is empty")
            with av.open(
                file, mode="r", metadata_errors="replace", container_options=options
            ) as container:
                yield container
    except MemoryError:
        raise MediaError(
            "unreadable", f"decoding takes more than {MEMORY_BYTES / 2**30:g} GiB of memory"
        ) from None
    except (
        OSError,
        av.error.FFmpegError,
    ) as error:  # without the path, which is no fact of the clip
        log = getattr(error, "log", None)
        detail = f" ({log[2].strip().replace(f'{path.parent}/', '')})" if log else ""
        raise MediaError("unreadable", f"{error.strerror}{detail}") from None
    except (
        LookupError,
        ValueError,
        ArithmeticError,
    ) as error:  # PyAV's, of what it did not expect: a stream out of nowhere
        raise MediaError(
            "unreadable", f"its container makes no sense ({type(error).__name__}: {error})"
        ) from None


def probe(path: Path) -> dict:
    """Facts of a video file: duration_s, fps (average), width_px, height_px, has_audio."""
    import av

    with _open(path) as container:
        stream = _video_stream(container)
        if stream.codec_context is None:
            raise MediaError("unreadable", "no decoder for its video stream")
        length, base = stream.duration, stream.time_base
        if length is None:
            length, base = container.duration, 1 / av.time_base
        return {
            "duration_s": float(length * base) if length else 0.0,
            "fps": float(stream.average_rate or 0),
            "width_px": stream.codec_context.width,
            "height_px": stream.codec_context.height,
            "has_audio": bool(container.streams.audio),
        }


def _video_stream(container):
    import av

    moving = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic
    ]
    if not moving:
        what = (
            "its only video stream is a cover picture"
            if container.streams.video
            else "the file has no video stream"
        )
        raise MediaError("no_video", what)
    return moving[0]


def frame_times(path: Path) -> tuple[np.ndarray, float]:
    """Presentation times [n] of the video's frames in seconds from the first one, ascending, and its duration_s.

    From packet time stamps (nothing is decoded), so constant and variable frame rates need no distinction; the
    duration ends with the last frame's own.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        stamps, durations, whole = [], [], 0
        for packet in container.demux(stream):
            whole += packet.size > 0 and not packet.is_corrupt
            if packet.pts is not None and not packet.is_discard and packet.size:
                stamps.append(packet.pts)
                durations.append(packet.duration or 0)
        if (
            whole < stream.frames and "mp4" in container.format.name
        ):  # elsewhere the header's number is 0 or loose
            raise MediaError(
                "unreadable", f"the file breaks off: {whole} of {stream.frames} frames are there"
            )
        if not stamps:
            raise MediaError("unreadable", "its video stream has no frame with a time stamp")
        order = np.argsort(stamps, kind="stable")
        pts = np.asarray(stamps)[order]
        last = durations[order[-1]] or (int(np.median(np.diff(pts))) if len(pts) > 1 else 0)
        base = float(stream.time_base)
        return (pts - pts[0]) * base, float(pts[-1] - pts[0] + last) * base


def read_frames(
    path: Path, wanted: np.ndarray, finish: Callable[[np.ndarray], Any] = lambda image: image
) -> list:
    """Decode the frames with the given ascending indices (repeats allowed) as BGR images [H, W, 3] uint8.

    Only wanted frames are converted to BGR; rotation metadata is applied.  Gives what `finish` makes of each, and holds no
    more than two images besides.  Rare codecs are PyAV's work, and so are interlaced frames: OpenCV 5.0.0 cannot convert them,
    says so nowhere, and gives what lay in its memory, which is the image before or, at first, anything.
    """
    wanted = np.asarray(wanted)
    if _needs_pyav(path, wanted[:1]):
        return _read_with_pyav(path, wanted, finish)
    found, repeats = _read_with_opencv(path, wanted, finish)
    return _read_with_pyav(path, wanted, finish) if repeats and _needs_pyav(path, wanted) else found


def _needs_pyav(path: Path, wanted: np.ndarray) -> bool:
    """Whether the codec is rare or one of the frames interlaced; PyAV may fail to decode so far, where OpenCV may not."""
    common = False
    try:
        with _open(path) as container:
            stream = _video_stream(container)
            common = (
                stream.codec_context is not None
                and stream.codec_context.name in VIDEO_DECODERS.split(",")
            )
            flags = (frame.interlaced_frame for frame in container.decode(stream))
            interlaced = any(
                flag and index in wanted
                for index, flag in zip(range(int(wanted.max()) + 1), flags, strict=False)
            )
            return interlaced or not common
    except MediaError:
        return not common


def _read_with_pyav(path: Path, wanted: np.ndarray, finish: Callable[[np.ndarray], Any]) -> list:
    """`read_frames` with PyAV."""
    finished: dict[int, Any] = {}
    with _open(path) as container:
        for index, frame in zip(
            range(int(wanted.max()) + 1), container.decode(_video_stream(container)), strict=False
        ):
            if index in wanted:
                image = np.rot90(frame.to_ndarray(format="bgr24"), round(frame.rotation / 90))
                finished[index] = finish(np.ascontiguousarray(image))
    if missing := sorted(set(wanted.tolist()) - set(finished)):
        raise MediaError("unreadable", f"decoding ended before frame {missing[0]}, which is needed")
    return [finished[index] for index in wanted.tolist()]


def _read_with_opencv(
    path: Path, wanted: np.ndarray, finish: Callable[[np.ndarray], Any]
) -> tuple[list, bool]:
    """`read_frames` with OpenCV, and whether an image was the same as the one before."""
    import cv2

    cv2.setNumThreads(1)
    capture = cv2.VideoCapture(
        str(path.absolute()), cv2.CAP_FFMPEG
    )  # absolute: `a:b.mp4` would name a protocol
    try:
        if not capture.isOpened():
            raise MediaError("unreadable", "OpenCV cannot open its video stream")
        found: list = []
        position, repeats = -1, False
        previous: np.ndarray | None = None
        for index in wanted:
            while position < index:
                if not capture.grab():
                    raise MediaError(
                        "unreadable",
                        f"decoding ended at frame {position + 1}; frame {index} is needed",
                    )
                position += 1
                fresh = True
            if fresh:
                done, image = capture.retrieve()
                if not done:
                    raise MediaError("unreadable", f"frame {index} cannot be decoded")
                repeats = repeats or (previous is not None and np.array_equal(image, previous))
                previous, finished, fresh = image, finish(image), False
            found.append(finished)
        return found, repeats
    except MemoryError:
        raise MediaError(
            "unreadable", f"decoding takes more than {MEMORY_BYTES / 2**30:g} GiB of memory"
        ) from None
    except cv2.error as error:
        raise MediaError("unreadable", str(error)) from None
    finally:
        capture.release()


def decode_audio(path: Path, duration_s: float) -> np.ndarray:
    """The sound of a file as [samples] int16 at 16 kHz, mono, aligned with the video's first frame and as long as it.

    ffmpeg (imageio-ffmpeg's binary, driven through ffmpeg-python) fills gaps and a late start with silence.  It keeps
    the file's time stamps (`-copyts`), because its own zero is the start of whichever stream begins first.
    """
    import ffmpeg
    import imageio_ffmpeg

    with _open(path) as container:
        video = _video_stream(container)
        start = round((video.start_time or 0) * video.time_base * SAMPLE_RATE_HZ)
    stream = ffmpeg.input(
        _file_url(path), protocol_whitelist="file", format_whitelist=FORMATS
    ).audio
    stream = stream.filter("aresample", SAMPLE_RATE_HZ, **{"async": 1, "first_pts": start}).filter(
        "apad"
    )
    stream = stream.filter("atrim", end_sample=round(duration_s * SAMPLE_RATE_HZ))
    command = stream.output(
        "pipe:", format="s16le", acodec="pcm_s16le", ac=1, ar=SAMPLE_RATE_HZ
    ).global_args("-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1", "-copyts")
    done = subprocess.run(
        command.compile(imageio_ffmpeg.get_ffmpeg_exe()),
        capture_output=True,
        preexec_fn=_decoder_child,
    )
    if done.returncode:
        message = (
            done.stderr.decode(errors="replace").replace(_file_url(path), "the file")
            or f"ffmpeg ended with {done.returncode}"
        )
        raise MediaError("unreadable", re.sub(r" @ 0x[0-9a-f]+", "", message)[-500:])
    samples = np.frombuffer(done.stdout, np.int16)
    if not len(samples):
        raise MediaError("unreadable", "its audio stream decodes to nothing")
    return samples


def _decoder_child() -> None:
    die_with_parent()
    resource.setrlimit(
        resource.RLIMIT_AS, (FFMPEG_MEMORY_BYTES, FFMPEG_MEMORY_BYTES)
    )  # it fills hours of late start with silence


def _file_url(path: Path) -> str:
    """A path that ffmpeg takes literally, whatever characters it holds."""
    return f"file:{Path(path).absolute()}"
