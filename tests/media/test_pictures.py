"""Pictures as `ffmpeg` shows them: the frame at each time, upright and in its colours."""

from pathlib import Path

import numpy as np
import pytest

from audio_from_video.media import pictures
from audio_from_video.media.untrusted import MediaError
from tests.support.media_files import broken_files, ffmpeg, shown_frames

MOVING = "testsrc2=d=3:r=24:s=128x96"


def evenly(shown: pictures.ShownFrames) -> np.ndarray:
    """The frames on screen at 18 times, spread evenly over the clip."""
    times_s = np.arange(18) * shown.duration_s / 18
    return np.searchsorted(shown.times_s, times_s + 1.2e-3, side="right").clip(1) - 1


def draw(path: Path, *options: str, source: str = MOVING) -> Path:
    """A file that ffmpeg draws itself."""
    ffmpeg("-f", "lavfi", "-i", source, *options, path)
    return path


def copy(source: Path, path: Path, *options: str, before: tuple[str, ...] = ()) -> Path:
    """The same streams once more, without encoding."""
    ffmpeg(*before, "-i", source, "-c", "copy", *options, path)
    return path


def assert_as_shown(path: Path, tolerance: int = 0) -> None:
    """Times and chosen frames are those that `ffmpeg` prints."""
    times_s, images = shown_frames(path)
    shown, frames = pictures.read_frames(path, evenly, np.copy)
    assert shown.times_s == pytest.approx(times_s, abs=1e-4)
    expected = images[evenly(shown)].astype(int)
    assert np.abs(np.stack(frames) - expected).max() <= tolerance


def smooth_images(count: int) -> np.ndarray:
    """Images [count, 96, 128, 3] uint8 of many colours, without edges."""
    t, y, x = np.meshgrid(np.arange(count), np.arange(96), np.arange(128), indexing="ij")
    waves = [np.sin(x / 20 + t / 5), np.sin(y / 20 + t / 7 + 1), np.sin((x + y) / 30 + 2)]
    return (128 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "clip.mp4"
    return draw(path, "-c:v", "libx264", "-g", "24", "-bf", "2")


FORMATS = {
    "AV1": (".mp4", ("-c:v", "libsvtav1", "-preset", "10")),
    "VP9, live: no duration": (".webm", ("-c:v", "libvpx-vp9", "-cpu-used", "8", "-live", "1")),
    "a start at 100 s": (".mkv", ("-c:v", "libx264", "-output_ts_offset", "100")),
    "H.264 with B-frames in AVI": (".avi", ("-c:v", "libx264", "-bf", "2")),
    "MPEG-4 with B-frames in AVI": (".avi", ("-c:v", "mpeg4", "-bf", "2")),
    "MPEG-4, frames not coded": (
        ".avi",
        ("-c:v", "mpeg4", "-vf", "setpts='if(lt(N,20),N,N+10)/24/TB'", "-fps_mode", "cfr"),
    ),
    "DVD": (".vob", ("-c:v", "mpeg2video", "-r", "25")),
    "Theora": (".ogv", ("-c:v", "libtheora")),
    "Windows Media": (".wmv", ("-c:v", "wmv2")),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats(tmp_path, kind):
    suffix, options = FORMATS[kind]
    assert_as_shown(draw(tmp_path / f"clip{suffix}", *options))


@pytest.mark.parametrize("seek", [("-ss", "0.3"), ("-ss", "1.1"), ("-ss", "1.95")])
@pytest.mark.parametrize("length", [(), ("-t", "0.9")])
def test_edit_lists_hide_head_and_tail(clip, tmp_path, seek, length):
    """`-ss` before a copy begins at a keyframe; an edit list hides what comes before."""
    assert_as_shown(copy(clip, tmp_path / "cut.mp4", *length, before=seek))


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("tenth", [1, 2, 3, 5])
def test_transport_streams_cut_within_a_group_of_pictures(tmp_path, codec, tenth):
    whole = draw(tmp_path / "whole.ts", "-c:v", codec, "-g", "24", "-bf", "2").read_bytes()
    first_packet = len(whole) * tenth // 10 // 188 * 188
    path = tmp_path / "cut.ts"
    path.write_bytes(whole[first_packet:])
    assert_as_shown(path)


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_hevc_cut_at_an_open_group_of_pictures(tmp_path, suffix):
    coding = "log-level=none:keyint=24:open-gop=1:bframes=3"
    whole = draw(tmp_path / "whole.mkv", "-c:v", "libx265", "-x265-params", coding)
    assert_as_shown(copy(whole, tmp_path / f"cut{suffix}", before=("-ss", "1.2")))


@pytest.mark.parametrize("mirror", [(), ("-display_hflip",), ("-display_vflip",)])
@pytest.mark.parametrize("degrees", ["0", "90", "180", "270"])
def test_display_matrices_turn_and_mirror(clip, tmp_path, degrees, mirror):
    matrix = ("-display_rotation", degrees, *mirror)
    assert_as_shown(copy(clip, tmp_path / "turned.mp4", before=matrix))


@pytest.mark.parametrize("orientation", ["rotate=90", "rotate=270", "rotate=180:flip=horizontal"])
def test_orientation_messages_in_the_stream(clip, tmp_path, orientation):
    message = f"h264_metadata=display_orientation=insert:{orientation}"
    assert_as_shown(copy(clip, tmp_path / "turned.mp4", "-bsf:v", message))


COLOURS = {  # primaries, transfer, matrix, pixel format
    "BT.2020, PQ": ("bt2020", "smpte2084", "bt2020nc", "yuv420p10le"),
    "BT.2020, HLG": ("bt2020", "arib-std-b67", "bt2020nc", "yuv420p10le"),
    "BT.2020, SDR": ("bt2020", "bt2020-10", "bt2020nc", "yuv420p10le"),
    "BT.2020, 8 bit": ("bt2020", "bt2020-10", "bt2020nc", "yuv420p"),
    "P3": ("smpte432", "bt709", "bt709", "yuv420p"),
    "BT.709": ("bt709", "bt709", "bt709", "yuv420p"),
    "BT.601, full range": ("bt470bg", "bt709", "bt470bg", "yuvj420p"),
}


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_are_ffmpegs_within_5_levels(tmp_path, kind):
    primaries, transfer, matrix, pixels = COLOURS[kind]
    tags = ("-color_primaries", primaries, "-color_trc", transfer, "-colorspace", matrix)
    scaled = f"scale=out_color_matrix={matrix.removesuffix('nc')}"
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "128x96", "-r", "24", "-i", "-")
    coding = ("-c:v", "libx264", "-crf", "4", "-pix_fmt", pixels, *tags, "-vf", scaled)
    path = tmp_path / "clip.mp4"
    ffmpeg(*raw, *coding, path, data=smooth_images(24).tobytes())
    assert_as_shown(path, tolerance=5)


def test_a_file_that_breaks_off_is_told(clip, tmp_path):
    for flags in ("faststart", "frag_keyframe+empty_moov"):
        whole = copy(clip, tmp_path / "whole.mp4", "-movflags", flags).read_bytes()
        path = tmp_path / "cut.mp4"
        path.write_bytes(whole[: len(whole) * 6 // 10])
        with pytest.raises(MediaError, match=r"breaks off: \d+ of \d+ frames are there"):
            pictures.read_frames(path, evenly, np.copy)


def test_headers_without_a_duration_and_late_starts_are_measured(tmp_path):
    live = draw(tmp_path / "live.webm", "-c:v", "libvpx-vp9", "-cpu-used", "8", "-live", "1")
    late = draw(tmp_path / "late.mkv", "-c:v", "libx264", "-output_ts_offset", "100")
    for path in (live, late):
        assert pictures.probe(path)["duration_s"] == pytest.approx(3, abs=0.05)


def test_a_file_that_is_read_once_gives_what_one_gives_that_is_read_twice(
    clip, tmp_path, monkeypatch
):
    cut = tmp_path / "cut.mp4"
    copy(clip, cut, before=("-ss", "0.7"))
    others = [copy(clip, tmp_path / f"same{suffix}") for suffix in (".mkv", ".avi", ".ts")]
    broken = [path for path in broken_files(tmp_path).values() if path.is_file()]

    def read(path: Path) -> tuple | str:
        try:
            shown, frames = pictures.read_frames(path, evenly, np.copy)
        except MediaError as error:
            return f"{error.status}: {error.reason}"
        return shown.times_s.tolist(), shown.duration_s, [frame.tobytes() for frame in frames]

    paths = [clip, cut, *others, *broken]
    once = [read(path) for path in paths]
    monkeypatch.setattr(pictures, "MOST_BYTES_HELD", 0)
    assert [read(path) for path in paths] == once
    assert sum(isinstance(found, tuple) for found in once) >= 5
    assert sum(isinstance(found, str) for found in once) >= 2
