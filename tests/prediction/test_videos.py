"""Windows of files and of arrays: where they begin, which frames and which sound they hold."""

import numpy as np
import pytest
import yaml

from audio_from_video.media import codecs
from audio_from_video.media.frames import extract
from audio_from_video.media.settings import FramesParams
from audio_from_video.media.sound import decode_sound
from audio_from_video.prediction.videos import (
    BYTES_IN_TIME,
    ReadingTask,
    VideoArray,
    read,
    reading_limit_s,
    window_starts_s,
    window_times_s,
)
from tests.support.closure import ROOT
from tests.support.media_files import read_number, shown_frames, sine, write_video

FRAMES = FramesParams.model_validate(
    yaml.safe_load((ROOT / "params.yaml").read_text())["frames"] | {"count": 6}
)  # a clip is a second


@pytest.mark.parametrize(
    ("duration_s", "stride_s", "starts_s"),
    [
        (1.0, 1.0, [0]),
        (0.3, 1.0, [0]),
        (1.25, 1.0, [0]),  # hardly longer: whole, as in training
        (2.0, 1.0, [0, 1]),
        (2.5, 1.0, [0, 1, 1.5]),  # the last one ends with the video
        (2.05, 1.0, [0, 1]),  # less than half a step is left
        (2.0, 0.5, [0, 0.5, 1]),
    ],
)
def test_windows_cover_a_video(duration_s, stride_s, starts_s):
    assert window_starts_s(duration_s, FRAMES, stride_s) == pytest.approx(starts_s)


def test_a_short_video_is_sampled_as_in_training_and_a_window_on_the_grid():
    assert window_times_s(0.6, FRAMES, 1.0) == pytest.approx(np.arange(6)[None] / 10)
    times_s = window_times_s(2.0, FRAMES, 1.0)
    assert times_s == pytest.approx(np.stack([np.arange(6), np.arange(6, 12)]) / 6)


def test_a_clip_is_one_window_with_the_stages_frames_and_sound(tmp_path):
    path = write_video(tmp_path / "a.mp4", 24, "24", "-c:a", "aac", sound=sine(300, 1, -12))
    [window] = read(ReadingTask(path, FRAMES, 1.0)).windows
    row = extract((str(path), None, FRAMES))
    assert window.jpegs == row["jpegs"]
    expected = decode_sound(path, row["start_s"], row["duration_s"])
    assert np.array_equal(window.samples, expected)
    assert (window.start_s, window.end_s) == (0, row["duration_s"])


def test_a_long_video_has_the_frames_and_the_sound_of_each_time(tmp_path):
    """Frames show their number; the sound is louder in each window."""
    sound = np.concatenate([sine(300, 1, level_db) for level_db in (-30, -20, -10)])
    path = write_video(
        tmp_path / "a.avi", 72, "24", "-c:v", "ffv1", "-c:a", "pcm_s16le", sound=sound
    )
    windows = read(ReadingTask(path, FRAMES, 1.0)).windows
    assert [window.start_s for window in windows] == pytest.approx([0, 1, 2])
    for k, window in enumerate(windows):
        numbers = [read_number(codecs.decode_jpeg(jpeg)) for jpeg in window.jpegs]
        assert numbers == [24 * k + 4 * step for step in range(6)]
        level_dbfs = codecs.rms_dbfs(window.samples)
        assert level_dbfs == pytest.approx((-30, -20, -10)[k] - 3.01, abs=0.1)


def test_overlapping_windows_repeat_frames(tmp_path):
    path = write_video(tmp_path / "a.avi", 48, "24", "-c:v", "ffv1")
    windows = read(ReadingTask(path, FRAMES, 0.5)).windows
    assert len(windows) == 3
    assert windows[1].jpegs[3:] == windows[2].jpegs[:3]
    assert windows[0].samples is None


def test_a_long_video_has_more_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIP_TIME_LIMIT_S", "30")
    long = tmp_path / "long.mp4"
    with open(long, "wb") as file:
        file.truncate(10 * BYTES_IN_TIME)
    short = tmp_path / "short.mp4"
    short.write_bytes(b"short")
    array = VideoArray(np.zeros((2, 4, 4, 3), np.uint8), fps=24)
    for video, limit_s in ((long, 300), (short, 30), (tmp_path / "nowhere.mp4", 30), (array, 30)):
        assert reading_limit_s(ReadingTask(video, FRAMES, 1.0)) == limit_s


def test_an_array_of_a_files_frames_gives_the_files_windows(tmp_path):
    path = write_video(
        tmp_path / "a.avi", 48, "24", "-c:v", "ffv1", "-c:a", "pcm_s16le", sound=sine(300, 2, -12)
    )
    _, images = shown_frames(path)
    of_file = read(ReadingTask(path, FRAMES, 1.0)).windows
    array = VideoArray(images[..., ::-1], fps=24, sound=sine(300, 2, -12))
    of_array = read(ReadingTask(array, FRAMES, 1.0)).windows
    assert len(of_array) == len(of_file) == 2
    for mine, theirs in zip(of_array, of_file, strict=True):
        assert mine.jpegs == theirs.jpegs
        assert len(mine.samples) == len(theirs.samples)


@pytest.mark.parametrize(
    ("frames", "fps", "status"),
    [
        (np.zeros((24, 32, 32), np.uint8), 24, "unreadable"),
        (np.zeros((24, 32, 32, 3), np.float32), 24, "unreadable"),
        (np.zeros((24, 32, 32, 3), np.uint8), 0, "unreadable"),
        (np.zeros((1, 32, 32, 3), np.uint8), 24, "too_short"),
    ],
)
def test_an_array_that_is_no_video_is_refused(frames, fps, status):
    video = read(ReadingTask(VideoArray(frames, fps), FRAMES, 1.0))
    assert (video.windows, video.status) == ([], status)
    assert video.reason


def test_a_broken_file_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "text.mp4"
    path.write_text("this is no video\n")
    video = read(ReadingTask(path, FRAMES, 1.0))
    assert (video.windows, video.status) == ([], "unreadable")
    assert "Invalid data" in video.reason


def test_exact_refuses_a_short_clip_as_training_does(tmp_path):
    path = write_video(tmp_path / "a.mp4", 12, "24")
    exact = FRAMES.model_copy(update={"keep": "exact"})
    assert read(ReadingTask(path, exact, 1.0)).status == "wrong_frame_count"
    long = write_video(tmp_path / "b.mp4", 72, "24")
    assert len(read(ReadingTask(long, exact, 1.0)).windows) == 3
