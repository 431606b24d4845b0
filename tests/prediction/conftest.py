"""A bundle of random weights, and a video of a second with sound."""

from pathlib import Path

import pytest

from tests.support.media_files import sine, write_video
from tests.support.tiny_bundle import write_bundle


@pytest.fixture(scope="session")
def whole_bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "bundle")


@pytest.fixture
def clip(tmp_path) -> Path:
    return write_video(tmp_path / "clip.mp4", 24, "24", "-c:a", "aac", sound=sine(300, 1, -12))


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
