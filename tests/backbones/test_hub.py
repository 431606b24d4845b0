"""Models by name: where they are found, what is wrong with them, and where they run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from audio_from_video.backbones import hub
from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.backbones.hub import revision, width_of
from audio_from_video.backbones.vision import VisionBackbone
from audio_from_video.runtime.errors import UserError
from tests.support.tiny_backbones import images, write_vit

pytestmark = pytest.mark.usefixtures("on_cpu")


@pytest.mark.parametrize(
    "name", ["google/vit-base-patch16-224", "models/tiny/nothing", "no such name!"]
)
@pytest.mark.parametrize("function", [revision, width_of, VisionBackbone])
def test_a_name_that_cannot_be_loaded_is_a_sentence_with_two_ways_out(
    name, function, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as caught:
        function(name)
    message = str(caught.value)
    assert message.startswith(
        f"the model '{name}' was found neither as a local directory with a config.json "
        "nor on the Hugging Face hub ("
    )
    assert message.endswith(
        "give a local model directory in params.yaml, or run once where the hub can be reached"
    )
    assert "\n" not in message


def change_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def damage(folder: Path, fault: str) -> None:
    match fault:
        case "no weights":
            (folder / "model.safetensors").unlink()
        case "broken weights":
            (folder / "model.safetensors").write_bytes(b"abc")
        case "other shapes":
            change_config(folder, hidden_size=64)
        case "missing layer":
            change_config(folder, num_hidden_layers=3)
        case "broken config":
            (folder / "config.json").write_text("{")
        case "no processor":
            (folder / "preprocessor_config.json").unlink()


FAULTS = {
    "no weights": "cannot be loaded as a vision model",
    "broken weights": "cannot be loaded as a vision model",
    "other shapes": "shapes that its config.json names",
    "missing layer": "it has no weights for .*2",
    "broken config": "not a valid JSON",
    "no processor": "has no preprocessor config",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_directory_is_a_sentence(models, tmp_path, fault):
    folder = shutil.copytree(models["vit"], tmp_path / "damaged")
    damage(folder, fault)
    with pytest.raises(UserError, match=FAULTS[fault]) as caught:
        VisionBackbone(str(folder))
    assert "\n" not in str(caught.value)


def test_the_width_of_a_model_of_two_encoders_is_its_vision_towers(tmp_path):
    transformers.CLIPConfig(vision_config={"hidden_size": 48}).save_pretrained(tmp_path)
    assert width_of(str(tmp_path)) == 48


def test_a_model_without_a_width_is_a_sentence(tmp_path):
    transformers.EfficientNetConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="EfficientNetConfig.* names no hidden size"):
        width_of(str(tmp_path))


def test_revision_follows_the_weights_not_the_place(models, tmp_path):
    copied = shutil.copytree(models["vit"], tmp_path / "copy")
    assert revision(str(copied)) == revision(str(models["vit"]))
    assert revision(str(write_vit(tmp_path / "other", seed=9))) != revision(str(models["vit"]))


def test_the_environment_decides_where_models_run(monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda:3")
    assert hub.device() == "cuda:3"
    monkeypatch.delenv("DEVICE")
    assert hub.device() == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_argument_goes_before_the_environment(models, monkeypatch):
    monkeypatch.setenv("DEVICE", "cuda:3")
    assert VisionBackbone(str(models["vit"]), device="cpu").device == "cpu"
    assert AstBackbone(str(models["ast"]), "cpu").model.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_checkpoints_in_half_precision_are_run_in_float32(tmp_path, dtype):
    full = write_vit(tmp_path / "full")
    half = tmp_path / "half"
    shutil.copytree(full, half)
    transformers.ViTModel.from_pretrained(full).to(dtype).save_pretrained(half)
    assert json.loads((half / "config.json").read_text())["dtype"] != "float32"

    pictures = images(4, 32, 32)
    features = []
    for folder in (full, half):
        backbone = VisionBackbone(str(folder))
        features.append(backbone.encode(backbone.fit(np.stack(pictures))[None])[0])
    assert features[1].dtype == features[0].dtype
    assert np.allclose(features[1], features[0], atol=0.05 * np.abs(features[0]).max())
    assert not np.array_equal(features[1], features[0])
