"""The feature stages with models of the published sizes, of random weights: [18, 768] and [18, 128]."""
import os
import shutil

from benchmarks import full_size
from stages.common import shards
from tests.closure import ROOT
from tests.conftest import write_clip_set


def test_vit_base_and_ast_base_give_the_published_shapes(tmp_path, monkeypatch):
    write_clip_set(tmp_path / "root", actions=("clapping", "knocking"), training=4, validation=1)
