"""Vision backbones against the plain Hugging Face models, and what attention within and across frames must obey."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from audio_from_video.backbones import hub
from audio_from_video.backbones.hub import revision, width_of
from audio_from_video.backbones.vision import VisionBackbone, temporal_positions
from audio_from_video.media import codecs
from audio_from_video.runtime import parallel, stage_run
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Failure
from audio_from_video.storage import shards
from stages import optical_flow, video_features
from stages.video_features import VideoFeaturesParams, encode_on_cpu, encode_on_gpu
from tests.support.map_items import with_processes, without_processes
from tests.support.shard_rows import index_row
from tests.support.tiny_backbones import images, write_ast, write_dinov2, write_resnet, write_vit


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return {
        "vit": write_vit(folder / "vit"),
        "dinov2": write_dinov2(folder / "dinov2"),
        "resnet": write_resnet(folder / "resnet"),
        "ast": write_ast(folder / "ast"),
    }


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def plain(model, pictures: list[np.ndarray]) -> np.ndarray:
    """Patch means [T, D] by the stock model and its processor's own preprocessing."""
    processor = transformers.AutoImageProcessor.from_pretrained(model)
    values = processor(
        [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures], return_tensors="pt"
    )["pixel_values"]
    stock = transformers.AutoModel.from_pretrained(model).eval()
    with torch.no_grad():
        hidden = stock(values).last_hidden_state
    return (hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, 1:].mean(1)).numpy()


def encode(model, pictures, attention="frame", temporal_scale=0.0) -> np.ndarray:
    backbone = VisionBackbone(str(model), attention, temporal_scale)
    return backbone.encode(backbone.resize(pictures)[None])[0]


@pytest.mark.parametrize("name, width", [("vit", 32), ("dinov2", 24), ("resnet", 16)])
@pytest.mark.parametrize("height, wide", [(32, 32), (48, 64), (70, 40)])
def test_per_frame_features_are_the_stock_models(models, name, width, height, wide):
    pictures = images(18, height, wide)
    features = encode(models[name], pictures)
    expected = plain(models[name], pictures)
    assert features.shape == (18, width) == expected.shape and width_of(str(models[name])) == width
    assert np.allclose(features, expected, atol=2e-5 * np.abs(expected).max())
    assert np.abs(expected - expected.mean(0)).max() > 0.05  # frames do differ


def test_red_is_red(models):
    """OpenCV's BGR reaches the model as RGB."""
    backbone = VisionBackbone(str(models["vit"]))
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 2] = 255
    for size in (32, 40):
        pixels = backbone.resize([np.resize(picture, (size, size, 3))])
        assert pixels.shape == (1, 3, 32, 32) and pixels[0].max((1, 2)).tolist() == [255, 0, 0]


def test_a_batch_of_clips_is_its_clips(models):
    backbone = VisionBackbone(str(models["vit"]), "joint", 0.5)
    clips = np.stack([backbone.resize(images(6, 32, 32, seed)) for seed in range(3)])
    assert np.allclose(
        backbone.encode(clips),
        np.concatenate([backbone.encode(clip[None]) for clip in clips]),
        atol=1e-5,
    )


ORDER = [3, 0, 5, 1, 4, 2]


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_joint_attention_sees_the_other_frames(models, name):
    pictures = images(6, 32, 32)
    frame, joint = encode(models[name], pictures), encode(models[name], pictures, "joint")
    assert joint.shape == frame.shape and np.abs(joint - frame).max() > 0.02 * np.abs(frame).max()
    other = [*pictures[:5], 255 - pictures[5]]
    assert np.allclose(encode(models[name], other)[:5], frame[:5], atol=1e-5)
    assert np.abs(encode(models[name], other, "joint")[:5] - joint[:5]).max() > 1e-3


@pytest.mark.parametrize("name", ["vit", "dinov2"])
def test_joint_attention_over_equal_frames_is_attention_within_one(models, name):
    """A softmax over n copies of the same keys spreads the same weights over them."""
    pictures = images(1, 32, 32) * 5
    assert np.allclose(
        encode(models[name], pictures, "joint"), encode(models[name], pictures), atol=1e-4
    )
    assert np.allclose(
        encode(models[name], pictures[:1], "joint"), encode(models[name], pictures[:1]), atol=1e-5
    )


@pytest.mark.parametrize("attention", ["frame", "joint"])
def test_only_temporal_positions_tell_the_order(models, attention):
    pictures = images(6, 32, 32)
    shuffled = [pictures[i] for i in ORDER]
    without = [encode(models["vit"], clip, attention) for clip in (pictures, shuffled)]
    assert np.allclose(without[1], without[0][ORDER], atol=1e-4)
    positioned = [encode(models["vit"], clip, attention, 0.5) for clip in (pictures, shuffled)]
    assert np.abs(positioned[1] - positioned[0][ORDER]).max() > 0.02
    assert np.abs(positioned[0] - without[0]).max() > 0.02


def test_temporal_positions_are_vaswanis():
    positions = temporal_positions(18, 32).numpy()
    for t, i in ((0, 0), (1, 0), (5, 3), (17, 15)):
        rate = 10_000 ** (-2 * i / 32)
        assert positions[t, 2 * i] == pytest.approx(np.sin(t * rate), abs=1e-5)
        assert positions[t, 2 * i + 1] == pytest.approx(np.cos(t * rate), abs=1e-5)
    assert temporal_positions(4, 7).shape == (4, 7)


def test_joint_needs_a_model_with_tokens(models):
    with pytest.raises(
        UserError,
        match="attention: joint needs a model of ViT's kind; '.*resnet' is ResNetModel: use frame",
    ):
        VisionBackbone(str(models["resnet"]), "joint")


@pytest.mark.parametrize(
    "name", ["google/vit-base-patch16-224", "models/tiny/nothing", "no such name!"]
)
def test_a_name_that_cannot_be_loaded_is_a_sentence_with_two_ways_out(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for function in (revision, width_of, VisionBackbone):
        with pytest.raises(UserError) as caught:
            function(name)
        message = str(caught.value)
        assert message.startswith(
            f"the model '{name}' was found neither as a local directory with a config.json nor on the Hugging Face hub ("
        )
        assert (
            message.endswith(
                "give a local model directory in params.yaml, or run once where the hub can be reached"
            )
            and "\n" not in message
        )


def damaged(models, tmp_path, fault: str) -> str:
    folder = tmp_path / "damaged"
    shutil.copytree(models["vit"], folder)
    if fault == "no weights":
        (folder / "model.safetensors").unlink()
    elif fault == "broken weights":
        (folder / "model.safetensors").write_bytes(b"abc")
    elif fault == "other shapes":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    elif fault == "missing layer":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    elif fault == "broken config":
        (folder / "config.json").write_text("{")
    else:
        (folder / "preprocessor_config.json").unlink()
    return str(folder)


FAULTS = {
    "no weights": "cannot be loaded as a vision model",
    "broken weights": "cannot be loaded as a vision model",
    "other shapes": "shapes that its config.json names",
    "missing layer": "it has no weights for .*2",
    "broken config": "not a valid JSON",
    "no processor": "cannot be loaded as an image processor",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_directory_is_a_sentence(models, tmp_path, fault):
    with pytest.raises(UserError, match=FAULTS[fault]) as caught:
        VisionBackbone(damaged(models, tmp_path, fault))
    assert "\n" not in str(caught.value)


def test_a_model_for_sound_is_no_vision_model(models):
    with pytest.raises(UserError, match="cannot be loaded as an image processor"):
        VisionBackbone(str(models["ast"]))


def test_a_model_of_two_encoders_is_a_sentence(tmp_path):
    transformers.CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="CLIPConfig.* names no hidden size"):
        width_of(str(tmp_path))


def test_revision_follows_the_weights_not_the_place(models, tmp_path):
    copied = shutil.copytree(models["vit"], tmp_path / "copy")
    assert revision(str(copied)) == revision(str(models["vit"]))
    assert revision(str(write_vit(tmp_path / "other", seed=9))) != revision(str(models["vit"]))


def parameters(model, **changes) -> VideoFeaturesParams:
    return VideoFeaturesParams(
        **{
            "model": str(model),
            "attention": "frame",
            "temporal_scale": 0.0,
            "clips_per_batch": 4,
            **changes,
        }
    )


def jpegs(seed: int, count: int = 6) -> list[bytes]:
    return [codecs.encode_jpeg(picture, 95) for picture in images(count, 40, 56, seed)]


def test_batches_of_a_device_give_the_clips_in_order(models, in_process, monkeypatch):
    """encode_on_gpu's batching, run on the CPU: 10 clips in batches of 4, of which one fails."""
    clips, p = [jpegs(seed) for seed in range(10)], parameters(models["vit"])
    alone = [row["features"] for row in encode_on_cpu(iter(clips), p, 1)]
    assert np.allclose(
        alone, [row["features"] for row in encode_on_gpu(iter(clips), p, 1)], atol=1e-4
    )

    def failing(*words, **named):
        for i, row in enumerate(without_processes(*words, **named)):
            yield Failure("timeout", "too slow") if i in (5, 9) else row

    monkeypatch.setattr(parallel, "map_items", failing)
    rows = list(encode_on_gpu(iter(clips), p, 1))
    assert [i for i, row in enumerate(rows) if isinstance(row, Failure)] == [5, 9]
    assert all(
        np.allclose(row["features"], alone[i], atol=1e-4)
        for i, row in enumerate(rows)
        if i not in (5, 9)
    )


def test_stage_writes_features_per_clip_whatever_the_workers(workspace, models, monkeypatch):
    clips = [
        index_row(f"a/s{i}_1", "training" if i < 3 else "test", jpegs=jpegs(i, 18))
        for i in range(4)
    ]
    clips.sort(key=lambda row: (row["split"], row["clip_id"]))
    for source in video_features.INPUTS.values():
        shards.write(source, optical_flow.COLUMNS, clips, clips, "v")
    workspace.set(video_features={"model": str(models["vit"])})
    written = []
    for workers, map_items in ((2, with_processes), (1, without_processes)):
        monkeypatch.setenv("ITEM_STORE", str(workspace.folder / f"items{workers}"))
        monkeypatch.setattr(parallel, "map_items", map_items)
        video_features.main(stage_run.StageRun("video_features", "flow", workers))
        written.append(
            {
                path.name: path.read_bytes()
                for path in (workspace.folder / "data/video_features/flow").rglob("*.parquet")
            }
        )
    assert written[0] == written[1]
    found = shards.read_columns("data/video_features/flow", ["features"])
    assert found["features"].shape == (4, 18, 32) and found["features"].dtype == np.float16
    expected = plain(models["vit"], [codecs.decode_jpeg(jpeg) for jpeg in clips[0]["jpegs"]])
    assert np.allclose(found["features"][0], expected, atol=4e-3)
    assert json.loads((workspace.folder / "metrics/video_features/flow.json").read_text())[
        "shape"
    ] == {"steps": 18, "width": 32}
    workspace.set(video_features={"temporal_scale": 0.5})
    video_features.main(stage := stage_run.StageRun("video_features", "flow", 1))
    assert stage.log["computed"] == 4  # another parameter, other items
    workspace.set(video_features={"temporal_scale": 0.0, "clips_per_batch": 7})
    video_features.main(stage := stage_run.StageRun("video_features", "flow", 1))
    assert stage.log["computed"] == 0


def test_device_is_the_environments(monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda:3")
    assert hub.device() == "cuda:3"
    monkeypatch.delenv("DEVICE")
    assert hub.device() == ("cuda" if torch.cuda.is_available() else "cpu")
