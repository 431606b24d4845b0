"""Parts of a longer file: the frames and the sound are those of a cut copy of the part."""

from pathlib import Path

import numpy as np
import pytest

from audio_from_video.media import pictures, sound, untrusted
from audio_from_video.media.frames import extract
from audio_from_video.media.settings import FramesParams
from tests.support.media_files import ffmpeg, write_video

FRAMES = FramesParams(fps=6.0, count=18, keep="all", size_px=48, jpeg_quality=95)
SECONDS = 10
FPS = 25
# B-frames, and a key frame every 50 frames: most parts begin between key frames.
H264 = ("-c:v", "libx264", "-g", "50", "-bf", "3", "-pix_fmt", "yuv420p")
OPEN_GOP = (*H264, "-x264-params", "open-gop=1:scenecut=0")
FILES = {
    "h264.mp4": (*H264, "-c:a", "aac"),
    "h264.mkv": (*H264, "-c:a", "flac"),
    "open.mp4": (*OPEN_GOP, "-c:a", "aac", "-ar", "48000"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "50", "-c:a", "libopus"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-g", "50", "-bf", "2", "-c:a", "pcm_s16le"),
    "h264.ts": (*H264, "-c:a", "mp2", "-ar", "48000"),
}
FROM_BEGINNING = (".avi", ".ts")  # no index leads to their key frames
LOSSLESS = ("-c:v", "ffv1", "-c:a", "pcm_s16le")
# Starts and ends in frames: within a group of pictures, across key frames, at the file's end.
PARTS = [(0, 75), (10, 60), (49, 124), (101, 176), (175, 250)]


def noise() -> np.ndarray:
    """Return SECONDS of smooth noise at 16 kHz, so that every place in it sounds different."""
    rough = np.random.default_rng(0).normal(size=SECONDS * 16_000)
    return np.convolve(rough, np.ones(8) / 8, mode="same").clip(-1, 1) * 0.5


@pytest.fixture(scope="module", params=FILES)
def file(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("parts") / request.param
    return write_video(path, SECONDS * FPS, str(FPS), *FILES[request.param], sound=noise())


def cut_copy(path: Path, start: int, end: int) -> Path:
    """Cut frames start..end out of a file by ffmpeg, which decodes all of it, without loss."""
    copy = path.with_name(f"{path.name}-{start}.mkv")
    part = f"trim=start_frame={start}:end_frame={end},setpts=PTS-STARTPTS"
    sound_part = f"atrim={start / FPS}:{end / FPS},asetpts=PTS-STARTPTS"
    ffmpeg("-i", path, "-vf", part, "-af", sound_part, *LOSSLESS, copy)
    return copy


def lag(one: np.ndarray, other: np.ndarray) -> int:
    """Return by how many samples `one` is later than `other`, at most 200."""
    middle = other[200:-200].astype(float)
    places = [middle @ one[200 + k : 200 + k + len(middle)].astype(float) for k in range(-200, 201)]
    return int(np.argmax(places)) - 200


@pytest.mark.parametrize(("start", "end"), PARTS)
def test_a_part_is_as_its_cut_copy(file, start, end):
    copy = cut_copy(file, start, end)
    part = pictures.Part(start / FPS, end / FPS)
    ours = extract((str(file), part, FRAMES))
    reference = extract((str(copy), None, FRAMES))
    assert ours["status"] == reference["status"] == "ok"
    assert ours["jpegs"] == reference["jpegs"]
    assert len(set(ours["jpegs"])) == FRAMES.count
    assert ours["times_s"] == pytest.approx(reference["times_s"], abs=1e-3)

    heard = sound.decode_sound(file, ours["start_s"], ours["duration_s"], seek=True)
    expected = sound.decode_sound(copy, reference["start_s"], reference["duration_s"])
    if file.suffix in FROM_BEGINNING:
        # ffmpeg's filters have another zero there than the first shown frame.
        whole = extract((str(file), None, FRAMES))
        line = sound.decode_sound(file, whole["start_s"], whole["duration_s"])
        expected = line[round(part.start_s * 16_000) :][: len(heard)]
    assert abs(len(heard) - len(expected)) <= 16
    size = min(len(heard), len(expected))
    assert abs(lag(heard[:size], expected[:size])) <= 1
    # The slice of a longer line was resampled from another sample on.
    smallest = 0.9 if file.suffix in FROM_BEGINNING else 0.99
    assert np.corrcoef(heard[:size], expected[:size])[0, 1] > smallest


def test_only_what_is_needed_is_decoded(file, monkeypatch):
    if file.suffix in FROM_BEGINNING:
        pytest.skip("these containers are read from their beginning")
    decoded = []
    decode = untrusted.decode
    monkeypatch.setattr(untrusted, "decode", lambda packet: decoded.append(0) or decode(packet))
    part = pictures.Part(8.0, 8.5)
    assert extract((str(file), part, FRAMES))["status"] == "ok"
    assert len(decoded) < 100  # of 250 frames


def test_a_start_between_frames_shows_the_frame_before(tmp_path):
    path = write_video(tmp_path / "slow.mp4", 8, "2", *H264)
    row = extract((str(path), pictures.Part(1.2, 2.2), FRAMES))
    assert row["status"] == "ok"
    whole = extract((str(path), None, FRAMES.model_copy(update={"count": 8})))
    shown = list(dict.fromkeys(row["jpegs"]))
    assert shown == whole["jpegs"][2:5]


@pytest.mark.parametrize(
    ("start_s", "end_s", "status"),
    [(8.0, 10.4, "ok"), (8.0, 11.0, "beyond_end"), (12.0, 14.0, "beyond_end")],
)
def test_a_part_beyond_the_end_is_told(file, start_s, end_s, status):
    row = extract((str(file), pictures.Part(start_s, end_s), FRAMES))
    assert row["status"] == status, row["reason"]
    if status == "ok":
        assert row["duration_s"] == pytest.approx(2.0, abs=0.05)
    else:
        assert "lies beyond the end of the video at 10." in row["reason"]


def test_what_is_loud_around_a_part_has_no_say_in_it(tmp_path):
    quiet = noise()
    surrounding = np.stack([quiet, quiet], axis=1)
    loud = surrounding.copy()
    # Above full scale, as lossy codecs may give: a mix that has it is scaled down.
    loud[: 4 * 16_000 - 100] = 1.5
    loud[6 * 16_000 + 100 :] = 1.5
    heard = []
    for name, samples in (("quiet.mkv", surrounding), ("loud.mkv", loud)):
        float_sound = ("-c:v", "ffv1", "-c:a", "pcm_f32le")
        path = write_video(tmp_path / name, SECONDS * FPS, str(FPS), *float_sound, sound=samples)
        heard.append(sound.decode_sound(path, 4.0, 2.0, seek=True))
    assert np.abs(heard[0]).max() > 1000
    assert np.array_equal(heard[0][16:-16], heard[1][16:-16])
