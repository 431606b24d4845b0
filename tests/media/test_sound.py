"""Sound in time with the pictures, against the moments that were written."""

import struct
from pathlib import Path

import numpy as np
import pytest

from audio_from_video.media import codecs, pictures, sound, untrusted
from tests.support.media_files import ffmpeg, numbered_images

CLICK_S = 1.0
NEAR_S = 0.005
PICTURES = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "64x48", "-i", "-")
TS_AAC = ("libx264", "aac")


def click(
    rate_hz: int, at_s: float = CLICK_S, seconds: float = 3.0, channels: int = 1
) -> np.ndarray:
    """A decaying 1 kHz burst at `at_s` over faint noise: [channels, n] float32."""
    noise = np.random.default_rng(0).normal(size=(channels, round(seconds * rate_hz)))
    samples = (1e-3 * noise).astype(np.float32)
    times_s = np.arange(round(0.01 * rate_hz)) / rate_hz
    first = round(at_s * rate_hz)
    samples[:, first : first + len(times_s)] += (
        0.8 * np.sin(2000 * np.pi * times_s) * np.exp(-300 * times_s)
    )
    return samples


def write(
    path: Path,
    samples: np.ndarray,
    rate_hz: int,
    codecs_: tuple[str, str],
    *options: str,
    layout: str = "mono",
    frames: int = 72,
    fps: str = "24",
) -> Path:
    """A file of `frames` pictures at `fps` beside `samples` [channels, n]."""
    raw = path.with_suffix(".f32")
    raw.write_bytes(samples.T.astype("<f4").tobytes())
    sound_input = ("-f", "f32le", "-ar", str(rate_hz), "-ch_layout", layout, "-i", raw)
    video_codec, audio_codec = codecs_
    coding = ("-threads", "1", "-c:v", video_codec, "-c:a", audio_codec, "-strict", "-2")
    images = numbered_images(frames).tobytes()
    ffmpeg("-r", fps, *PICTURES, *sound_input, *coding, *options, path, data=images)
    return path


def shown_frames(path: Path) -> pictures.ShownFrames:
    """When the file's frames are shown, by decoding."""
    return pictures.read_frames(path, lambda shown: np.array([], int), np.copy)[0]


def decode(path: Path) -> np.ndarray:
    """The file's sound, as long as its pictures."""
    shown = shown_frames(path)
    return sound.decode_sound(path, shown.start_s, shown.duration_s)


def onset_s(samples: np.ndarray) -> float:
    """When samples first reach a third of their largest magnitude."""
    magnitude = np.abs(samples.astype(float))
    return float(np.argmax(magnitude > magnitude.max() / 3)) / codecs.SAMPLE_RATE_HZ


CONTAINERS = {
    "mp4": (".mp4", ("libx264", "aac"), ()),
    "mp4 without edit list": (".mp4", ("libx264", "aac"), ("-use_editlist", "0")),
    "mp4 in fragments": (".mp4", ("libx264", "aac"), ("-movflags", "frag_keyframe+empty_moov")),
    "mov": (".mov", ("libx264", "pcm_s16le"), ()),
    "mkv": (".mkv", ("libx264", "flac"), ()),
    "webm opus": (".webm", ("libvpx", "libopus"), ("-ar", "48000")),
    "webm vorbis": (".webm", ("libvpx", "libvorbis"), ()),
    "ts": (".ts", ("libx264", "aac"), ()),
    "m2ts": (".m2ts", ("libx264", "ac3"), ("-ar", "48000")),
    "mpg": (".mpg", ("mpeg2video", "mp2"), ("-ar", "44100", "-r", "25")),
    "vob": (".vob", ("mpeg2video", "ac3"), ("-ar", "48000", "-r", "25")),
    "flv": (".flv", ("flv", "aac"), ("-ar", "44100")),
    "wmv": (".wmv", ("wmv2", "wmav2"), ("-ar", "44100")),
    "avi": (".avi", ("mpeg4", "pcm_s16le"), ()),
    "ogv": (".ogv", ("libtheora", "libvorbis"), ("-ar", "44100")),
}


@pytest.mark.parametrize("start_s", ["0", "1.5", "30"])
@pytest.mark.parametrize("kind", CONTAINERS)
def test_a_click_is_where_it_was_in_every_container(tmp_path, kind, start_s):
    suffix, coders, options = CONTAINERS[kind]
    path = tmp_path / f"clip{suffix}"
    write(path, click(48000), 48000, coders, "-output_ts_offset", start_s, *options)
    assert onset_s(decode(path)) == pytest.approx(CLICK_S, abs=NEAR_S)


@pytest.mark.parametrize("start_s", ["0", "30"])
@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050, 44100, 96000])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_a_click_is_where_it_was_at_every_rate(tmp_path, kind, rate_hz, start_s):
    suffix, coders, options = CONTAINERS[kind]
    path = tmp_path / f"clip{suffix}"
    write(path, click(rate_hz), rate_hz, coders, "-output_ts_offset", start_s, *options)
    samples = decode(path)
    assert onset_s(samples) == pytest.approx(CLICK_S, abs=NEAR_S)
    assert len(samples) == round(pictures.packet_times(path).duration_s * 16000)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((48000, "mono", 1), (48000, "stereo", 2)),
        ((48000, "stereo", 2), (44100, "stereo", 2)),
        ((48000, "stereo", 2), (48000, "5.1", 6)),
    ],
)
def test_the_sound_may_change_its_form_within_a_clip(tmp_path, first, second):
    """Two transport streams of 1.5 s, one behind the other, a click in the middle of each."""
    halves = []
    for name, (rate_hz, layout, channels) in {"first": first, "second": second}.items():
        path = tmp_path / f"{name}.ts"
        samples = click(rate_hz, 0.75, 1.5, channels)
        halves.append(write(path, samples, rate_hz, TS_AAC, "-bf", "0", layout=layout, frames=36))
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"file '{path}'\n" for path in halves))
    joined = tmp_path / "joined.ts"
    ffmpeg("-f", "concat", "-safe", "0", "-i", listed, "-c", "copy", joined)

    samples = decode(joined)
    second_starts_s = float(pictures.packet_times(joined).times_s[36])
    half = round(second_starts_s * 16000)
    assert len(samples) == round(pictures.packet_times(joined).duration_s * 16000)
    assert onset_s(samples[:half]) == pytest.approx(0.75, abs=NEAR_S)
    assert onset_s(samples[half:]) == pytest.approx(0.75, abs=NEAR_S)


def test_time_counts_from_the_first_frame_that_is_shown(tmp_path):
    """An edit list hides the first second of pictures and of sound."""
    whole = write(tmp_path / "whole.mp4", click(48000, 2.0), 48000, ("libx264", "aac"), "-g", "72")
    cut = tmp_path / "cut.mp4"
    ffmpeg("-ss", "1", "-i", whole, "-c", "copy", cut)
    assert onset_s(decode(cut)) == pytest.approx(1.0, abs=NEAR_S)


def test_pictures_that_begin_late_in_avi(tmp_path):
    path = tmp_path / "late.avi"
    raw = tmp_path / "click.f32"
    raw.write_bytes(click(44100).T.astype("<f4").tobytes())
    sound_input = ("-f", "f32le", "-ar", "44100", "-ch_layout", "mono", "-i", raw)
    late = ("-itsoffset", "0.04", "-r", "25", *PICTURES)
    coding = ("-threads", "1", "-c:v", "mpeg4", "-c:a", "pcm_s16le")
    ffmpeg(*late, *sound_input, *coding, path, data=numbered_images(72).tobytes())
    shown_s = shown_frames(path).start_s
    assert onset_s(decode(path)) == pytest.approx(CLICK_S - shown_s, abs=NEAR_S)


def test_left_and_right_out_of_phase_are_heard(tmp_path):
    mono = click(44100)
    path = tmp_path / "phase.mkv"
    write(path, np.concatenate([mono, -mono]), 44100, ("libx264", "flac"), layout="stereo")
    reference = write(tmp_path / "mono.mkv", mono, 44100, ("libx264", "flac"))
    assert codecs.rms_dbfs(decode(path)) == pytest.approx(
        codecs.rms_dbfs(decode(reference)), abs=0.1
    )


def test_speech_in_the_centre_alone_loses_3_db(tmp_path):
    channels = np.zeros((6, 144_000), np.float32)
    channels[2] = click(48000)[0]
    path = write(tmp_path / "c.mkv", channels, 48000, ("libx264", "flac"), layout="5.1")
    reference = write(tmp_path / "mono.mkv", channels[2:3], 48000, ("libx264", "flac"))
    lost_db = codecs.rms_dbfs(decode(reference)) - codecs.rms_dbfs(decode(path))
    assert lost_db == pytest.approx(3.01, abs=0.1)


def test_a_downmix_never_clips():
    square = np.sign(np.sin(np.arange(16000) / 7)).astype(np.float32)
    mix = sound.to_mono(np.stack([square] * 6), ("FL", "FR", "FC", "LFE", "BL", "BR"))
    assert np.abs(mix).max() == pytest.approx(1)


def test_idle_8_bit_sound_is_silent(tmp_path):
    """8-bit sound rests at 127 or 128: a constant is no sound."""
    idle = np.full((1, 24_000), -1 / 128, np.float32)
    path = write(tmp_path / "idle.mkv", idle, 8000, ("libx264", "pcm_u8"))
    assert codecs.rms_dbfs(decode(path)) == -120


def test_the_default_track_is_heard(tmp_path):
    quiet = write(tmp_path / "a.mkv", np.zeros((1, 144_000)), 48000, ("libx264", "flac"))
    loud = write(tmp_path / "b.mkv", click(48000), 48000, ("libx264", "flac"))
    path = tmp_path / "two.mkv"
    tracks = ("-map", "0:v", "-map", "0:a", "-map", "1:a", "-c", "copy")
    flags = ("-disposition:a:0", "0", "-disposition:a:1", "default")
    ffmpeg("-i", quiet, "-i", loud, *tracks, *flags, path)
    assert onset_s(decode(path)) == pytest.approx(CLICK_S, abs=NEAR_S)


def test_a_lost_packet_leaves_a_gap_and_moves_nothing(tmp_path):
    """The sound from 0.4 to 0.6 s is missing from the file; the click stays at 1 s."""
    whole = write(tmp_path / "whole.mkv", click(48000), 48000, ("libx264", "aac"))
    path = tmp_path / "gap.mkv"
    lost = "noise=drop='between(pts*tb,0.4,0.6)'"
    ffmpeg("-i", whole, "-c", "copy", "-bsf:a", lost, path)
    samples = decode(path)
    assert not samples[round(0.45 * 16000) : round(0.55 * 16000)].any()
    assert onset_s(samples) == pytest.approx(CLICK_S, abs=NEAR_S)


@pytest.mark.parametrize("rate_hz", [1, 2**31 - 1])
def test_absurd_rates_are_a_sentence(tmp_path, rate_hz):
    """An AVI whose header claims another rate for its samples."""
    path = write(tmp_path / "a.avi", click(44100), 44100, ("mpeg4", "pcm_s16le"))
    header = struct.pack("<HHI", 1, 1, 44100)  # PCM, one channel, rate
    data = path.read_bytes()
    assert data.count(header) == 1
    path.write_bytes(data.replace(header, struct.pack("<HHI", 1, 1, rate_hz)))
    with pytest.raises(untrusted.MediaError):
        sound.decode_sound(path, 0.0, 3.0)
