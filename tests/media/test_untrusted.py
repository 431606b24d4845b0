"""Decoding, time stamps, levels and byte formats against ffmpeg's own answers."""

import re
import resource
import warnings
import weakref

import cv2
import numpy as np
import pytest
from scipy import signal

from audio_from_video.media import codecs, pictures, sound, untrusted
from audio_from_video.runtime import parallel
from tests.support.media_files import (
    RATES,
    VARIABLE_RATE,
    broken_files,
    ffmpeg,
    numbered_images,
    read_number,
    shown_frames,
    sine,
    write_video,
)

KINDS = {  # name: (frames, fps, file suffix, ffmpeg's output options)
    **{f"{name} fps": (round(3 * eval(rate)), rate, ".mp4", []) for name, rate in RATES.items()},
    "interlaced": (72, "24", ".mp4", ["-x264-params", "interlaced=1"]),
    "interlaced MPEG-2": (
        75,
        "25",
        ".ts",
        ["-c:v", "mpeg2video", "-flags", "+ilme+ildct", "-q:v", "2"],
    ),
    "no B-frames": (72, "24", ".mp4", ["-bf", "0"]),
    "open GOPs": (72, "24", ".mp4", ["-x264-params", "open-gop=1:keyint=12:bframes=3"]),
    "variable rate": (
        54,
        "30",
        ".mp4",
        [
            "-vf",
            VARIABLE_RATE,
            "-fps_mode",
            "vfr",
            "-enc_time_base",
            "1/90000",
            "-video_track_timescale",
            "90000",
        ],
    ),
    "mkv with a late start": (72, "24", ".mkv", ["-output_ts_offset", "1.5"]),
    "transport stream": (75, "25", ".ts", []),
    "fragments": (72, "24", ".mp4", ["-movflags", "frag_keyframe+empty_moov"]),
    "avi mpeg4": (75, "25", ".avi", ["-c:v", "mpeg4", "-bf", "2", "-q:v", "2"]),
    "vp9": (72, "24", ".webm", ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A file of every kind.

    `edited` is cut out of another without encoding: an edit list hides its first frames.
    """
    folder = tmp_path_factory.mktemp("kinds")
    made = {}
    for name, (count, fps, suffix, options) in KINDS.items():
        made[name] = write_video(folder / f"{name}{suffix}", count, fps, *options)
    made["edited"] = folder / "edited.mp4"
    ffmpeg("-ss", "0.6", "-i", made["open GOPs"], "-t", "2", "-c", "copy", made["edited"])
    return made


def frame_times(path) -> tuple[np.ndarray, float]:
    shown = pictures.packet_times(path)
    return shown.times_s, shown.duration_s


def decode_audio(path, duration_s: float) -> np.ndarray:
    return sound.decode_sound(path, pictures.packet_times(path).start_s, duration_s)


def read_frames(path, indices, finish=np.copy) -> list:
    return pictures.read_frames(path, lambda shown: np.asarray(indices), finish)[1]


@pytest.mark.parametrize("kind", [*KINDS, "edited"])
def test_times_and_frames_are_those_that_ffmpeg_shows(files, kind):
    times_s, images = shown_frames(files[kind])
    found_s, duration_s = frame_times(files[kind])
    assert np.allclose(found_s, times_s, atol=1.5e-3)  # mkv rounds to milliseconds
    assert duration_s == pytest.approx(times_s[-1] + np.median(np.diff(times_s)), abs=0.06)
    wanted = np.array([0, 0, 1, 5, 6, len(times_s) // 2, len(times_s) - 1])
    read = read_frames(files[kind], wanted)
    assert [read_number(image) for image in read] == [read_number(images[i]) for i in wanted]
    assert np.abs(np.stack(read).astype(int) - images[wanted]).mean() < 4


def test_all_numbers_are_read_back(files):
    assert [read_number(image) for image in read_frames(files["60 fps"], np.arange(180))] == list(
        range(180)
    )
    assert [read_number(image) for image in numbered_images(256)] == list(range(256))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_files_are_upright(tmp_path, degrees):
    upright = write_video(tmp_path / "upright.mp4", 4)
    rotated = tmp_path / "rotated.mp4"
    ffmpeg("-display_rotation", degrees, "-i", upright, "-c", "copy", rotated)
    expected = shown_frames(rotated)[1]
    assert expected.shape[1:3] == ((64, 48) if degrees != 180 else (48, 64))
    read = np.stack(read_frames(rotated, np.arange(4)))
    assert read.shape == expected.shape and np.abs(read.astype(int) - expected).mean() < 4


def test_probe_says_what_was_written(tmp_path):
    path = write_video(tmp_path / "a.mp4", 45, "15", "-c:a", "aac", "-shortest", sound=sine(440, 3))
    assert pictures.probe(path) == {
        "duration_s": pytest.approx(3),
        "fps": pytest.approx(15),
        "width_px": 64,
        "height_px": 48,
        "has_audio": True,
    }
    assert not pictures.probe(write_video(tmp_path / "b.mkv", 45, "15"))["has_audio"]


NAMES = [
    "-dash.mp4",
    "with space.mp4",
    "%03d.mp4",
    "ünï★ 声.mp4",
    "concat:x.mp4",
    "a?b#c.mp4",
    "q'uo\"te.mp4",
    "[x]*.mp4",
    "a|b,c;d.mp4",
]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_just_a_name(tmp_path, monkeypatch, name):
    original = write_video(tmp_path / "plain.mp4", 12, "6", "-c:a", "aac", sound=sine(440, 2, -6))
    (tmp_path / name).write_bytes(original.read_bytes())
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, type(original)(name)):
        assert frame_times(path)[1] == pytest.approx(2)
        assert [read_number(image) for image in read_frames(path, np.array([0, 7, 11]))] == [
            0,
            7,
            11,
        ]
        assert np.array_equal(decode_audio(path, 2.0), decode_audio(original, 2.0))


def test_broken_files_are_media_errors_with_a_reason_that_names_no_path(tmp_path):
    for name, path in broken_files(tmp_path).items():
        with pytest.raises(untrusted.MediaError) as caught:
            times_s, _ = frame_times(path)
            read_frames(path, np.arange(len(times_s)))
        assert caught.value.status == "unreadable", name
        assert len(caught.value.reason) > 5 and str(tmp_path) not in caught.value.reason, name
        with pytest.raises(untrusted.MediaError) as caught:
            sound.decode_sound(path, 0.0, 3.0)
        assert str(tmp_path) not in caught.value.reason and "0x" not in caught.value.reason


def test_every_cut_of_a_file_is_noticed(tmp_path):
    data = write_video(tmp_path / "good.mp4", 72, "24", "-movflags", "faststart").read_bytes()
    start = data.index(b"mdat") + 4
    path = tmp_path / "cut.mp4"
    for end in np.linspace(start, len(data) - 1, 25).astype(int):
        path.write_bytes(data[:end])
        with pytest.raises(untrusted.MediaError, match="breaks off"):
            frame_times(path)


def test_sound_alone_is_no_video(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    for function in (pictures.probe, frame_times):
        with pytest.raises(untrusted.MediaError, match="no video stream") as caught:
            function(tmp_path / "sound.mp4")
        assert caught.value.status == "no_video"


def test_frames_that_are_interlaced_further_on_are_right_too(files, tmp_path):
    parts = [
        write_video(tmp_path / "a.ts", 36),
        write_video(tmp_path / "b.ts", 36, "24", "-x264-params", "interlaced=1"),
    ]
    ffmpeg("-i", f"concat:{parts[0]}|{parts[1]}", "-c", "copy", tmp_path / "both.mkv")
    images = shown_frames(tmp_path / "both.mkv")[1]
    wanted = np.arange(0, len(images), 5)
    assert [read_number(image) for image in read_frames(tmp_path / "both.mkv", wanted)] == [
        read_number(images[i]) for i in wanted
    ]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotated_interlaced_files_are_upright(files, tmp_path, degrees):
    ffmpeg(
        "-display_rotation",
        degrees,
        "-i",
        files["interlaced"],
        "-c",
        "copy",
        tmp_path / "rotated.mp4",
    )
    expected = shown_frames(tmp_path / "rotated.mp4")[1][:4]
    read = np.stack(read_frames(tmp_path / "rotated.mp4", np.arange(4)))
    assert read.shape == expected.shape and np.abs(read.astype(int) - expected).mean() < 4


def test_one_image_is_held_at_a_time(files):
    seen: list[weakref.ref] = []

    def finish(image: np.ndarray) -> int:
        seen.append(weakref.ref(image))
        assert sum(one() is not None for one in seen) <= 2  # this one, and the one before
        return read_number(image)

    assert read_frames(files["60 fps"], np.arange(180), finish) == list(range(180))


def test_no_file_stays_open(files, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        frame_times(files["24 fps"])
        pictures.probe(files["24 fps"])
        with pytest.raises(untrusted.MediaError):
            pictures.probe(tmp_path / "text.mp4")
    opened = {str(path) for path in _open_files()}
    assert not opened & {str(files["24 fps"]), str(tmp_path / "text.mp4")}


def _open_files():
    import psutil

    return [file.path for file in psutil.Process().open_files()]


# Sound


@pytest.mark.parametrize("level_db", [0.0, -20.0, -45.0])
def test_level_of_a_sine(level_db):
    samples = np.round(sine(1000, 1, level_db) * 32767).astype(np.int16)
    assert codecs.rms_dbfs(samples) == pytest.approx(level_db - 3.0103, abs=0.01)


def test_level_of_silence_and_of_full_scale():
    assert codecs.rms_dbfs(np.zeros(1000, np.int16)) == -120
    square = np.tile([-32768, 32767], 500).astype(np.int16)
    assert codecs.rms_dbfs(square) == pytest.approx(0, abs=1e-3)


def test_level_is_ffmpegs_own_volume(tmp_path):
    noise = np.random.default_rng(3).normal(0, 0.03, 48_000)
    path = write_video(tmp_path / "noise.mkv", 72, "24", "-c:a", "flac", sound=noise)
    log = ffmpeg(
        "-i", path, "-map", "0:a", "-af", "volumedetect", "-f", "null", "-"
    ).stderr.decode()
    printed_db = float(re.search(r"mean_volume: (-?[\d.]+) dB", log).group(1))  # to 0.1 dB
    assert codecs.rms_dbfs(decode_audio(path, 3.0)) == pytest.approx(printed_db, abs=0.06)


def test_stereo_at_44100_hz_becomes_mono_at_16_khz_with_the_same_tones(tmp_path):
    write_video(tmp_path / "v.mp4", 72)
    left_right = "aevalsrc='0.4*sin(2*PI*440*t)|0.4*sin(2*PI*1250*t)':s=44100:d=3"
    ffmpeg(
        "-i",
        tmp_path / "v.mp4",
        "-f",
        "lavfi",
        "-i",
        left_right,
        "-c:v",
        "copy",
        "-c:a",
        "aac",
        "-b:a",
        "192k",
        tmp_path / "va.mp4",
    )
    samples = decode_audio(tmp_path / "va.mp4", 3.0)
    assert samples.dtype == np.int16 and samples.shape == (48_000,)
    frequencies, power = signal.periodogram(samples / 32768, 16_000, "blackman")
    peaks = frequencies[signal.find_peaks(power, height=power.max() / 10, distance=100)[0]]
    assert np.allclose(peaks, [440, 1250], atol=1)
    assert np.sqrt(2) * (samples[8000:40_000] / 32768).std() == pytest.approx(
        0.4 / np.sqrt(2), rel=0.03
    )  # each at half its level


def test_tones_above_8_khz_do_not_fold_back(tmp_path):
    write_video(tmp_path / "v.mp4", 72)
    ffmpeg(
        "-i",
        tmp_path / "v.mp4",
        "-f",
        "lavfi",
        "-i",
        "sine=f=11000:r=48000:d=3",
        "-c:v",
        "copy",
        "-c:a",
        "flac",
        tmp_path / "va.mkv",
    )
    assert codecs.rms_dbfs(decode_audio(tmp_path / "va.mkv", 3.0)[1600:-1600]) < -80


CLICK_S = 1.0


@pytest.mark.parametrize(
    "suffix, codec", [(".mp4", "aac"), (".mkv", "flac"), (".ts", "aac"), (".mov", "pcm_s16le")]
)
@pytest.mark.parametrize(
    "video_late_s, audio_late_s", [(0, 0), (0.5, 0), (0, 0.5), (2, 2), (1.25, 1)]
)
def test_sound_is_aligned_with_the_first_frame(tmp_path, suffix, codec, video_late_s, audio_late_s):
    click = np.zeros(48_000)
    click[int(CLICK_S * 16_000) :][:160] = 0.9
    both = write_video(tmp_path / "both.mkv", 72, "24", "-c:a", "flac", sound=click)
    path = tmp_path / f"late{suffix}"
    ffmpeg(
        "-itsoffset",
        video_late_s,
        "-i",
        both,
        "-itsoffset",
        audio_late_s,
        "-i",
        both,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-c:a",
        codec,
        path,
    )
    samples = decode_audio(path, 3.0)
    assert len(samples) == 48_000
    heard_s = np.argmax(np.abs(samples.astype(float)) > 8000) / 16_000
    assert heard_s == pytest.approx(CLICK_S + audio_late_s - video_late_s, abs=0.005)


@pytest.mark.parametrize("seconds", [1.0, 5.0])
def test_sound_is_as_long_as_the_video(tmp_path, seconds):
    path = write_video(tmp_path / "a.mkv", 72, "24", "-c:a", "flac", sound=sine(500, seconds, -6))
    samples = decode_audio(path, 3.0)
    assert len(samples) == 48_000
    heard = np.abs(samples.reshape(-1, 1600)).max(1) > 1000
    assert heard.tolist() == [i < seconds * 10 for i in range(30)]


def test_flac_gives_every_bit_back():
    samples = np.random.default_rng(1).integers(-32768, 32768, 12_345).astype(np.int16)
    data = codecs.encode_flac(samples)
    assert data[:4] == b"fLaC"
    assert np.array_equal(codecs.decode_flac(data) * 32768, samples)


def test_jpeg_is_close_and_keeps_the_channels():
    image = np.zeros((32, 48, 3), np.uint8)
    image[..., 0], image[..., 2] = 200, 40
    data = codecs.encode_jpeg(image, 95)
    assert (
        data[:2] == b"\xff\xd8" and np.abs(codecs.decode_jpeg(data).astype(int) - image).max() <= 3
    )
    assert np.array_equal(
        codecs.decode_jpeg(data), cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    )


@pytest.mark.slow
def test_decoding_processes_have_an_end_to_their_memory():
    limit = parallel.map_items(address_space, [0], 1, initializer=untrusted.decoding_process)
    assert list(limit) == [untrusted.MEMORY_BYTES] == [4 * 2**30]


def address_space(_) -> int:
    return resource.getrlimit(resource.RLIMIT_AS)[0]
