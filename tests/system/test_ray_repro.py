"""`dvc repro` on three nodes of a Ray cluster, one of them killed, writes what one machine does."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ray_cluster import add_node, running_cluster
from tests.support.repository import Repository

pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
pytestmark = pytest.mark.slow

NODES = 3
KILLED_IN = "optical_flow"
BEFORE = ("frames",)
AFTER = ("optical_flow", "audio")
START_S = 600.0  # that a busy machine may take to start what starts in seconds


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Repository:
    """A repository after a run on this machine alone."""
    repository = Repository(tmp_path_factory.mktemp("local") / "repository", workers=2)
    repository.set("sample", training_per_action=4, test_per_action=1, unlabelled_per_action=1)
    repository.commit("fewer clips")
    repository.run("dvc", "repro", *BEFORE, *AFTER)
    return repository


@pytest.fixture
def gate(tmp_path, monkeypatch) -> Path:
    """A folder that lets the workers of a cluster that starts now be held (tests/support/hold)."""
    folder = tmp_path / "hold"
    folder.mkdir()
    monkeypatch.setenv("HOLD_FOLDER", str(folder))
    monkeypatch.setenv("HOLD_STAGE", KILLED_IN)
    hook = Path(__file__).parents[1] / "support/hold"
    monkeypatch.setenv("PYTHONPATH", str(hook))
    return folder


@pytest.fixture
def cluster(gate) -> Iterator[Any]:
    with running_cluster() as cluster:
        yield cluster


def test_a_run_whose_node_is_killed_writes_the_bytes_of_one_machine(local, cluster, gate, tmp_path):
    doomed, _ = add_node(cluster), add_node(cluster)
    repository = local.clone(tmp_path / "cluster")
    repository.run("dvc", "repro", "sample")  # the clips, before the cluster has its turn
    repository.environment |= {"ENGINE": "ray", "RAY_ADDRESS": cluster.address}
    del repository.environment["WORKERS"]
    repository.run("dvc", "repro", *BEFORE)

    # Each worker waits in the middle of this stage, until the gate is open.
    (gate / KILLED_IN).touch()
    dvc = repository.start("dvc", "repro", *AFTER)
    deadline = time.monotonic() + START_S
    while len(list(gate.iterdir())) < NODES + 1:
        assert dvc.poll() is None, "the run ended before its workers were held"
        assert time.monotonic() < deadline, "the workers did not come to be held"
        time.sleep(0.1)
    cluster.remove_node(doomed, allow_graceful=False)
    (gate / KILLED_IN).unlink()
    assert dvc.wait() == 0

    assert repository.log(KILLED_IN)["computed"] > 3 * NODES
    assert repository.hashes() == local.hashes()
    assert {"data/clips.parquet", "data/optical_flow", "data/audio"} < set(local.hashes())
    outputs = repository.files()
    assert outputs == local.files() and len(outputs) > 20
