"""The stage video_features: batches of a device, and the same bytes whatever the workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from audio_from_video.media import codecs
from audio_from_video.media.optical_flow import draw_clip
from audio_from_video.media.settings import OpticalFlowParams
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.storage import layout, shards
from stages import optical_flow, video_features
from stages.video_features import VideoFeaturesParams, encode_in_workers, encode_on_gpu
from tests.support.map_items import with_processes, without_processes
from tests.support.shard_rows import index_row
from tests.support.stock_vision import stock_features
from tests.support.tiny_backbones import images, write_vit


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    return write_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def jpegs(seed: int, count: int = 6, side: int = 40, width: int = 56) -> list[bytes]:
    return [codecs.encode_jpeg(picture, 95) for picture in images(count, side, width, seed)]


def test_batches_of_a_device_give_the_clips_in_order(vit, in_process):
    """The batching for a GPU, run on the CPU: 10 clips of two sizes in batches of 4."""
    clips = [jpegs(seed, side=40 if seed % 3 else 48) for seed in range(10)]
    p = VideoFeaturesParams(
        model=str(vit), attention="frame", temporal_scale=0.0, clips_per_batch=4
    )
    alone = [row["features"] for row in encode_in_workers(iter(clips), p, 1)]
    batched = [row["features"] for row in encode_on_gpu(iter(clips), p, 1)]
    assert np.allclose(alone, batched, atol=1e-4)


def test_one_model_is_on_the_device(vit, monkeypatch):
    """What decodes beside it loads none."""
    loaded = []

    class Observed(video_features.VisionBackbone):
        def __init__(self, name, attention, temporal_scale):
            loaded.append(name)
            super().__init__(name, attention, temporal_scale)

    monkeypatch.setattr(video_features, "VisionBackbone", Observed)
    p = VideoFeaturesParams(
        model=str(vit), attention="frame", temporal_scale=0.0, clips_per_batch=2
    )
    monkeypatch.setenv("DEVICE", "cpu:0")
    assert len(list(encode_on_gpu(iter([jpegs(0)]), p, 2))) == 1
    assert loaded == [str(vit)]


@pytest.mark.parametrize("scale", [8.0, "auto"])
@pytest.mark.slow
def test_flow_that_is_not_stored_gives_the_same_features(workspace, vit, in_process, scale):
    clips = [index_row("a/x_1", "test", jpegs=jpegs(0, 18, 160, 200))]
    clips += [index_row(f"a/y_{i}", "training", jpegs=jpegs(i, 18, 160, 200)) for i in (1, 2)]
    shards.write(layout.FRAMES, optical_flow.COLUMNS, clips, clips, "v")
    workspace.set(video_features={"model": str(vit)})

    features = {}
    flow_bytes = {}
    for store in ("full", "thumbnails"):
        workspace.set(optical_flow={"store": store, "full_scale_px": scale})
        optical_flow.main(stage_run.StageRun("optical_flow", "", 1))
        stage = stage_run.StageRun("video_features", "flow", 1)
        video_features.main(stage)
        assert stage.log["computed"] == 3
        features[store] = shard_bytes(layout.FLOW_FEATURES)
        flow_bytes[store] = sum(map(len, shard_bytes(layout.OPTICAL_FLOW).values()))
    assert features["full"] == features["thumbnails"]
    assert flow_bytes["thumbnails"] < 0.3 * flow_bytes["full"]


def shard_bytes(output: Path) -> dict[str, bytes]:
    """Return the content of an output's shards by name."""
    return {str(path): path.read_bytes() for path in output.rglob("part-*.parquet")}


def test_a_device_draws_the_flow_that_workers_draw(vit, in_process):
    clips = [jpegs(seed) for seed in range(3)]
    p = VideoFeaturesParams(
        model=str(vit), attention="frame", temporal_scale=0.0, clips_per_batch=2
    )
    settings = yaml.safe_load(Path("params.yaml").read_text())["optical_flow"]
    flow = OpticalFlowParams(**settings).drawing()
    drawn = [draw_clip((clip, flow))["jpegs"] for clip in clips]
    expected = [row["features"] for row in encode_in_workers(iter(drawn), p, 1)]
    in_workers = [row["features"] for row in encode_in_workers(iter(clips), p, 1, flow)]
    on_device = [row["features"] for row in encode_on_gpu(iter(clips), p, 1, flow)]
    assert np.array_equal(in_workers, expected)
    assert np.allclose(on_device, expected, atol=1e-4)


@pytest.mark.slow
def test_stage_writes_features_per_clip_whatever_the_workers(workspace, vit, monkeypatch):
    clips = []
    for i in range(4):
        split = "training" if i < 3 else "test"
        clips.append(index_row(f"a/s{i}_1", split, jpegs=jpegs(i, 18)))
    clips.sort(key=lambda row: (row["split"], row["clip_id"]))
    for source in video_features.INPUTS.values():
        shards.write(source, optical_flow.COLUMNS, clips, clips, "v")
    workspace.set(video_features={"model": str(vit)})

    def run(workers: int = 1) -> stage_run.StageRun:
        stage = stage_run.StageRun("video_features", "flow", workers)
        video_features.main(stage)
        return stage

    written = []
    for workers, map_items in ((2, with_processes), (1, without_processes)):
        monkeypatch.setenv("ITEM_STORE", str(workspace.folder / f"items{workers}"))
        monkeypatch.setattr(parallel, "map_items", map_items)
        run(workers)
        paths = layout.FLOW_FEATURES.rglob("*.parquet")
        written.append({path.name: path.read_bytes() for path in paths})
    assert written[0] == written[1]

    features = shards.read_columns(layout.FLOW_FEATURES, ["features"])["features"]
    assert features.shape == (4, 18, 32)
    assert features.dtype == np.float16
    expected = stock_features(vit, [codecs.decode_jpeg(jpeg) for jpeg in clips[0]["jpegs"]])
    assert np.allclose(features[0], expected, atol=4e-3)
    metrics = json.loads(Path("metrics/video_features/flow.json").read_text())
    assert metrics["shape"] == {"steps": 18, "width": 32}

    workspace.set(video_features={"temporal_scale": 0.5})
    assert run().log["computed"] == 4  # another parameter, other items
    workspace.set(video_features={"temporal_scale": 0.0, "clips_per_batch": 7})
    assert run().log["computed"] == 0
