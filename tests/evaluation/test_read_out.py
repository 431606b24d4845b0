"""Linear read-outs of look-alike pairs, on features whose separation is known."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from audio_from_video.evaluation import read_out
from audio_from_video.storage import shards
from tests.support.shard_rows import index_row


def write(path: Path, gap: dict[str, float], rng: np.random.Generator, clips: int = 30) -> None:
    """Noise [6, 4] plus a shift of an action's own."""
    rows = []
    for split in ("test", "training", "unlabelled", "validation"):
        for action, shift in gap.items():
            for i in range(clips):
                row = index_row(f"{action}/{split}{i // 2}_{i}", split)
                rows.append(row | {"features": rng.normal(size=(6, 4)) + shift})
    shards.write(
        path, pa.schema([("features", shards.tensor(pa.float16(), 6, 4))]), rows, rows, "v"
    )


def tell(names: dict[str, str]) -> None:
    """Write what is known of clips: their true actions."""
    shards.write_table(
        pa.table({"clip_id": list(names), "action": list(names.values())}),
        Path("data/truth.parquet"),
    )


@pytest.fixture
def measured(workspace):
    tell({})
    rng = np.random.default_rng(0)
    write(Path("data/video_features/rgb"), {"a": 0.0, "b": 0.0, "c": 0.0, "d": 3.0}, rng)
    write(Path("data/video_features/flow"), {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}, rng)
    write(Path("data/audio_features"), {"a": 0.0, "b": 3.0}, rng)
    return read_out.read_out_figures([["a", "b"], ["c", "d"]])


def test_what_is_in_the_features_is_found_and_what_is_not_is_not(measured):
    assert all(
        list(ways) == ["labelled training clips"] for ways in measured.values()
    )  # nothing is known of unlabelled clips
    video, audio = (ways["labelled training clips"] for ways in measured.values())
    assert video["c / d"]["mean"] == 1
    assert video["c / d"]["auroc"] == 1
    assert video["c / d"]["n"] == 60
    assert abs(video["a / b"]["mean"] - 0.5) < 0.2
    assert video["a / b"]["ci95_low"] < 0.5 < video["a / b"]["ci95_high"]
    assert audio["a / b"]["mean"] == 1
    assert "c / d" not in audio  # no sound of theirs


def test_accuracy_and_auroc_are_those_of_plain_logistic_regression(workspace):
    rng = np.random.default_rng(1)
    for name in ("rgb", "flow"):
        write(Path("data/video_features") / name, {"a": 0.0, "b": 0.3}, rng)
    write(Path("data/audio_features"), {"a": 0.0}, rng)
    tell(
        {f"{action}/unlabelled{i // 2}_{i}": action for action in "ab" for i in range(30)}
        | {"a/training0_0": "b"}
    )
    ways = read_out.read_out_figures([["a", "b"]])["video features"]
    found, more = (way["a / b"] for way in ways.values())
    table = read_out.summaries(read_out.INPUTS["video features"], {"a", "b"})
    x, y = np.stack(table.x.to_list()), (table.action == "a").to_numpy()
    train, test = (table.split == split for split in ("training", "test"))
    assert found["learned_from"] == train.sum() == 60
    assert more["learned_from"] == 120
    assert more["n"] == 60
    assert more["auroc"] != found["auroc"]
    assert abs(more["mean"] - found["mean"]) < 0.2
    scale = StandardScaler().fit(x[train])
    model = LogisticRegression(C=0.01, max_iter=5000).fit(scale.transform(x[train]), y[train])
    assert found["mean"] == pytest.approx(model.score(scale.transform(x[test]), y[test]), abs=0.1)
    assert found["auroc"] == pytest.approx(
        roc_auc_score(y[test], model.decision_function(scale.transform(x[test]))), abs=0.05
    )
    assert found["n"] == 60
    assert found["sources"] == 15
    assert 0.6 < found["mean"] < 1
