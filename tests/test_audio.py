"""The audio stage: a row for every kind of clip; a new threshold costs nothing."""

import numpy as np
import pyarrow as pa
import pytest

from audio_from_video.media import codecs
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import audio
from tests.support.media_files import ffmpeg, sine, write_video
from tests.support.shard_rows import index_row

FACTS = [pa.field("duration_s", pa.float32()), pa.field("start_s", pa.float64())]
AAC = ["-c:a", "aac", "-b:a", "128k"]


@pytest.fixture
def clips(workspace):
    """data/clips.parquet and data/frames for clips of which each has its own kind of sound."""
    root = workspace.folder / "media" / "training" / "ringing"
    root.mkdir(parents=True)
    write_video(root / "loud_1.mp4", 72, "24", *AAC, sound=sine(1000, 3, -20))
    write_video(root / "quiet_1.mp4", 72, "24", *AAC, sound=sine(1000, 3, -50))
    write_video(root / "silent_1.mp4", 72, "24", *AAC, sound=np.zeros(48_000))
    write_video(root / "mute_1.mp4", 72)
    write_video(root / "-short_1.mp4", 48, "24", *AAC, sound=sine(500, 3, -20))
    broken = write_video(root / "broken_1.mkv", 72, "24", "-c:a", "flac", sound=sine(500, 3, -6))
    data = broken.read_bytes()
    broken.write_bytes(data.replace(b"A_FLAC", b"A_NONE"))  # the codec's name
    duration_s = {"-short_1": 2.0}
    stems = ["-short_1", "broken_1", "loud_1", "mute_1", "quiet_1", "silent_1"]
    rows = []
    for stem in stems:
        path = next(root.glob(f"{stem}.*"))
        rows.append(
            {
                **index_row(f"ringing/{stem}", "training"),
                "path": str(path.relative_to(workspace.folder / "media")),
                "content_hash": f"hash of {stem}",
                "duration_s": duration_s.get(stem, 3.0),
                "start_s": 0.0,
                "has_audio": stem != "mute_1",
                "jpegs": [b"x"],
            }
        )
    shards.write_table(pa.Table.from_pylist(rows), workspace.folder / "data/clips.parquet")
    shards.write(
        workspace.folder / "data/frames",
        pa.schema([("jpegs", pa.list_(pa.binary()))]),
        rows,
        rows,
        "v",
        FACTS,
    )
    workspace.set(clips={"root": "media", "max_failed_fraction": 0.2})
    return workspace


def result() -> dict:
    return {
        row["clip_id"].split("/")[1]: row for row in shards.read_index("data/audio").to_pylist()
    }


def test_each_clip_gets_its_status_and_level(clips):
    audio.main(stage_run.StageRun("audio", None, 2))
    rows = result()
    assert {stem: row["status"] for stem, row in rows.items()} == {
        "loud_1": "ok",
        "-short_1": "ok",
        "quiet_1": "silent",
        "silent_1": "silent",
        "mute_1": "no_audio_track",
        "broken_1": "unreadable",
    }
    assert rows["loud_1"]["rms_dbfs"] == pytest.approx(-23.01, abs=0.1)
    assert rows["quiet_1"]["rms_dbfs"] == pytest.approx(-53.01, abs=0.3)
    assert rows["silent_1"]["rms_dbfs"] < -100 and rows["mute_1"]["rms_dbfs"] is None
    assert "below -50" in rows["quiet_1"]["reason"] and rows["broken_1"]["reason"]
    stored = shards.read_columns("data/audio", ["flac"])
    lengths = {
        name: len(codecs.decode_flac(flac))
        for name, flac in zip(stored["clip_id"], stored["flac"], strict=True)
    }
    assert lengths == {"ringing/-short_1": 32_000, "ringing/loud_1": 48_000}


def test_another_threshold_reuses_every_item(clips):
    audio.main(stage := stage_run.StageRun("audio", None, 1))
    assert (stage.log["computed"], stage.log["reused"]) == (6, 0)
    for silence_db, silent in (
        (-60.0, {"silent_1"}),
        (-10.0, {"silent_1", "quiet_1", "loud_1", "-short_1"}),
    ):
        clips.set(audio={"silence_db": silence_db})
        audio.main(stage := stage_run.StageRun("audio", None, 1))
        assert (stage.log["computed"], stage.log["reused"]) == (0, 6)
        assert {stem for stem, row in result().items() if row["status"] == "silent"} == silent


def test_one_and_two_workers_write_the_same_bytes(clips, monkeypatch):
    written = []
    for workers in (1, 2):
        monkeypatch.setenv("ITEM_STORE", str(clips.folder / f"items{workers}"))
        audio.main(stage_run.StageRun("audio", None, workers))
        written.append(
            {
                path.name: path.read_bytes()
                for path in (clips.folder / "data/audio").rglob("*.parquet")
            }
        )
    assert written[0] == written[1] and len(written[0]) == 2


def test_too_many_failures_stop_the_stage_and_keep_the_old_output(clips):
    audio.main(stage_run.StageRun("audio", None, 1))
    before = (clips.folder / "data/audio/_index.parquet").read_bytes()
    clips.set(clips={"max_failed_fraction": 0.1})
    with pytest.raises(
        UserError, match="1 of 6 clips failed in audio.*ringing/broken_1: unreadable"
    ):
        audio.main(stage_run.StageRun("audio", None, 1))
    assert (clips.folder / "data/audio/_index.parquet").read_bytes() == before


def test_sound_survives_extraction_bit_by_bit(tmp_path):
    """16 kHz mono 16 bit comes out as it went in."""
    samples = np.random.default_rng(0).integers(-20_000, 20_000, 48_000).astype(np.int16)
    path = write_video(tmp_path / "a.mkv", 72, "24", "-c:a", "pcm_s16le", sound=samples / 32768)
    row = audio.extract((str(path), 0.0, 3.0, True, False))
    assert np.array_equal(codecs.decode_flac(row["flac"]) * 32768, samples)


def test_damaged_sound_in_a_good_file_is_a_row(tmp_path):
    write_video(tmp_path / "v.mp4", 72)
    row = audio.extract(
        (str(tmp_path / "v.mp4"), 0.0, 3.0, True, False)
    )  # the table says that it has a track, the file has none
    assert (
        row["status"] == "unreadable"
        and "0x" not in row["reason"]
        and str(tmp_path) not in row["reason"]
    )
    assert (
        audio.extract((str(tmp_path / "nowhere.mp4"), 0.0, 3.0, True, False))["status"]
        == "unreadable"
    )


# By CODE_VERSION: what `extract` gives for known sounds, rounded so that machines agree.
GOLDEN = {3: "48e36e7dbdd6392ee8bc3ed6f14000df"}


def test_output_is_that_of_code_version(tmp_path):
    exact = write_video(
        tmp_path / "exact.mkv", 72, "24", "-c:a", "pcm_s16le", sound=sine(440, 2.5, -6)
    )
    stereo = tmp_path / "stereo.mkv"
    two_tones = "aevalsrc='0.5*t/3*sin(2*PI*700*t)|0.2*sin(2*PI*3000*t)':s=44100:d=3"
    ffmpeg(
        "-i",
        exact,
        "-f",
        "lavfi",
        "-i",
        two_tones,
        "-map",
        "0:v",
        "-map",
        "1:a",
        "-c:v",
        "copy",
        "-c:a",
        "pcm_s16le",
        stereo,
    )
    facts = []
    for path in (exact, stereo):
        row = audio.extract((str(path), 0.0, 3.0, True, False))
        blocks = codecs.decode_flac(row["flac"]).reshape(-1, 1600)
        facts.append(
            [
                row["status"],
                round(row["rms_dbfs"], 1),
                np.rint(np.sqrt((blocks**2).mean(1)) * 100).tolist(),
            ]
        )
    assert digest(facts) == GOLDEN[audio.CODE_VERSION], (
        "the output changed: raise CODE_VERSION and note the new digest here"
    )
