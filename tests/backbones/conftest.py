"""Tiny models of random weights, and no way to the hub."""

from pathlib import Path

import pytest

from tests.support.tiny_backbones import (
    write_ast,
    write_blip,
    write_dinov2,
    write_resnet,
    write_vit,
)


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> dict[str, Path]:
    """Folders of models by kind."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "vit": write_vit(folder / "vit"),
        "dinov2": write_dinov2(folder / "dinov2"),
        "resnet": write_resnet(folder / "resnet"),
        "ast": write_ast(folder / "ast"),
        "blip": write_blip(folder / "blip"),
    }


@pytest.fixture
def on_cpu(monkeypatch) -> None:
    """Models run on CPU, and the hub cannot be reached."""
    monkeypatch.setenv("DEVICE", "cpu")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
