"""A list of clips through the stages that open files: parts of a file are clips like others."""

from pathlib import Path

import numpy as np
import pytest

from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.audio_steps import encode_sound
from audio_from_video.backbones.settings import AudioFeaturesParams
from audio_from_video.clipset import lists
from audio_from_video.clipset.lists import ListedClip
from audio_from_video.media import codecs
from audio_from_video.runtime import stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import shards
from stages import audio, clips, frames
from tests.support.closure import ROOT
from tests.support.media_files import ffmpeg, sine, write_video

H264 = ("-c:v", "libx264", "-g", "50", "-bf", "2", "-c:a", "aac")
LOSSLESS = ("-c:v", "libx264", "-qp", "0", "-c:a", "flac", "-strict", "-2")
FPS = 25
# Training parts of the first file and test parts of the second one: frames start..start + 75.
STARTS = {"long_1.mp4": (0, 75, 160), "other_1.mp4": (30, 125)}


@pytest.fixture
def root(workspace) -> Path:
    """Two files of 10 s with numbered frames, and a file per action for another source."""
    root = workspace.folder / "media"
    root.mkdir()
    for number, name in enumerate(STARTS):
        tone = sine(300 + 200 * number, 10, -12) * np.linspace(0.2, 1, 160_000)
        write_video(root / name, 250, str(FPS), *H264, sound=tone)
    for number, name in enumerate(("short_1.mp4", "brief_1.mp4")):
        tone = sine(900 + 99 * number, 3, -12)
        write_video(root / name, 75, str(FPS), *H264, "-metadata", f"title={name}", sound=tone)
    return root


def listed() -> list[ListedClip]:
    """Return parts of the long files, alternately of two actions, and the two short files."""
    rows = [ListedClip("short_1.mp4", "a"), ListedClip("brief_1.mp4", "b")]
    for path, starts in STARTS.items():
        split = "training" if path == "long_1.mp4" else "test"
        for number, start in enumerate(starts):
            action = "ab"[number % 2]
            rows.append(ListedClip(path, action, start / FPS, (start + 75) / FPS, split))
    return rows


def run(workspace, root: Path, rows: list[ListedClip], **settings) -> list[dict]:
    """Run the stages on a list of clips and return the rows of data/clips.parquet."""
    lists.write(root / "list.csv", rows)
    workspace.set(clips={"root": str(root), "clip_list": "list.csv", **settings})
    for stage in (clips, frames, audio):
        stage.main(stage_run.StageRun(stage.__name__.removeprefix("stages."), "", 1))
    return shards.read_table("data/clips.parquet").to_pylist()


def media_of(clip_set: list[dict]) -> dict[tuple, tuple]:
    """Return frames and sound [n] of each clip by (action, file, start in frames)."""
    names = {row["clip_id"]: row for row in clip_set}
    pictures = {row["clip_id"]: row["jpegs"] for row in shards.iter_rows("data/frames", ["jpegs"])}
    found = {}
    for row in shards.iter_rows("data/audio", ["flac"]):
        clip = names[row["clip_id"]]
        start = round((clip["start_s"] or 0) * FPS)
        samples = codecs.decode_flac(row["flac"])
        found[clip["action"], clip["path"], start] = (pictures[row["clip_id"]], samples)
    return found


def heard(ast, samples: np.ndarray) -> np.ndarray:
    """Return the features [18, D] of a clip's sound [n] int16."""
    p = AudioFeaturesParams(
        model="tiny", segments="pooled", window_s=1.0, components=8, label_model=""
    )
    return encode_sound(ast, samples.astype(np.float32) / 32768, 18, p).patches


@pytest.mark.slow
def test_parts_give_what_their_cut_copies_give(workspace, root):
    clip_set = run(workspace, root, listed())
    assert [row["status"] for row in clip_set] == ["ok"] * 7
    assert len({row["clip_id"] for row in clip_set}) == 7
    assert "a/long_1@0-3" in {row["clip_id"] for row in clip_set}
    assert {row["source_id"] for row in clip_set} == {"long", "other", "short", "brief"}
    parts = media_of(clip_set)

    copies = []
    for row in listed():
        start = round((row.start_s or 0) * FPS)
        name = f"cut/{Path(row.path).stem}_{start}.mkv"
        (root / "cut").mkdir(exist_ok=True)
        pictures = f"trim=start_frame={start}:end_frame={start + 75},setpts=PTS-STARTPTS"
        sound = f"atrim={start / FPS}:{start / FPS + 3},asetpts=PTS-STARTPTS"
        ffmpeg("-i", root / row.path, "-vf", pictures, "-af", sound, *LOSSLESS, root / name)
        copies.append(ListedClip(name, row.action, None, None, row.split, row.path))
    cut = media_of(run(workspace, root, copies))

    assert len(parts) == len(cut) == 7
    ast = load_audio(str(ROOT / "models/tiny/ast"), "cpu")
    for (action, path, start), (jpegs, samples) in parts.items():
        others, other_samples = cut[action, f"cut/{Path(path).stem}_{start}.mkv", 0]
        assert jpegs == others
        size = min(len(samples), len(other_samples)) - 2
        assert size >= 3 * 16_000 - 32
        differences = [
            np.abs(samples[1 + k :][: size - 1] - other_samples[1:size]).mean() for k in (-1, 0, 1)
        ]
        assert min(differences) < 0.01 * np.abs(samples).mean()
        features = [heard(ast, sound[:size]) for sound in (samples, other_samples)]
        spread = np.abs(features[0]).mean()
        assert np.abs(features[0] - features[1]).mean() < 0.01 * spread


@pytest.mark.slow
def test_what_is_wrong_with_a_row_is_its_status_and_is_told(workspace, root, capsys):
    rows = [
        *listed(),
        ListedClip("long_1.mp4", "a", 8.0, 12.0, "training"),  # beyond the end
        ListedClip("long_1.mp4", "b", 20.0, 22.0, "training"),
        ListedClip("long_1.mp4", "b", 1.0, 1.2, "training"),  # too short
        ListedClip("long_1.mp4", "b", 0.0, 3.0, "training"),  # also listed as a
        ListedClip("other_1.mp4", "b", 6.0, 9.0, "training"),  # of a test source
        ListedClip("gone_1.mp4", "a", 0.0, 3.0, "training"),
        ListedClip("gone_2.mp4", "a"),
    ]
    found = run(workspace, root, [*rows, rows[0]], max_failed_fraction=0.0)
    status = {(row["path"], row["start_s"], row["action"]): row for row in found}
    assert status["long_1.mp4", 8.0, "a"]["status"] == "beyond_end"
    assert "lies beyond the end of the video at 10." in status["long_1.mp4", 8.0, "a"]["reason"]
    assert status["long_1.mp4", 20.0, "b"]["status"] == "beyond_end"
    assert status["long_1.mp4", 1.0, "b"]["status"] == "too_short"
    same_part = {status["long_1.mp4", 0.0, action]["status"] for action in "ab"}
    assert same_part == {"ok", "duplicate_content"}
    assert status["other_1.mp4", 6.0, "b"]["status"] == "source_in_other_split"
    assert status["gone_1.mp4", 0.0, "a"]["status"] == "missing"
    told = capsys.readouterr().err
    assert "list.csv: 2 rows match no file, such as gone_1.mp4" in told
    assert "list.csv: 1 rows stand there twice and count once, such as row" in told


@pytest.mark.slow
def test_without_splits_the_sources_are_dealt_to_all_three(workspace, root):
    for number in range(8):
        tone = sine(400 + 50 * number, 1, -12)
        name = f"s{number}_1.mp4"
        write_video(root / name, 25, str(FPS), *H264, "-metadata", f"title={name}", sound=tone)
    rows = [
        ListedClip(f"s{number}_1.mp4", "ab"[number % 2], start, start + 0.5)
        for number in range(8)
        for start in (0.0, 0.5)
    ]
    found = run(workspace, root, rows)
    assert {row["status"] for row in found} == {"ok"}
    sides = {split: set() for split in ("training", "validation", "test")}
    for row in found:
        sides[row["split"]].add(row["source_id"])
    assert {split: len(sources) for split, sources in sides.items()} == {
        "training": 4,
        "validation": 2,
        "test": 2,
    }
    assert not set.intersection(*sides.values())


def test_a_list_that_names_nothing_there_is_a_sentence(workspace, root):
    with pytest.raises(UserError, match="none of its 1 rows matches a file"):
        run(workspace, root, [ListedClip("elsewhere/a.mp4", "a")])
