"""Exports hold what the shards hold, without pickle, and name the labels of scores."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile

from audio_from_video.media import codecs
from audio_from_video.runtime.errors import UserError
from audio_from_video.storage import predictions, shards
from tests.support.closure import ROOT
from tests.support.shard_rows import index_row
from tools import export as tool

ROWS = [
    index_row("a/training-0_1", "training"),
    index_row("b/training-1_1", "training"),
    index_row("b/test-2_1", "test"),
]


@pytest.fixture
def source(tmp_path) -> Path:
    schema = pa.schema(
        [
            ("features", shards.tensor(pa.float16(), 3, 2)),
            ("jpegs", pa.list_(pa.binary())),
            ("flac", pa.binary()),
        ]
    )
    rows = sorted(ROWS, key=lambda row: (row["split"], row["action"], row["clip_id"]))
    content = [
        row
        | {
            "features": np.full((3, 2), i, np.float16),
            "jpegs": [b"one", b"two"],
            "flac": bytes([i]),
        }
        for i, row in enumerate(rows)
    ]
    shards.write(tmp_path / "source", schema, content, rows, "v")
    return tmp_path / "source"


def export(*arguments, fails: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tools.export", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done.stdout + done.stderr


def test_arrays_by_clip(source, tmp_path):
    export(source, tmp_path / "out.npz", "--column", "features")
    found = np.load(tmp_path / "out.npz", allow_pickle=False)
    stored = {row["clip_id"]: row["features"] for row in shards.iter_rows(source, ["features"])}
    assert set(found.files) == set(stored) == {row["clip_id"] for row in ROWS}
    assert all(np.array_equal(found[name], value) for name, value in stored.items())


def test_images_of_one_split(source, tmp_path):
    export(source, tmp_path / "frames", "--column", "jpegs", "--split", "training")
    files = {
        str(path.relative_to(tmp_path / "frames")): path.read_bytes()
        for path in (tmp_path / "frames").rglob("*.jpg")
    }
    names = ("a/training-0_1", "b/training-1_1")
    assert files == {
        f"{name}/{i:02d}.jpg": data for name in names for i, data in enumerate([b"one", b"two"])
    }


def test_an_unknown_column_is_a_sentence(source, tmp_path):
    text = export(source, tmp_path / "out", "--column", "nothing", fails=True)
    assert "nothing" in text
    assert "features" in text
    assert "Traceback" not in text


@pytest.mark.slow
def test_sound_in_another_format(tmp_path):
    tone = (3000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    clip = {"clip_id": "a/x_1", "split": "training", "action": "a", "source_id": "x"}
    row = clip | {"item_key": None, "status": "ok", "reason": ""}
    content = [row | {"flac": codecs.encode_flac(tone)}]
    schema = pa.schema([("flac", pa.binary())])
    shards.write(tmp_path / "audio", schema, content, [row], "v")

    export(tmp_path / "audio", tmp_path / "sound", "--format", "wav")
    samples, rate_hz = soundfile.read(tmp_path / "sound/a/x_1.wav", dtype="int16")
    assert rate_hz == 16_000
    assert np.array_equal(samples, tone)

    text = export(tmp_path / "audio", tmp_path / "sound", "--format", "nonsense", fails=True)
    assert "cannot write sound as 'nonsense'" in text
    assert "Traceback" not in text


# Names of labels, tables


def read_csv(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def scores(tmp_path) -> Path:
    """An output whose column `generated` has a score for each label of AudioSet."""
    rows = sorted(ROWS, key=lambda row: (row["split"], row["action"], row["clip_id"]))
    content = [
        row | {"generated": np.arange(527, dtype=np.float16) / 1024 + i, "pooled": np.ones(4)}
        for i, row in enumerate(rows)
    ]
    schema = pa.schema(
        [
            ("generated", shards.tensor(pa.float16(), 527)),
            ("pooled", shards.tensor(pa.float16(), 4)),
        ]
    )
    shards.write(tmp_path / "scores", schema, content, rows, "v")
    return tmp_path / "scores"


def published_names() -> list[str]:
    with open(ROOT / "audio_from_video/audioset/labels.csv", newline="") as file:
        return [row["display_name"] for row in csv.DictReader(file)]


def test_scores_of_labels_come_with_their_names(scores, tmp_path):
    export(scores, tmp_path / "scores.npz")
    found = np.load(tmp_path / "scores.npz", allow_pickle=False)
    assert found["labels"].tolist() == published_names()
    assert set(found.files) == {row["clip_id"] for row in ROWS} | {"labels"}

    export(scores, tmp_path / "scores.csv", "--split", "training")
    rows = read_csv(tmp_path / "scores.csv")
    assert [row.pop("clip_id") for row in rows] == ["a/training-0_1", "b/training-1_1"]
    assert list(rows[0]) == published_names()
    assert float(rows[0]["Speech"]) == found["a/training-0_1"][0]
    last = published_names()[-1]
    assert float(rows[1][last]) == pytest.approx(float(found["b/training-1_1"][526]), rel=1e-5)


def test_other_arrays_have_no_names_and_fit_no_csv(scores, tmp_path):
    export(scores, tmp_path / "pooled.npz", "--column", "pooled")
    assert "labels" not in np.load(tmp_path / "pooled.npz").files
    text = export(scores, tmp_path / "pooled.csv", "--column", "pooled", fails=True)
    assert "arrays [4] per clip, no scores of labels" in text
    assert "Traceback" not in text


def test_predictions_become_a_row_per_clip(workspace):
    clip_rows = [
        ("unlabelled/u_1", "unlabelled", None, "u"),
        ("a/t_1", "test", "a", "t"),
    ]
    clips = pd.DataFrame(clip_rows, columns=predictions.CLIP_COLUMNS)
    # Two seeds disagree on the first clip: the mean decides.
    probabilities = np.array([[[0.4, 0.6], [0.9, 0.1]], [[0.9, 0.1], [0.8, 0.2]]], np.float32)
    answers = predictions.Predictions(clips, ["a", "b"], probabilities)
    predictions.write("video_only", answers)
    count = tool.export_table(
        Path("data/predictions/video_only.parquet"), Path("answers.csv"), ["unlabelled"]
    )
    assert count == 1
    (row,) = read_csv(Path("answers.csv"))
    assert row == {
        "clip_id": "unlabelled/u_1",
        "split": "unlabelled",
        "action": "",
        "source_id": "u",
        "predicted": "a",
        "probability of a": "0.65",
        "probability of b": "0.35",
    }


def test_tables_lose_what_is_no_single_value(workspace):
    table = pa.table({"name": ["a,b", "c"], "score": [0.5, 1 / 3], "many": [[1], [2, 3]]})
    shards.write_table(table, Path("data/some.parquet"))
    assert tool.export_table(Path("data/some.parquet"), Path("some.csv"), None) == 2
    assert read_csv(Path("some.csv")) == [
        {"name": "a,b", "score": "0.5"},
        {"name": "c", "score": "0.333333"},
    ]
    with pytest.raises(UserError, match="data/some.parquet has no splits: leave out --split"):
        tool.export_table(Path("data/some.parquet"), Path("some.csv"), ["test"])


def test_what_is_no_output_is_told_with_the_nearest_one(workspace):
    with pytest.raises(UserError, match="run `dvc repro` first"):
        tool.require_output(Path("data/frames"))
    shards.write(Path("data/frames"), pa.schema([]), [], [], "v")
    tool.require_output(Path("data/frames"))
    with pytest.raises(UserError, match="did you mean data/frames.* there are data/frames and tab"):
        tool.require_output(Path("data/frame"))
    with pytest.raises(UserError, match="data/clips.parquet is no output that can be exported"):
        tool.require_output(Path("data/clips.parquet"))
