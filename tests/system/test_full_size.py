"""The feature stages with the published models' geometry: random weights, one layer.

BLIP's is in tests/test_captions.py.
"""

from pathlib import Path

import pytest

from audio_from_video.storage import shards
from benchmarks import full_size
from tests.support.closure import ROOT
from tests.support.workspace import write_clip_set


@pytest.mark.slow
def test_vit_base_and_ast_base_give_the_published_shapes(tmp_path, monkeypatch):
    # 8 training clips x 18 steps exceed 128 components.
    write_clip_set(tmp_path / "root", training=5, validation=1)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(ROOT)
    settings = full_size.Settings(root=str(tmp_path / "root"), layers=1, segments="pooled")
    full_size.run(work, full_size.FEATURES, settings)
    # There, as the repository may hold outputs of another data set, with which these do not go.
    monkeypatch.chdir(work)
    for modality in ("rgb", "flow"):
        directory = Path("data/video_features") / modality
        assert shards.tensor_shape(directory, "features") == (18, 768)
        assert len(shards.ok_rows(directory)) == 12
    directory = Path("data/audio_features")
    assert shards.tensor_shape(directory, "features") == (18, 128)
    assert shards.tensor_shape(directory, "patches") == (18, 768)
    assert shards.tensor_shape(directory, "label_scores") == (527,)
