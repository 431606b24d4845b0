"""A root that grows: new clips alone are computed, and the outputs are those of a run from scratch."""
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import write_clip_set
from tests.repository import Repository

STAGES = ("clips", "frames", "optical_flow", "audio", "video_features rgb", "video_features flow", "audio_features")
OUTPUTS = ("clips.parquet", "frames", "optical_flow", "audio", "video_features/rgb", "video_features/flow", "audio_features")


def run_all(repository: Repository, store: Path) -> dict[str, bytes]:
    """The stages that work clip by clip, and what they wrote."""
    for stage in STAGES:
        command = [sys.executable, "-m", *f"stages.{stage}".split()]
        environment = repository.environment | {"ITEM_STORE": str(store)}
        done = subprocess.run(command, cwd=repository.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return {path: data for path, data in repository.files().items() if path.startswith(tuple(f"data/{name}" for name in OUTPUTS))}


@pytest.fixture
def repository(tmp_path) -> Repository:
    repository = Repository(tmp_path / "repository", workers=2)
    write_clip_set(repository.folder / "data/sample", training=8, validation=4)
    return repository


def test_five_new_clips_compute_five_items_and_equal_a_run_from_scratch(repository, tmp_path):
    files = sorted((repository.folder / "data/sample/training").rglob("*.mp4"))
    added = {path: tmp_path / path.name for path in files[::3][:5]}
    for path, aside in added.items():
        path.rename(aside)
    run_all(repository, tmp_path / "grown")
    for path, aside in added.items():
        aside.rename(path)
    grown = run_all(repository, tmp_path / "grown")
    for stage in STAGES[:-1]:
        assert repository.log(stage.replace(" ", "/"))["computed"] == 5, stage
    index = pq.read_table(repository.folder / "data/audio/_index.parquet").to_pylist()
    audible = {row["clip_id"] for row in index if row["status"] == "ok"}
    new = {f"{path.parent.name}/{path.stem}" for path in added}
    assert repository.log("audio_features")["computed"] == len(new & audible) > 0
    assert len(grown) > len(OUTPUTS) and run_all(repository, tmp_path / "scratch") == grown
