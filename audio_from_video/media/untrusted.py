"""Media files in, arrays out: facts and time stamps (PyAV), frames (OpenCV or PyAV), sound
(ffmpeg).

Every function that decodes a user's file raises `MediaError` with the decoder's own message when it
cannot.  Files are strangers' work.  FFmpeg, in its three forms here, opens this one file, in a
container that holds its own data.  It opens no other file or address that the content names.  What
a file can make it allocate is bounded.

Importing this module sets nothing.  The limits hold where they are set: in `decoding_process` for
workers, in `restrict_opencv` for OpenCV, in `_open` for PyAV and in `decode_audio` for ffmpeg.
"""

import os
import re
import resource
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import av
import cv2
import ffmpeg
import imageio_ffmpeg
import numpy as np

from audio_from_video.media.codecs import SAMPLE_RATE_HZ
from audio_from_video.runtime.errors import printable
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import die_with_parent

# Containers that hold their own pictures and sound.  Playlists (HLS, DASH, concat, SDP, IMF, image
# sequences) are not among them: they name other files and addresses.
FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"

# Decoders of common video files, the only ones that OpenCV may use.  Its wheel's FFmpeg 8.1.1 has a
# decoder that a file can make write beyond its memory (MagicYUV, CVE-2026-8461).  PyAV's 8.1.2 and
# ffmpeg's 9 have it mended, so PyAV reads what is not listed here.
VIDEO_DECODERS = (
    "h264,hevc,mpeg4,vp8,vp9,libdav1d,mpeg1video,mpeg2video,mjpeg,theora,flv,h263,gif,"
    "wmv1,wmv2,wmv3,msmpeg4v2,msmpeg4"
)
AUDIO_DECODERS = (
    "aac,mp3float,mp3,mp2float,mp2,ac3,eac3,opus,vorbis,flac,"
    "pcm_s16le,pcm_s16be,pcm_u8,pcm_f32le,pcm_mulaw,wmav2"
)
OPENCV_OPTIONS = (
    f"protocol_whitelist;file|format_whitelist;{FORMATS}"
    f"|codec_whitelist;{VIDEO_DECODERS},{AUDIO_DECODERS}|threads;1"
)

MEMORY_BYTES = 4 * 2**30  # address space of a decoding process, whatever the file claims
FFMPEG_MEMORY_BYTES = 2**30  # of ffmpeg, which fills hours of late start with silence


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


def restrict_opencv() -> None:
    """Have OpenCV's FFmpeg open listed formats with listed decoders, in one thread and silently.

    OpenCV takes FFmpeg's options from the environment alone, and reads them whenever it opens a
    file.  They are set at every call, so that no value from outside holds.  The two log levels keep
    values that a user has set.
    """
    os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = OPENCV_OPTIONS
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)


def open_file(path: Path) -> BufferedReader:
    """Open a regular file for reading bytes.

    Raises OSError for anything else, at once: reading a pipe would wait for its writer.
    """

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "no regular file")
        return descriptor

    return open(path, "rb", opener=opener)  # the caller's `with` closes it


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a file as a PyAV container.

    FFmpeg gets an open file and no protocol, so no playlist leads it to other files.
    """
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
        raise _out_of_memory() from None
    except (OSError, av.error.FFmpegError) as error:
        reason = str(error.strerror)
        log = getattr(error, "log", None)
        if log:
            # Without the folder, which is no fact of the clip.
            detail = log[2].strip().replace(f"{path.parent}/", "")
            reason = f"{reason} ({detail})"
        raise MediaError("unreadable", reason) from None
    except (LookupError, ValueError, ArithmeticError) as error:
        # What PyAV did not expect, such as a stream that the header does not announce.
        reason = f"its container makes no sense ({type(error).__name__}: {error})"
        raise MediaError("unreadable", reason) from None


def _out_of_memory() -> MediaError:
    limit_gib = MEMORY_BYTES / 2**30
    return MediaError("unreadable", f"decoding takes more than {limit_gib:g} GiB of memory")


def probe(path: Path) -> dict:
    """Return facts of a video file: duration_s, fps (average), width_px, height_px, has_audio."""
    with _open(path) as container:
        stream = _video_stream(container)
        if stream.codec_context is None:
            raise MediaError("unreadable", "no decoder for its video stream")
        if stream.duration is not None:
            duration_s = float(stream.duration * stream.time_base)
        else:
            duration_s = (container.duration or 0) * (1 / av.time_base)
        return {
            "duration_s": duration_s,
            "fps": float(stream.average_rate or 0),
            "width_px": stream.codec_context.width,
            "height_px": stream.codec_context.height,
            "has_audio": bool(container.streams.audio),
        }


def _video_stream(container: Any) -> Any:
    """Return the first video stream that is no cover picture."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    if container.streams.video:
        raise MediaError("no_video", "its only video stream is a cover picture")
    raise MediaError("no_video", "the file has no video stream")


def frame_times(path: Path) -> tuple[np.ndarray, float]:
    """Return the presentation times [n] of the video's frames and its duration, in seconds.

    Times ascend from the first frame's, which is 0.  They are packets' time stamps (nothing is
    decoded), so constant and variable frame rates need no distinction.  The duration ends with the
    last frame's own.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        stamps = []
        durations = []
        intact_packets = 0
        for packet in container.demux(stream):
            intact_packets += packet.size > 0 and not packet.is_corrupt
            if packet.pts is not None and not packet.is_discard and packet.size:
                stamps.append(packet.pts)
                durations.append(packet.duration or 0)
        # In other containers the header's number of frames is 0 or loose.
        if intact_packets < stream.frames and "mp4" in container.format.name:
            present = f"{intact_packets} of {stream.frames} frames are there"
            raise MediaError("unreadable", f"the file breaks off: {present}")
        if not stamps:
            raise MediaError("unreadable", "its video stream has no frame with a time stamp")

        order = np.argsort(stamps, kind="stable")
        pts = np.asarray(stamps)[order]
        last_duration = durations[order[-1]]
        if not last_duration and len(pts) > 1:
            last_duration = int(np.median(np.diff(pts)))
        time_base_s = float(stream.time_base)
        times_s = (pts - pts[0]) * time_base_s
        duration_s = float(pts[-1] - pts[0] + last_duration) * time_base_s
        return times_s, duration_s


def _unchanged(image: np.ndarray) -> np.ndarray:
    return image


def read_frames(
    path: Path, indices: np.ndarray, finish: Callable[[np.ndarray], Any] = _unchanged
) -> list:
    """Decode frames and return what `finish` makes of each.

    indices: ascending numbers [n] of the frames; repeats are allowed.  `finish` gets BGR images [H,
    W, 3] uint8, with rotation metadata applied.  Only frames of `indices` are converted to BGR, and
    no more than two images are held besides the results.

    Rare codecs are PyAV's work, and so are interlaced frames.  OpenCV 5.0.0 cannot convert those
    and reports no error: it gives what lay in its memory, which is the image before or, at first,
    anything.
    """
    indices = np.asarray(indices)
    if _needs_pyav(path, indices[:1]):
        return _read_with_pyav(path, indices, finish)
    results, repeats = _read_with_opencv(path, indices, finish)
    if repeats and _needs_pyav(path, indices):
        return _read_with_pyav(path, indices, finish)
    return results


def _needs_pyav(path: Path, indices: np.ndarray) -> bool:
    """Return whether the codec is rare or a frame of `indices` interlaced.

    PyAV may fail to decode as far as that where OpenCV does not; then the codec alone decides.
    """
    common = False
    try:
        with _open(path) as container:
            stream = _video_stream(container)
            codec = stream.codec_context
            common = codec is not None and codec.name in VIDEO_DECODERS.split(",")
            for index, frame in _first_frames(container, stream, int(indices.max())):
                if frame.interlaced_frame and index in indices:
                    return True
    except MediaError:
        pass
    return not common


def _first_frames(container: Any, stream: Any, last: int) -> Iterator[tuple[int, Any]]:
    """Decode the frames 0 to `last`, or as many as there are."""
    # The range comes first: it ends the loop before one more frame is decoded.
    return zip(range(last + 1), container.decode(stream), strict=False)


def _read_with_pyav(path: Path, indices: np.ndarray, finish: Callable[[np.ndarray], Any]) -> list:
    """Do the work of `read_frames` with PyAV."""
    results: dict[int, Any] = {}
    with _open(path) as container:
        stream = _video_stream(container)
        for index, frame in _first_frames(container, stream, int(indices.max())):
            if index in indices:
                quarter_turns = round(frame.rotation / 90)
                image = np.rot90(frame.to_ndarray(format="bgr24"), quarter_turns)
                results[index] = finish(np.ascontiguousarray(image))
    missing = sorted(set(indices.tolist()) - set(results))
    if missing:
        raise MediaError("unreadable", f"decoding ended before frame {missing[0]}, which is needed")
    return [results[index] for index in indices.tolist()]


def _read_with_opencv(
    path: Path, indices: np.ndarray, finish: Callable[[np.ndarray], Any]
) -> tuple[list, bool]:
    """Do the work of `read_frames` with OpenCV.

    Returns the results, and whether an image was the same as the one before.
    """
    restrict_opencv()
    # An absolute path, as `a:b.mp4` would name a protocol.
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise MediaError("unreadable", "OpenCV cannot open its video stream")
        results: list = []
        repeats = False
        previous: np.ndarray | None = None
        position = -1
        for index in indices:
            if index == position:
                results.append(results[-1])
                continue
            while position < index:
                if not capture.grab():
                    reached = f"decoding ended at frame {position + 1}"
                    raise MediaError("unreadable", f"{reached}; frame {index} is needed")
                position += 1
            success, image = capture.retrieve()
            if not success:
                raise MediaError("unreadable", f"frame {index} cannot be decoded")
            repeats = repeats or (previous is not None and np.array_equal(image, previous))
            previous = image
            results.append(finish(image))
        return results, repeats
    except MemoryError:
        raise _out_of_memory() from None
    except cv2.error as error:
        raise MediaError("unreadable", str(error)) from None
    finally:
        capture.release()


def decode_audio(path: Path, duration_s: float) -> np.ndarray:
    """Return the sound of a file as int16 samples [duration_s * 16 kHz], mono.

    They are aligned with the video's first frame and as long as it.  ffmpeg (imageio-ffmpeg's
    binary, driven through ffmpeg-python) fills gaps and a late start with silence.  It keeps the
    file's time stamps (`-copyts`), because its own zero is the start of whichever stream begins
    first.
    """
    with _open(path) as container:
        stream = _video_stream(container)
        start = round((stream.start_time or 0) * stream.time_base * SAMPLE_RATE_HZ)
    command = _audio_command(path, start, round(duration_s * SAMPLE_RATE_HZ))
    process = subprocess.run(command, capture_output=True, preexec_fn=bind_decoder)
    if process.returncode:
        message = process.stderr.decode(errors="replace").replace(_file_url(path), "the file")
        if not message:
            message = f"ffmpeg ended with {process.returncode}"
        without_addresses = re.sub(r" @ 0x[0-9a-f]+", "", message)
        raise MediaError("unreadable", without_addresses[-500:])
    samples = np.frombuffer(process.stdout, np.int16)
    if not len(samples):
        raise MediaError("unreadable", "its audio stream decodes to nothing")
    return samples


def _audio_command(path: Path, start: int, end: int) -> list[str]:
    """Return ffmpeg's command that writes raw int16 samples, `end` of them from `start` on."""
    source = ffmpeg.input(_file_url(path), protocol_whitelist="file", format_whitelist=FORMATS)
    # `async` makes up for gaps; the name is a keyword of Python, hence the dict.
    resampled = source.audio.filter("aresample", SAMPLE_RATE_HZ, **{"async": 1, "first_pts": start})
    sound = resampled.filter("apad").filter("atrim", end_sample=end)
    output = sound.output("pipe:", format="s16le", acodec="pcm_s16le", ac=1, ar=SAMPLE_RATE_HZ)
    output = output.global_args(
        "-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1", "-copyts"
    )
    return output.compile(imageio_ffmpeg.get_ffmpeg_exe())


def bind_decoder() -> None:
    """Bind ffmpeg's life to this process's, and bound its memory."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (FFMPEG_MEMORY_BYTES, FFMPEG_MEMORY_BYTES))


def _file_url(path: Path) -> str:
    """Return a path as ffmpeg takes it literally, whatever characters it holds."""
    return f"file:{Path(path).absolute()}"
