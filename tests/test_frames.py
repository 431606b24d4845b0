"""Sampling by time stamp: what is on screen at each sixth of a second, at any rate."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from audio_from_video.media import codecs, pictures
from audio_from_video.media import frames as frame_sampling
from audio_from_video.media.frames import extract, on_screen, sample_times
from audio_from_video.media.settings import FramesParams
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import clips, frames
from tests.support.media_files import (
    RATES,
    VARIABLE_RATE,
    broken_files,
    ffmpeg,
    read_number,
    shown_frames,
    sine,
    write_video,
)
from tests.support.odd_media import KINDS


def parameters(**changes) -> FramesParams:
    return FramesParams(
        **{"fps": 6.0, "count": 18, "keep": "exact", "size_px": 256, "jpeg_quality": 95, **changes}
    )


def numbers(row: dict) -> list[int]:
    return [read_number(codecs.decode_jpeg(jpeg)) for jpeg in row["jpegs"]]


def expected_numbers(path, at_s) -> list[int]:
    """What is on screen at the given times, by the times and pictures that ffmpeg gives."""
    times_s, images = shown_frames(path)
    return [
        read_number(images[max(i for i, t in enumerate(times_s) if t <= at + 1.2e-3)])
        for at in at_s
    ]


@pytest.mark.parametrize("rate", RATES)
def test_three_seconds_are_exactly_18_samples_at_any_rate(tmp_path, rate):
    path = write_video(tmp_path / "a.mp4", round(3 * eval(RATES[rate])), RATES[rate])
    row = extract((str(path), None, parameters()))
    assert row["status"] == "ok" and row["frame_count"] == len(row["jpegs"]) == 18
    by_hand = [int((k / 6 + 1.2e-3) * eval(RATES[rate])) for k in range(18)]
    assert numbers(row) == expected_numbers(path, np.arange(18) / 6) == by_hand
    assert np.allclose(row["times_s"], np.arange(18) / 6)


def test_variable_rate(tmp_path):
    path = write_video(
        tmp_path / "a.mp4",
        54,
        "30",
        "-vf",
        VARIABLE_RATE,
        "-fps_mode",
        "vfr",
        "-enc_time_base",
        "1/90000",
        "-video_track_timescale",
        "90000",
    )
    row = extract((str(path), None, parameters()))
    assert (
        numbers(row)
        == expected_numbers(path, np.arange(18) / 6)
        == [*range(0, 30, 5), *range(30, 54, 2)]
    )


def test_two_cameras_in_one_file(tmp_path):
    """Segments of 50 and 10 fps, concatenated."""
    fast, slow = (
        write_video(tmp_path / "fast.ts", 75, "50"),
        write_video(tmp_path / "slow.ts", 15, "10"),
    )
    ffmpeg("-i", f"concat:{fast}|{slow}", "-c", "copy", tmp_path / "both.mkv")
    row = extract((str(tmp_path / "both.mkv"), None, parameters(keep="all", count=17)))
    assert row["status"] == "ok"
    assert numbers(row) == expected_numbers(tmp_path / "both.mkv", row["times_s"])


def test_a_gap_of_a_day_makes_no_grid_of_a_day(tmp_path, monkeypatch):
    KINDS["a gap of a day that the header hides"][0](tmp_path / "gap.mp4")
    monkeypatch.setattr(
        frame_sampling,
        "sample_times",
        lambda *_: pytest.fail("a grid of so many samples would fill the memory"),
    )
    row = extract((str(tmp_path / "gap.mp4"), None, parameters()))
    assert (row["status"], row["frame_count"]) == ("wrong_frame_count", 600_000)


def test_exact_refuses_another_length_and_all_resamples_it(tmp_path):
    path = write_video(tmp_path / "a.mp4", 75, "30")
    row = extract((str(path), None, parameters()))
    assert (row["status"], row["frame_count"]) == (
        "wrong_frame_count",
        15,
    ) and "15 frames at 6 fps" in row["reason"]
    row = extract((str(path), None, parameters(keep="all")))
    assert (
        row["status"] == "ok"
        and row["frame_count"] == 15
        and row["duration_s"] == pytest.approx(2.5)
    )
    assert numbers(row) == [int(k * 75 / 18 + 0.01) for k in range(18)]
    assert np.allclose(row["times_s"], np.arange(18) * 2.5 / 18)


def test_slow_video_repeats_frames(tmp_path):
    row = extract((str(write_video(tmp_path / "a.mp4", 9, "3")), None, parameters()))
    assert numbers(row) == [k // 2 for k in range(18)]


def test_late_and_edited_files_start_with_their_first_shown_frame(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", 120, "24", "-x264-params", "keyint=12")
    ffmpeg("-ss", "0.6", "-i", whole, "-t", "3", "-c", "copy", tmp_path / "cut.mp4")
    ffmpeg(
        "-i", tmp_path / "cut.mp4", "-c", "copy", "-output_ts_offset", "7", tmp_path / "late.mkv"
    )
    for name in ("cut.mp4", "late.mkv"):
        row = extract((str(tmp_path / name), None, parameters(keep="all")))
        assert numbers(row) == expected_numbers(tmp_path / name, row["times_s"])
        assert numbers(row)[0] == (
            15 if name == "cut.mp4" else 8
        )  # the copy shows what the edit list hid


@pytest.mark.parametrize(
    "fps, duration_s, n",
    [(6.0, 3.0, 18), (6.0, 2.5, 15), (8.0, 3.0, 24), (6.0, 3.003, 18), (6.0, 2.9, 17)],
)
def test_grid(fps, duration_s, n):
    assert len(sample_times(duration_s, parameters(fps=fps))) == n
    assert len(sample_times(duration_s, parameters(fps=fps, keep="all"))) == 18


def test_on_screen_is_the_last_frame_not_after():
    assert on_screen(
        np.array([0.0, 0.1, 0.3]), np.array([0.0, 0.0999, 0.15, 0.2985, 0.2995, 9.0])
    ).tolist() == [0, 1, 1, 1, 2, 2]


def test_small_side_is_reduced_and_never_enlarged(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", 72))
    for size_px, shape in ((24, (24, 32, 3)), (48, (48, 64, 3)), (256, (48, 64, 3))):
        row = extract((path, None, parameters(size_px=size_px)))
        assert {codecs.decode_jpeg(jpeg).shape for jpeg in row["jpegs"]} == {shape}
    assert numbers(row) == list(range(0, 72, 4))


def test_every_broken_file_gets_a_row_with_a_reason(tmp_path):
    for name, path in broken_files(tmp_path).items():
        row = extract((str(path), None, parameters(keep="all")))
        assert row["status"] == "unreadable" and row["reason"] and row["jpegs"] == [], name
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", tmp_path / "sound.mp4")
    assert extract((str(tmp_path / "sound.mp4"), None, parameters()))["status"] == "no_video"
    one = extract((str(write_video(tmp_path / "one.mp4", 1)), None, parameters(keep="all")))
    assert (one["status"], one["reason"]) == ("too_short", "one frame only: nothing moves")


def test_the_stage_writes_what_it_says_and_goes_on_after_a_bad_file(workspace):
    root = workspace.folder / "media"
    (root / "training" / "waving+hands").mkdir(parents=True)
    (root / "validation" / "waving+hands").mkdir(parents=True)
    for folder, name in (("training", "-a_1"), ("training", "b_1"), ("validation", "c_1")):
        write_video(
            root / folder / "waving+hands" / f"{name}.mp4", 72, "24", "-metadata", f"title={name}"
        )
    (root / "training" / "knocking").mkdir()
    write_video(root / "training/knocking/k_1.mp4", 90, "30", "-c:a", "aac", sound=sine(400, 3, -9))
    (root / "training" / "waving+hands" / "d_1.mp4").write_bytes(b"")
    data = (root / "training" / "waving+hands" / "b_1.mp4").read_bytes()
    (root / "training" / "waving+hands" / "e_1.mp4").write_bytes(data[: data.index(b"mdat") + 900])
    workspace.set(clips={"root": str(root), "max_failed_fraction": 0.5}, frames={"keep": "exact"})
    clips.main(stage_run.StageRun("clips", None, 1))
    frames.main(stage := stage_run.StageRun("frames", None, 2))
    rows = list(shards.iter_rows(workspace.folder / "data/frames", ["jpegs", "times_s"]))
    assert sorted(row["clip_id"] for row in rows) == [
        "knocking/k_1",
        "waving+hands/-a_1",
        "waving+hands/b_1",
        "waving+hands/c_1",
    ]
    waving = [row for row in rows if row["clip_id"] != "knocking/k_1"]
    assert all(numbers(row) == list(range(0, 72, 4)) for row in waving)
    assert stage.log["computed"] == 4
    found = {row["clip_id"]: row for row in pq.read_table("data/clips.parquet").to_pylist()}
    assert (
        found["waving+hands/d_1"]["status"] == found["waving+hands/e_1"]["status"] == "unreadable"
    )
    workspace.set(clips={"max_failed_fraction": 0.1})
    with pytest.raises(
        UserError, match="2 of 6 clips failed in clips, more than clips.max_failed_fraction = 0.1"
    ):
        clips.main(stage_run.StageRun("clips", None, 1))


def test_real_clips_have_18_frames(extra_media):
    files = sorted((extra_media / "clips").rglob("*.mp4"))
    assert files
    for path in files:
        row = extract((str(path), None, parameters(size_px=96)))
        assert (row["status"], len(row["jpegs"])) == ("ok", 18), path


def test_odd_files_get_a_status(extra_media):
    seen = set()
    for path in sorted((extra_media / "odd").rglob("*")):
        if path.suffix in (".mp4", ".mov", ".mkv"):
            row = extract((str(path), None, parameters(size_px=96)))
            assert row["status"] == "ok" or row["reason"], path
            seen.add(row["status"])
    assert {"unreadable", "no_video", "too_short", "wrong_frame_count"} <= seen


# By CODE_VERSION: what `extract` gives for the files of `test_output_is_that_of_code_version`,
# rounded so that machines agree.
GOLDEN = {
    3: "5eb97ca02e0a12b2f9e2f18f45e607fc",
    5: "5eb97ca02e0a12b2f9e2f18f45e607fc",  # PyAV decodes: files of other containers alone differ
}


def test_output_is_that_of_code_version(tmp_path):
    from audio_from_video.runtime.digests import digest

    facts = []
    for count, fps, keep in ((90, "30", "exact"), (50, "25", "all")):
        path = write_video(tmp_path / f"{fps}.mkv", count, fps, "-c:v", "ffv1", "-pix_fmt", "bgr0")
        row = extract((str(path), None, parameters(keep=keep, size_px=24)))
        images = [
            np.rint(codecs.decode_jpeg(jpeg)[8:16, 2::4] / 64).astype(int).tolist()
            for jpeg in row["jpegs"]
        ]
        facts.append(
            [
                row["status"],
                row["frame_count"],
                round(row["duration_s"], 2),
                np.round(row["times_s"], 3).tolist(),
                images,
            ]
        )
    assert digest(facts) == GOLDEN[frames.CODE_VERSION], (
        "the output changed: raise CODE_VERSION and note the new digest here"
    )


def test_what_decodes_decides_on_the_number_of_frames(tmp_path):
    """A transport stream cut within a group of pictures promises more frames than it shows."""
    options = ("-c:v", "libx264", "-g", "30", "-bf", "0")
    whole = write_video(tmp_path / "whole.ts", 120, "30", *options).read_bytes()
    path = tmp_path / "cut.ts"
    differing = 0
    for packets in range(1, len(whole) // 188):
        path.write_bytes(whole[packets * 188 :])
        promised = pictures.packet_times(path)
        if len(promised.times_s) < 80:
            break
        shown, _ = pictures.read_frames(path, lambda shown: np.array([], int), np.copy)
        if round(promised.duration_s * 6) == round(shown.duration_s * 6):
            continue
        differing += 1
        row = extract((str(path), None, parameters(keep="exact")))
        assert row["frame_count"] == round(shown.duration_s * 6)
        assert (row["status"] == "ok") == (row["frame_count"] == 18)
        if differing == 5:
            break
    assert differing
