"""The pictures of a video file, as a player shows them: which frames, when, upright, in BGR.

FFmpeg (through PyAV) is the only decoder, for pictures as for sound: two of them would mean two
time lines and two ways to colours.  A packet is not a frame: edit lists hide frames, a cut within a
group of pictures leaves some that cannot be decoded, some packets hold none.  So the frames that
decoding gives are the truth, and packets only a guess that spares a second decoding where it is
right.

Colours: FFmpeg's conversion by the file's own matrix and range (BT.601, 709, 2020).  High dynamic
range (PQ, HLG) is shown as `ffmpeg` prints it by default: code values as they are, no tone mapping.
Pixels are taken as square, as in `ffmpeg`'s frames; a sample aspect ratio stretches nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from audio_from_video.media import untrusted
from audio_from_video.media.untrusted import File, MediaError

# Containers that list where each frame's bytes lie: whether the file holds them can be told.
INDEXED = ("mov", "mp4")
# Containers in which FFmpeg's seeking leads to a key frame, and whose frames all tell their time.
SEEKABLE = ("mov", "matroska")
# So far before a part a key frame is sought, s, one try after the other: frames that are shown
# before a key frame may be stored after it.  Where none leads to one, the file is read from its
# beginning.
SEEK_BACK_S = (0.5, 10.0)
# Of a file whose packets are held in memory while it is read.
MOST_BYTES_HELD = 64 * 2**20
# A part may name an end so far after the file's own, as annotations have whole seconds.
END_TOLERANCE_S = 0.5


@dataclass(frozen=True)
class ShownFrames:
    """When the frames of a video are shown.

    times_s: [n], ascending, from the first one.  duration_s: until the last frame's own end.
    start_s: the first one's time on the file's own clock, which the sound shares.  It is not the
    stream's start: edit lists hide frames, and some cannot be decoded.

    Of a part of a video, all three count from the part's start.  There the first times are
    negative: of the frames that were decoded before it.
    """

    times_s: np.ndarray
    duration_s: float
    start_s: float

    @property
    def count(self) -> int:
        """How many frames are seen: those that begin within, and the one on screen at the start."""
        begin_within = int((self.times_s >= 0).sum())
        earlier = len(self.times_s) - begin_within
        if earlier and 0 not in self.times_s:
            return begin_within + 1
        return begin_within

    def agrees_with(self, other: "ShownFrames") -> bool:
        """Whether two accounts name the same times, but for the rounding of floats."""
        if len(self.times_s) != len(other.times_s):
            return False
        mine = [*self.times_s, self.duration_s]
        others = [*other.times_s, other.duration_s]
        return bool(np.allclose(mine, others, rtol=0, atol=1e-6))


@dataclass(frozen=True)
class Part:
    """A part of a video; start_s, end_s: from the first shown frame of the file."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class _Span:
    """Where a part lies in its file, in the units of the video stream's time stamps.

    first: of the file's first shown frame.  seek: where decoding begins; None: at the beginning.
    stamped: whether each frame brings its own time stamp, so that decoding can stop at the end.
    """

    part: Part
    first: int
    seek: int | None
    stamped: bool


# Chooses frames: ascending indices [n], repeats allowed; none where no picture is needed.
Choice = Callable[[ShownFrames], np.ndarray]
Finish = Callable[[np.ndarray], Any]


def probe(file: File) -> dict:
    """Return facts of a video file: duration_s, fps (average), width_px, height_px, has_audio.

    Where the header of the video stream tells no duration (Matroska, WebM, Flash), it is that of
    the packets.  Raises MediaError.
    """
    with untrusted.open_container(file) as container:
        stream = _prepared_stream(container)
        with untrusted.sense():
            facts = {
                "duration_s": float((stream.duration or 0) * stream.time_base),
                "fps": float(stream.average_rate or 0),
                "width_px": stream.codec_context.width,
                "height_px": stream.codec_context.height,
                "has_audio": bool(container.streams.audio),
            }
    if not facts["duration_s"]:
        facts["duration_s"] = packet_times(file).duration_s
    return facts


def packet_times(file: File) -> ShownFrames:
    """Return the times at which a file's packets promise frames; nothing is decoded.

    Raises MediaError where the file breaks off, or where no packet has a time stamp.
    """
    with untrusted.open_container(file) as container:
        stream = untrusted.video_stream(container)
        return _promised_times(container, stream, untrusted.packets(container, stream))


def _promised_times(container: Any, stream: Any, packets: Iterable[Any]) -> ShownFrames:
    """The times at which all packets of a stream promise frames (see `packet_times`)."""
    stamps = []
    durations = []
    for packet in packets:
        if packet.pts is not None and packet.size and not packet.is_discard:
            stamps.append(packet.pts)
            durations.append(packet.duration or 0)
    _require_whole(container, stream)
    order = np.argsort(stamps, kind="stable")
    return _shown_frames(np.asarray(stamps)[order], np.asarray(durations)[order], stream)


def read_frames(
    file: File, choose: Choice, finish: Finish, part: Part | None = None
) -> tuple[ShownFrames, list]:
    """Decode a video, or a part of it, and return when its frames are shown, and the chosen ones.

    choose: see `Choice`; it is asked by the packets' times and, where the frames turn out to be
    others, once more by theirs.  finish: what becomes of a chosen frame, a BGR image [H, W, 3]
    uint8; no more than one image is held besides.  Raises MediaError, also where a part does not
    lie within the file.
    """
    span = None if part is None else _span(file, part)
    if span is None:
        promised, indices, shown, finished = _read_whole(file, choose, finish)
    else:
        promised = _packet_times_of_part(file, span)
        indices = choose(promised)
        shown, finished = _decode(file, indices, finish, span)
    if not shown.agrees_with(promised):
        indices = choose(shown)
        if len(indices):
            shown, finished = _decode(file, indices, finish, span)
    return shown, [finished[index] for index in indices.tolist()]


def _read_whole(
    file: File, choose: Choice, finish: Finish
) -> tuple[ShownFrames, np.ndarray, ShownFrames, dict[int, Any]]:
    """What a file's packets promise, which frames are chosen by that, and what `_decode` returns.

    The packets of a small file are held meanwhile: to open it once more takes a tenth of the time.
    """
    with untrusted.open_container(file) as container:
        stream = untrusted.video_stream(container)
        packets = untrusted.packets(container, stream)
        if container.size <= MOST_BYTES_HELD:
            held = list(packets)
            promised = _promised_times(container, stream, held)
            indices = choose(promised)
            _prepare(stream)
            times, finished = _finish_chosen(_frames(held), indices, finish)
            shown = _shown_frames(_stamps(times), _durations(times), stream)
            return promised, indices, shown, finished
        promised = _promised_times(container, stream, packets)
    indices = choose(promised)
    return promised, indices, *_decode(file, indices, finish, None)


def _decode(
    file: File, indices: np.ndarray, finish: Finish, span: _Span | None
) -> tuple[ShownFrames, dict[int, Any]]:
    """All shown frames' times, and by index what `finish` makes of the chosen ones."""
    with untrusted.open_container(file) as container:
        stream = _prepared_stream(container)
        if span is None:
            frames = _frames(untrusted.packets(container, stream))
            times, finished = _finish_chosen(frames, indices, finish)
            return _shown_frames(_stamps(times), _durations(times), stream), finished
        frames = _frames_of_part(container, stream, span)
        times, finished = _finish_chosen(frames, indices, finish)
        return _shown_part(_stamps(times), _durations(times), stream, span), finished


def _finish_chosen(
    frames: Iterable[Any], indices: np.ndarray, finish: Finish
) -> tuple[list["FrameTime"], dict[int, Any]]:
    """The times of decoded frames, and by index what `finish` makes of the chosen ones."""
    convert = VideoReformatter()  # one for all frames: making it takes longer than its work
    chosen = set(indices.tolist())
    finished: dict[int, Any] = {}
    times = []
    matrix = None
    for index, frame in enumerate(frames):
        times.append(FrameTime(frame.pts, frame.dts, frame.duration or 0))
        matrix = _display_matrix(frame, matrix)
        if index in chosen:
            # One thread: to start one for each core, per frame, takes as long as the work.
            image = convert.reformat(
                frame, format="bgr24", interpolation="BICUBIC", threads=1
            ).to_ndarray()
            finished[index] = finish(np.ascontiguousarray(upright(image, matrix)))
    return times, finished


def beyond_end(start_s: float, end_s: float, duration_s: float) -> str:
    """Return the reason why a part of a video of this duration is refused."""
    return (
        f"the part from {start_s:g} to {end_s:g} s lies beyond the end of the video at "
        f"{duration_s:.3f} s"
    )


def _span(file: File, part: Part) -> _Span:
    """Find where decoding must begin, so that the frame on screen at the part's start is there."""
    with untrusted.open_container(file) as container:
        stream = _prepared_stream(container)
        frames = _frames(untrusted.packets(container, stream))
        first = next((frame.pts for frame in frames), None)
        if first is None or not any(name in container.format.name for name in SEEKABLE):
            return _Span(part, 0, None, stamped=False)
        start = first + round(part.start_s / stream.time_base)
        for back_s in SEEK_BACK_S:
            seek = start - round(back_s / stream.time_base)
            if seek <= first:
                break
            container.seek(seek, stream=stream)
            key = next((p for p in untrusted.packets(container, stream) if p.is_keyframe), None)
            if key is not None and key.pts is not None and key.pts <= start:
                return _Span(part, first, seek, stamped=True)
    return _Span(part, first, None, stamped=True)


def _packet_times_of_part(file: File, span: _Span) -> ShownFrames:
    """Return the times at which a file's packets promise the frames of a part.

    They are those from the sought key frame on, as in `_frames_of_part`.
    """
    stamps: list[int] = []
    durations = []
    with untrusted.open_container(file) as container:
        stream = untrusted.video_stream(container)
        end = _end(stream, span)
        if span.seek is not None:
            container.seek(span.seek, stream=stream)
        for packet in untrusted.packets(container, stream):
            if packet.pts is None or not packet.size or packet.is_discard:
                continue
            if span.seek is not None and not _follows_key(packet.pts, packet.is_keyframe, stamps):
                continue
            stamps.append(packet.pts)
            durations.append(packet.duration or 0)
            # No later packet is shown before it is decoded.
            if span.stamped and packet.dts is not None and packet.dts > end:
                break
        order = np.argsort(stamps, kind="stable")
        return _shown_part(np.asarray(stamps)[order], np.asarray(durations)[order], stream, span)


def _frames_of_part(container: Any, stream: Any, span: _Span) -> Iterator[Any]:
    """Decoded frames from the sought key frame to the first one after the part.

    Frames that are shown before the key frame, but stored after it, need what was not decoded.
    """
    end = _end(stream, span)
    stamps: list[int] = []
    if span.seek is not None:
        container.seek(span.seek, stream=stream)
    for frame in _frames(untrusted.packets(container, stream)):
        if span.seek is not None and not _follows_key(frame.pts, frame.key_frame, stamps):
            continue
        stamps.append(frame.pts)
        yield frame
        if span.stamped and frame.pts is not None and frame.pts > end:
            return


def _follows_key(stamp: int | None, is_key: bool, earlier: list[int]) -> bool:
    """Whether a frame is the first key frame after a seek (`earlier` is empty), or shown later."""
    if not earlier:
        return is_key
    return stamp is not None and stamp > earlier[0]


def _end(stream: Any, span: _Span) -> int:
    """The end of a part in the stream's units."""
    return span.first + round(span.part.end_s / stream.time_base)


def _shown_part(stamps: np.ndarray, durations: np.ndarray, stream: Any, span: _Span) -> ShownFrames:
    """When the frames of a part are shown, by ascending stamps [n] and durations [n].

    Raises MediaError where the video ends before the part begins or, by more than END_TOLERANCE_S,
    before the part ends.
    """
    base = float(stream.time_base)
    part = span.part
    shown = _shown_frames(stamps, durations, stream)
    origin_s = shown.start_s if span.seek is None else span.first * base
    begins_s = shown.start_s - origin_s - part.start_s
    times_s = shown.times_s + begins_s
    ends_s = begins_s + shown.duration_s  # of what was read, from the part's start
    length_s = part.end_s - part.start_s
    if ends_s <= 0 or ends_s < length_s - END_TOLERANCE_S:
        reason = beyond_end(part.start_s, part.end_s, part.start_s + ends_s)
        raise MediaError("beyond_end", reason)
    within = times_s < length_s - 1e-6
    return ShownFrames(times_s[within], min(length_s, ends_s), origin_s + part.start_s)


class FrameTime(NamedTuple):
    """What a decoded frame says of its time: presentation and decoding stamp, and duration."""

    pts: int | None
    dts: int | None
    duration: int


def _prepared_stream(container: Any) -> Any:
    """The video stream, decoded in this thread."""
    stream = untrusted.video_stream(container)
    _prepare(stream)
    return stream


def _prepare(stream: Any) -> None:
    """Have a video stream decoded in this thread."""
    if stream.codec_context is None:
        raise MediaError("unreadable", "no decoder for its video stream")
    stream.codec_context.thread_count = 1


def _frames(packets: Iterable[Any]) -> Iterator[Any]:
    """Frames decoded from the packets of a stream, in the order in which they are shown.

    What cannot be decoded before the first frame is left out: a file that was cut within a group of
    pictures begins with frames whose references are gone.  Later it is an error.
    """
    begun = False
    for packet in packets:
        try:
            frames = untrusted.decode(packet)
        except av.error.FFmpegError:
            if begun:
                raise
            continue
        begun = begun or bool(frames)
        yield from frames


def _stamps(frames: Sequence[Any]) -> np.ndarray:
    """Ascending time stamps [n] of decoded frames.

    They are the presentation stamps.  AVI has none for pictures out of order, and what FFmpeg puts
    in their place does not ascend: there, as in `ffmpeg`, decoding stamps tell the time.
    """
    presentation = [frame.pts for frame in frames]
    if _ascend(presentation):
        return np.asarray(presentation)

    decoding = [frame.dts for frame in frames if frame.dts is not None]
    if len(decoding) > 1 and _ascend(decoding):
        step = int(np.median(np.diff(decoding)))
        missing = len(frames) - len(decoding)  # the last frames leave the decoder without a stamp
        return np.concatenate([decoding, decoding[-1] + step * np.arange(1, missing + 1)])

    known = [0 if stamp is None else stamp for stamp in presentation]
    return np.maximum.accumulate(known) if known else np.asarray(known)


def _ascend(stamps: Sequence[int | None]) -> bool:
    """Whether all stamps are known and each is later than the one before."""
    known = [stamp for stamp in stamps if stamp is not None]
    return len(known) == len(stamps) and bool(np.all(np.diff(known) > 0))


def _durations(frames: Sequence[Any]) -> np.ndarray:
    """Durations [n] of decoded frames, 0 where unknown, in the stream's units."""
    return np.asarray([frame.duration or 0 for frame in frames])


def _shown_frames(stamps: np.ndarray, durations: np.ndarray, stream: Any) -> ShownFrames:
    """When frames are shown, by ascending stamps [n] and durations [n] in the stream's units."""
    if not len(stamps):
        raise MediaError("unreadable", "its video stream has no frame with a time stamp")

    last = int(durations[-1])
    if not last and len(stamps) > 1:
        last = int(np.median(np.diff(stamps)))
    base = float(stream.time_base)
    times_s = (stamps - stamps[0]) * base
    return ShownFrames(times_s, float(stamps[-1] - stamps[0] + last) * base, stamps[0] * base)


def _require_whole(container: Any, stream: Any) -> None:
    """Raise MediaError where the file ends before the frames that its index lists."""
    if not any(name in container.format.name for name in INDEXED):
        return
    size = container.size
    entries = list(stream.index_entries)
    there = sum(entry.pos + entry.size <= size for entry in entries)
    if there < len(entries):
        reason = f"the file breaks off: {there} of {len(entries)} frames are there"
        raise MediaError("unreadable", reason)


def upright(image: np.ndarray, matrix: np.ndarray | None) -> np.ndarray:
    """Turn and mirror an image [H, W, 3] as a display matrix [2, 2] says, the way `ffmpeg` does.

    Only quarter turns are known, with or without a mirror; other angles stay as they are.
    """
    if matrix is None:
        return image

    angle = round(np.degrees(np.arctan2(matrix[0, 1], matrix[0, 0]))) % 360  # clockwise
    mirrored = np.linalg.det(matrix) < 0
    if angle == 90:
        return image.transpose(1, 0, 2) if mirrored else np.rot90(image, -1)
    if angle == 270:
        return np.rot90(image, 2).transpose(1, 0, 2) if mirrored else np.rot90(image)
    if matrix[0, 0] < 0:
        image = image[:, ::-1]
    if matrix[1, 1] < 0:
        image = image[::-1]
    return image


def _display_matrix(frame: Any, before: np.ndarray | None) -> np.ndarray | None:
    """The linear part [2, 2] of a frame's display matrix; `before`, where the frame brings none.

    It comes from the container (phones, front cameras) with every frame, or from the stream (SEI
    messages) with the first ones alone.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return before
    return np.frombuffer(bytes(data), np.int32)[:9].reshape(3, 3)[:2, :2].astype(np.float64)
