"""Fixtures of a tiny AST and of features as the label predictor has them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audio_from_video.backbones.audio_ast import AstBackbone
from audio_from_video.learning.features import Features
from audio_from_video.runtime import vocabulary
from audio_from_video.storage.row_file import scratch
from tests.support import synthetic
from tests.support.tiny_backbones import write_ast


@pytest.fixture(scope="session")
def ast(tmp_path_factory) -> Path:
    """The folder of a tiny AST of random weights."""
    return write_ast(tmp_path_factory.mktemp("models") / "ast", **synthetic.AST)


@pytest.fixture
def backbone(ast) -> AstBackbone:
    return AstBackbone(str(ast), "cpu")


@pytest.fixture
def features(workspace) -> Iterator[Features]:
    """Synthetic features of clips of all splits."""
    synthetic.write_data(synthetic.make_clips())
    with scratch() as folder:
        yield Features(folder, vocabulary.SPLITS)
