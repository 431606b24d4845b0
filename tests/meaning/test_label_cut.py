"""The cut that leaves training clips two labels on average."""

import numpy as np
import pytest

from audio_from_video.audioset.label_cut import derived_cut
from audio_from_video.meaning.label_cut import label_cut
from audio_from_video.storage import layout, shards
from tests.support.synthetic import LABELS, write_shards


def test_the_cut_leaves_two_labels_per_clip():
    scores = np.random.default_rng(0).beta(0.2, 5, size=(50, 527)).astype(np.float16)
    cut = derived_cut(iter(scores))
    assert (scores >= cut).sum() == pytest.approx(100, abs=3)  # float16 has ties


def test_a_number_is_itself_and_auto_asks_training_clips_alone(workspace):
    random = np.random.default_rng(1)
    rows = []
    for number, split in enumerate(["training"] * 4 + ["test"] * 4):
        scores = random.uniform(0, 0.2 if split == "training" else 1.0, LABELS)
        rows.append(
            {"clip_id": f"a/{number}", "split": split, "label_scores": scores, "action": "a"}
            | {"source_id": f"{number}", "item_key": None, "status": "ok", "reason": ""}
        )
    rows.sort(key=lambda row: (row["split"], row["clip_id"]))
    write_shards(layout.AUDIO_FEATURES, {"label_scores": (LABELS,)}, rows)
    assert label_cut(0.3) == 0.3
    training = shards.read_columns(layout.AUDIO_FEATURES, ["label_scores"])["label_scores"]
    of_training = [row for row in training if row.max() <= 0.21]
    assert label_cut("auto") == derived_cut(of_training) < 0.2


def test_without_clips_the_cut_is_0():
    assert derived_cut(iter([])) == 0
