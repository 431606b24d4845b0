"""ENGINE=ray keeps the contract of `map_items` on a cluster of three nodes, one of them killed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import map_items
from audio_from_video.runtime.worker import Failure
from tests.support import workers
from tests.support.closure import ROOT
from tests.support.ray_cluster import add_node, running_cluster
from tests.support.repository import hear_ctrl_c

REASON = "Ray is not installed: pip install -r requirements-ray.txt"
ray = pytest.importorskip("ray", reason=REASON)
pytestmark = pytest.mark.slow  # a cluster takes seconds to start


@pytest.fixture(scope="module")
def cluster():
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def engine(cluster, monkeypatch):
    monkeypatch.setenv("ENGINE", "ray")
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.delenv("WORKERS", raising=False)


def wait_for_free_cores(count: int) -> None:
    """Wait until no worker holds a core; fail where one stays."""
    from audio_from_video.runtime.ray_engine import connect

    connect(count)
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != count and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == count


def test_a_node_killed_in_the_middle_loses_nothing_and_a_node_added_is_used(cluster):
    doomed, second = add_node(cluster), add_node(cluster)
    results = map_items(workers.raylet_and_item, range(300), timeout_s=30)
    found = []
    for result in results:
        found.append(result)
        if len({raylet for raylet, _ in found}) == 3 and doomed:
            cluster.remove_node(doomed, allow_graceful=False)
            doomed = None
            third = add_node(cluster)
            before = {raylet for raylet, _ in found}
    assert doomed is None
    assert [item for _, item in found] == list(range(300))
    assert {raylet for raylet, _ in found} - before - {0}, "the new node was not used"
    for node in (second, third):
        cluster.remove_node(node)


def test_large_results_of_a_killed_node_are_computed_again(cluster):
    doomed = add_node(cluster)
    found = []
    for result in map_items(workers.large_after_a_while, range(120)):
        found.append(result)
        if len(found) == 40:
            cluster.remove_node(doomed, allow_graceful=False)
    assert found == [bytes([x]) * 1_000_000 for x in range(120)]


def test_no_items_no_results():
    assert list(map_items(workers.square, [], 2)) == []


def test_failures_are_those_of_the_items_alone(tmp_path, cluster):
    found = list(map_items(workers.sleep_on_3, range(6), timeout_s=3))
    assert found == [0, 1, 2, Failure("timeout", "took more than 3 s"), 4, 5]
    found = list(map_items(workers.die_on_3, range(6)))
    assert found[:3] + found[4:] == [0, 1, 2, 4, 5]
    assert found[3].kind == "worker_died" and "exit code 7" in found[3].reason
    tasks = [(x, str(tmp_path / "killed")) for x in range(6)]
    assert list(map_items(workers.killed_once_on_3, tasks)) == list(range(6))


def test_exceptions_are_raised_here():
    results = map_items(workers.raise_on_3, range(100))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is refused"):
        next(results)
    with pytest.raises(ValueError, match="no model here"):
        list(map_items(workers.square, range(3), initializer=workers.fail_to_start))
    with pytest.raises(RuntimeError, match="Particular: this and that"):
        list(map_items(workers.raise_particular, range(3)))


def test_the_initializer_sets_every_worker_up():
    found = map_items(workers.add_offset, range(4), initializer=workers.set_offset, initargs=(100,))
    assert list(found) == [100, 101, 102, 103]


def test_a_decoding_worker_cannot_take_all_memory():
    size = untrusted.MEMORY_BYTES // 2**20
    with pytest.raises(MemoryError):
        list(map_items(workers.allocate, [size], initializer=untrusted.decoding_process))


def test_items_are_taken_only_a_little_ahead_and_nothing_is_left():
    taken = []
    results = map_items(workers.square, (taken.append(x) or x for x in range(100)))
    next(results)
    assert len(taken) <= 4 * 1 + 1
    results.close()
    wait_for_free_cores(1)


CTRL_C = """
from audio_from_video.runtime.parallel import map_items
from tests.support import workers

if __name__ == "__main__":
    results = map_items(workers.sleep_unless_0, range(20))
    print(next(results), flush=True)
    next(results)
"""


def test_ctrl_c_ends_a_run_and_its_workers():
    process = subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert errors.strip().endswith("KeyboardInterrupt")
    wait_for_free_cores(1)


def test_a_team_that_feeds_another_one_does_not_block_it():
    squares = map_items(workers.square, range(6))
    assert list(map_items(workers.square, squares)) == [x**4 for x in range(6)]


def test_workers_with_a_model_share_gpus(cluster, monkeypatch):
    assert not parallel.workers_have_gpus()
    assert list(map_items(workers.visible_gpus, range(2), gpu=True)) == ["", ""]
    node = add_node(cluster, num_cpus=2, num_gpus=1)
    monkeypatch.setenv("GPU_SHARE", "0.5")
    assert parallel.workers_have_gpus()
    assert list(map_items(workers.visible_gpus, range(8), gpu=True)) == ["0"] * 8
    assert set(map_items(workers.visible_gpus, range(8))) == {""}
    monkeypatch.setenv("GPU_SHARE", "2")
    with pytest.raises(UserError, match="GPU_SHARE='2': it must be a number above 0 and at most 1"):
        list(map_items(workers.visible_gpus, range(8), gpu=True))
    cluster.remove_node(node)


def test_a_folder_that_is_not_shared_is_a_sentence(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(os, "getcwd", lambda: str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="could not start on the Ray cluster.*must share"):
        list(map_items(workers.square, range(3)))


def test_an_unknown_cluster_is_a_sentence():
    script = "from audio_from_video.runtime.ray_engine import connect; connect(1)"
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1", "ENGINE": "ray"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120
    )
    assert "UserError: no Ray cluster at RAY_ADDRESS=127.0.0.1:1" in done.stderr
