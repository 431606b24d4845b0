"""Exports hold what the shards hold, without pickle."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from audio_from_video.media import codecs
from audio_from_video.storage import shards
from tests.support.closure import ROOT
from tests.support.shard_rows import index_row

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
