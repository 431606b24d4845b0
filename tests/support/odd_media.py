"""Broken and odd media files, made by ffmpeg or byte by byte.

KINDS has for each kind how it is written, and what becomes of it in the stages.
"""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from tests.support.media_files import ffmpeg, sine, write_video

AAC = ("-c:a", "aac")
RAW_SOUND = ("-c:a", "pcm_f32le")
KEY = "00112233445566778899aabbccddeeff"
BARS = "testsrc=d=3:r=24:s=64x48"


def video(
    *options: str,
    count: int = 72,
    fps: str = "24",
    sound: np.ndarray | None = None,
    suffix: str = ".mp4",
) -> Callable[[Path], None]:
    """Write a file of numbered frames in a container of its own, whatever the name ends with."""

    def write(path: Path) -> None:
        with _named(path, suffix) as file:
            write_video(file, count, fps, *options, sound=sound)

    return write


def filtered(source: str, *options: str, suffix: str = ".mp4") -> Callable[[Path], None]:
    """Write a file that ffmpeg draws itself."""

    def write(path: Path) -> None:
        with _named(path, suffix) as file:
            ffmpeg("-f", "lavfi", "-i", source, *options, file)

    return write


@contextmanager
def _named(path: Path, suffix: str) -> Iterator[Path]:
    """Give a file to write, whose suffix tells ffmpeg the container; it becomes `path` then."""
    file = path.with_name(f"made{suffix}")
    yield file
    file.rename(path)


def content(data: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def edited(
    write: Callable[[Path], None], change: Callable[[bytes], bytes]
) -> Callable[[Path], None]:
    """Write another kind's bytes, changed."""

    def both(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return both


def copied(
    *options: str, first: Callable[[Path], None], inputs: tuple = (), suffix: str = ".mp4"
) -> Callable[[Path], None]:
    """Write another kind's streams once more without encoding."""

    def write(path: Path) -> None:
        source = path.with_name("source.mp4")
        first(source)
        with _named(path, suffix) as file:
            ffmpeg(*inputs, "-i", source, *options, file)
        source.unlink()

    return write


def with_cover(path: Path) -> None:
    """Write sound with a picture as cover: its only video stream is a still."""
    picture = path.with_name("cover.png")
    ffmpeg("-f", "lavfi", "-i", "testsrc=d=1:r=1:s=64x64", "-frames:v", "1", picture)
    inputs = ("-f", "lavfi", "-i", "sine=d=3", "-i", picture, "-map", "0", "-map", "1")
    as_cover = ("-c:v", "copy", "-disposition:v:0", "attached_pic")
    with _named(path, ".m4a") as file:
        ffmpeg(*inputs, *AAC, *as_cover, file)
    picture.unlink()


def jump(seconds: float, suffix: str) -> Callable[[Path], None]:
    """Write 24 frames, the last of which comes `seconds` later than the one before."""
    stamps = f"settb=1/1000,setpts='if(lt(N,23),N*41,{seconds:.0f}*1000)'"
    options = ("-vf", stamps, "-fps_mode", "passthrough", "-enc_time_base", "1/1000")
    return video(*options, count=24, suffix=suffix)


def sound_at(seconds: float, suffix: str = ".mp4") -> Callable[[Path], None]:
    """Write three seconds of pictures, and sound that begins `seconds` later."""

    def write(path: Path) -> None:
        both = path.with_name(f"both{suffix}")
        write_video(both, 72, "24", *AAC, sound=sine(440, 3, -6))
        inputs = ("-i", both, "-itsoffset", str(seconds), "-i", both)
        with _named(path, suffix) as file:
            ffmpeg(*inputs, "-map", "0:v", "-map", "1:a", "-c", "copy", file)
        both.unlink()

    return write


def header_only(data: bytes) -> bytes:
    return data[: data.index(b"mdat") - 4]


def with_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """An mp4's bytes whose sample entry claims another size; the pictures inside keep theirs."""
    before = struct.pack(">HH", 64, 48)
    after = struct.pack(">HH", width, height)
    return lambda data: data.replace(before, after)


def last_tag_is_sound(data: bytes) -> bytes:
    """A Flash file's bytes whose last tags are sound: a stream appears while the file is read."""
    changed = bytearray(data)
    end = len(data)
    for _ in range(6):
        end -= 4 + int.from_bytes(data[end - 4 : end], "big")
        changed[end] = 8
    return bytes(changed)


NAN_SOUND = sine(440, 3, -6)
NAN_SOUND[8000:8100] = np.nan
NAN_SOUND[16000:16100] = np.inf
NAN_SOUND[24000:24100] = -np.inf
TONE = sine(440, 3, -12)
GOOD = video("-movflags", "faststart", *AAC, sound=TONE)
LATE_INDEX = video(*AAC, sound=TONE)

# kind: (how it is written, and its statuses in clips, frames and audio; None: it gets no row)
KINDS: dict[str, tuple[Callable[[Path], None], str, str | None, str | None]] = {
    "good": (GOOD, "ok", "ok", "ok"),
    "zero bytes": (content(b""), "unreadable", None, None),
    "one byte": (content(b"\0"), "unreadable", None, None),
    "text": (content(b"this is no video\n" * 50), "unreadable", None, None),
    "random bytes": (content(np.random.default_rng(0).bytes(5000)), "unreadable", None, None),
    "zip archive": (content(b"PK\x03\x04" + bytes(300)), "unreadable", None, None),
    "program": (content(b"\x7fELF" + bytes(3000)), "unreadable", None, None),
    "header only": (edited(GOOD, header_only), "ok", "unreadable", None),
    "index after nothing": (
        edited(LATE_INDEX, lambda data: data[data.index(b"moov") - 4 :]),
        "ok",
        "unreadable",
        None,
    ),
    "zeroed middle": (
        edited(GOOD, lambda data: data[:3000] + bytes(len(data) - 3000)),
        "ok",
        "unreadable",
        None,
    ),
    "mkv named mp4": (video(suffix=".mkv"), "ok", "ok", "no_audio_track"),
    "sound named mp4": (filtered("sine=d=2", suffix=".wav"), "unreadable", None, None),
    "picture named mp4": (
        filtered("testsrc=d=1:r=1", "-frames:v", "1", suffix=".png"),
        "unreadable",
        None,
        None,
    ),
    "no video": (filtered("sine=d=2", *AAC), "no_video", None, None),
    "cover art only": (with_cover, "no_video", None, None),
    "no sound": (video(), "ok", "ok", "no_audio_track"),
    "sound shorter": (video(*AAC, sound=sine(440, 1, -6)), "ok", "ok", "ok"),
    "sound longer": (video(*AAC, sound=sine(440, 8, -6)), "ok", "ok", "ok"),
    "sound 1 s late": (sound_at(1), "ok", "ok", "ok"),
    "sound 3 hours late": (sound_at(1e4), "ok", "ok", "silent"),
    "sound 11 days late, Matroska": (sound_at(1e6, ".mkv"), "ok", "ok", "silent"),
    "one frame": (video(count=1), "too_short", None, None),
    "0.1 s": (video(count=3, fps="30"), "too_short", None, None),
    "10 minutes": (video("-preset", "ultrafast", count=600, fps="1"), "too_long", None, None),
    "a gap of a day": (jump(1e5, ".mkv"), "too_long", None, None),
    "a gap of a day that the header hides": (jump(1e5, ".mp4"), "ok", "too_long", None),
    "1x1": (
        filtered("testsrc=d=3:r=12:s=64x48,scale=1:1", "-c:v", "ffv1", suffix=".mkv"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "144 megapixels": (
        filtered(
            "color=s=16000x9000:r=2:d=1,format=gray",
            "-c:v",
            "mjpeg",
            "-strict",
            "-1",
            suffix=".avi",
        ),
        "too_large",
        None,
        None,
    ),
    "small frames that claim to be large": (
        edited(video(), with_size(65000, 65000)),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "odd sizes": (
        filtered("testsrc=d=3:r=24:s=63x47", "-pix_fmt", "yuv444p"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "rotated": (
        copied("-c", "copy", first=video(), inputs=("-display_rotation", "90")),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "10 bit": (video("-pix_fmt", "yuv420p10le"), "ok", "ok", "no_audio_track"),
    "grey": (video("-pix_fmt", "gray"), "ok", "ok", "no_audio_track"),
    "transparent": (
        filtered(BARS + ",format=rgba", "-c:v", "png", suffix=".mov"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "variable frame rate": (
        video("-vf", "settb=1/90000,setpts='if(lt(N,30),N/30,1+(N-30)/12)/TB'", "-fps_mode", "vfr"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "negative time stamps": (
        video("-output_ts_offset", "-1", "-avoid_negative_ts", "disabled", suffix=".ts"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "open GOPs": (
        video("-x264-params", "open-gop=1:keyint=12:bframes=3"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "interlaced": (video("-x264-params", "interlaced=1"), "ok", "ok", "no_audio_track"),
    "fragments": (video("-movflags", "frag_keyframe+empty_moov"), "ok", "ok", "no_audio_track"),
    "transport stream": (video(*AAC, sound=TONE, suffix=".ts"), "ok", "ok", "ok"),
    "transport stream, broken packets": (
        edited(
            video(*AAC, sound=TONE, suffix=".ts"),
            lambda data: data[:9000] + bytes(400) + data[9400:],
        ),
        "ok",
        "ok",
        "ok",
    ),
    "avi without index": (
        edited(video("-c:v", "mpeg4", suffix=".avi"), lambda data: data[: data.rindex(b"idx1")]),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "flash": (video("-c:v", "flv", suffix=".flv"), "ok", "ok", "no_audio_track"),
    "a stream out of nowhere": (
        edited(video("-c:v", "flv", count=720, suffix=".flv"), last_tag_is_sound),
        "unreadable",
        None,
        None,
    ),
    "webm": (
        video("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", suffix=".webm"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "AV1": (
        video("-c:v", "libsvtav1", "-preset", "10", *AAC, sound=TONE),
        "ok",
        "ok",
        "ok",
    ),
    "HDR": (
        video(
            *("-c:v", "libx264", "-pix_fmt", "yuv420p10le", *AAC),
            *("-color_primaries", "bt2020", "-color_trc", "smpte2084", "-colorspace", "bt2020nc"),
            sound=TONE,
        ),
        "ok",
        "ok",
        "ok",
    ),
    "animated GIF": (filtered(BARS, suffix=".gif"), "ok", "ok", "no_audio_track"),
    "5.1 sound": (
        filtered(
            BARS, "-f", "lavfi", "-i", "sine=d=3,pan=5.1|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0", *AAC
        ),
        "ok",
        "ok",
        "ok",
    ),
    "8 kHz sound": (video(*AAC, "-ar", "8000", sound=TONE), "ok", "ok", "ok"),
    "192 kHz sound": (
        video("-c:a", "flac", "-ar", "192000", sound=TONE, suffix=".mkv"),
        "ok",
        "ok",
        "ok",
    ),
    "NaN and Inf in the sound": (
        video(*RAW_SOUND, sound=NAN_SOUND, suffix=".mkv"),
        "ok",
        "ok",
        "ok",
    ),
    "just above silence": (
        video("-c:a", "flac", sound=sine(440, 3, -46.9), suffix=".mkv"),
        "ok",
        "ok",
        "ok",
    ),
    "just below silence": (
        video("-c:a", "flac", sound=sine(440, 3, -47.1), suffix=".mkv"),
        "ok",
        "ok",
        "silent",
    ),
    "two videos, two sounds": (
        copied("-map", "0", "-map", "0", "-c", "copy", first=GOOD),
        "ok",
        "ok",
        "ok",
    ),
    "escape codes as title": (
        filtered(BARS, "-metadata", "title=\x1b[31mred"),
        "ok",
        "ok",
        "no_audio_track",
    ),
    "encrypted": (
        video("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", KEY, "-encryption_kid", KEY),
        "ok",
        "unreadable",
        None,
    ),
}
for tenth in range(1, 10):

    def cut(data: bytes, tenth: int = tenth) -> bytes:
        return data[: len(data) * tenth // 10]

    KINDS[f"cut after {tenth}0 %"] = (edited(GOOD, cut), "ok", "unreadable", None)
    KINDS[f"cut after {tenth}0 %, index last"] = (edited(LATE_INDEX, cut), "unreadable", None, None)
