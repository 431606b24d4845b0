"""The feature stages with the published models' geometry (random weights, one layer): [18, 768] and [18, 128]; BLIP: test_captions.py."""

from audio_from_video.storage import shards
from benchmarks import full_size
from tests.support.closure import ROOT
from tests.support.workspace import write_clip_set


def test_vit_base_and_ast_base_give_the_published_shapes(tmp_path, monkeypatch):
    write_clip_set(
        tmp_path / "root", actions=("clapping",), training=10, validation=1
    )  # 8 x 18 steps exceed 128 components
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(ROOT)
    full_size.run(work, full_size.FEATURES, str(tmp_path / "root"), layers=1, segments="pooled")
    for modality in ("rgb", "flow"):
        assert shards.tensor_shape(work / "data/video_features" / modality, "features") == (18, 768)
        assert len(shards.ok_rows(work / "data/video_features" / modality)) == 11
    assert shards.tensor_shape(work / "data/audio_features", "features") == (18, 128)
    assert shards.tensor_shape(work / "data/audio_features", "patches") == (18, 768)
    assert shards.tensor_shape(work / "data/audio_features", "label_scores") == (527,)
