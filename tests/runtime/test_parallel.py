"""The one door to processes: order, bounded look-ahead, time limits, deaths and exceptions."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver

import psutil
import pytest

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import map_items
from audio_from_video.runtime.worker import Failure, require_result
from tests.support import workers
from tests.support.closure import ROOT


def worker_processes() -> list[psutil.Process]:
    """All that this process's children started: the fork server, a child, stays for the session."""
    found = []
    for worker in [
        worker for child in psutil.Process().children() for worker in child.children(recursive=True)
    ]:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [worker] if worker.status() != psutil.STATUS_ZOMBIE else []
    return found


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    deadline = time.monotonic() + 5
    while worker_processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not worker_processes()


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order(count):
    assert list(map_items(workers.slow_square, range(20), count)) == [x * x for x in range(20)]


def test_no_items_no_results():
    assert list(map_items(workers.square, [], 2)) == []


def test_two_workers_are_two_processes_of_one_thread_each():
    found = list(map_items(workers.pid_and_threads, range(20), 2))
    assert len({pid for pid, _ in found}) == 2 and os.getpid() not in {pid for pid, _ in found}
    assert {threads for _, threads in found} == {"1"}


@pytest.mark.slow
def test_a_time_limit_kills_one_item_and_the_others_go_on():
    start = time.monotonic()
    found = list(map_items(workers.sleep_on_3, range(8), 2, timeout_s=2))
    assert found[:3] + found[4:] == [0, 1, 2, 4, 5, 6, 7]
    assert found[3] == Failure("timeout", "took more than 2 s")
    assert time.monotonic() - start < 15


def test_each_item_may_have_its_own_time_limit():
    limits_s = {3: 0.3}
    found = list(map_items(workers.sleep_on_3, range(5), 1, lambda item: limits_s.get(item, 60)))
    assert found == [0, 1, 2, Failure("timeout", "took more than 0.3 s"), 4]


def test_a_dead_worker_fails_one_item_and_the_others_go_on():
    found = list(map_items(workers.die_on_3, range(8), 1))
    assert found[:3] + found[4:] == [0, 1, 2, 4, 5, 6, 7]
    assert found[3].kind == "worker_died" and "died" in found[3].reason


def test_a_worker_killed_for_memory_once_costs_nothing(tmp_path):
    tasks = [(x, str(tmp_path / "killed")) for x in range(8)]
    assert list(map_items(workers.killed_once_on_3, tasks, 2)) == list(range(8))
    assert (tmp_path / "killed").exists()


def test_a_worker_killed_while_it_starts_costs_nothing(tmp_path):
    results = map_items(
        workers.square,
        range(8),
        1,
        initializer=workers.die_at_first_start,
        initargs=(str(tmp_path / "killed"),),
    )
    assert list(results) == [x * x for x in range(8)]
    assert (tmp_path / "killed").exists()


@pytest.mark.slow
def test_a_worker_killed_at_any_moment_of_its_life_costs_nothing():
    """Kills hit from the fork on: at other moments in each round."""
    killed: list[int] = []
    for round_ in range(20):
        results = map_items(workers.slow_square, range(6), 2)
        killer = threading.Thread(target=kill_a_worker, args=(0.002 * round_, killed))
        killer.start()
        assert list(results) == [x * x for x in range(6)]
        killer.join()
    assert len(killed) >= 10


def kill_a_worker(delay_s: float, killed: list[int]) -> None:
    deadline = time.monotonic() + 5
    while not (started := worker_processes()) and time.monotonic() < deadline:
        pass
    time.sleep(delay_s)
    for worker in started[-1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
            killed.append(worker.pid)


def test_a_worker_killed_while_it_waits_costs_no_try(tmp_path):
    def items():
        yield 0, str(tmp_path / "killed")
        while not (found := worker_processes()):
            time.sleep(0.01)
        time.sleep(0.3)  # until it has answered
        found[0].kill()
        found[0].wait(5)
        yield 3, str(tmp_path / "killed")  # dies once

    assert list(map_items(workers.killed_once_on_3, items(), 1)) == [0, 3]


def test_a_worker_killed_while_it_answers_costs_nothing(tmp_path):
    results = map_items(
        workers.die_while_answering, [(x, str(tmp_path / "killed")) for x in range(3)], 1
    )
    assert list(results) == [bytes([x]) * 1_000_000 for x in range(3)]
    assert (tmp_path / "killed").exists()


@pytest.mark.slow
def test_the_server_of_workers_killed_costs_nothing(tmp_path):
    tasks = [(x, str(tmp_path / "killed")) for x in range(8)]
    assert list(map_items(workers.kill_the_server_on_3, tasks, 2)) == list(range(8))
    assert (tmp_path / "killed").exists()


@pytest.mark.slow
def test_a_server_that_has_just_been_killed_is_replaced():
    for _ in range(3):
        assert list(map_items(workers.square, range(4), 2)) == [0, 1, 4, 9]
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)
    assert list(map_items(workers.square, range(4), 2)) == [0, 1, 4, 9]


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from audio_from_video.runtime.parallel import map_items
from tests.support import workers

def main():
    results = map_items(workers.{function}, range(20), 2)
    print(next(results))
    raise OSError("enough")

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_killed_run_leaves_no_worker_that_goes_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(root=str(ROOT), function="sleep_long")]
    )
    try:
        while not (
            found := [
                worker
                for child in psutil.Process(process.pid).children()
                for worker in child.children()
            ]
        ):
            time.sleep(0.05)
        time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    _, alive = psutil.wait_procs(found, 5)
    assert not alive


def test_an_error_ends_a_run_whose_results_were_not_all_asked_for():
    start = time.monotonic()
    script = SCRIPT.format(root=str(ROOT), function="sleep_unless_0")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (
        done.returncode == 1
        and done.stdout == "0\n"
        and done.stderr.strip().endswith("OSError: enough")
    )
    assert time.monotonic() - start < 20


def test_workers_that_cannot_start_are_no_items_fault():
    with pytest.raises(
        UserError,
        match="^worker processes died while they started, 3 times in a row: where memory is short",
    ):
        list(map_items(workers.square, range(8), 2, initializer=workers.die_at_every_start))
    with pytest.raises(ValueError, match="no model here"):
        list(map_items(workers.square, range(8), 2, initializer=workers.fail_to_start))


def test_what_cannot_be_sent_is_an_error_here():
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        list(map_items(workers.unpicklable, range(8), 1))
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        list(map_items(workers.square, [lambda: 1], 1))
    with pytest.raises(RuntimeError, match="(?s)workers.py.*Particular: this and that"):
        list(map_items(workers.raise_particular, range(8), 1))


@pytest.mark.slow
def test_a_time_limit_kills_what_the_worker_started_too(tmp_path):
    found = list(
        map_items(
            workers.start_a_sleeper,
            [str(tmp_path / "pid")],
            1,
            timeout_s=2,
            initializer=workers.import_decoders,
        )
    )
    assert found == [Failure("timeout", "took more than 2 s")]
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while (
        psutil.pid_exists(pid)
        and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_decoding_worker_cannot_take_all_memory():
    with pytest.raises(MemoryError):
        list(
            map_items(
                workers.allocate,
                [untrusted.MEMORY_BYTES // 2**20],
                1,
                initializer=untrusted.decoding_process,
            )
        )
    assert list(map_items(workers.allocate, [64], 1, initializer=untrusted.decoding_process)) == [
        64 * 2**20
    ]


def test_an_exception_is_raised_here():
    results = map_items(workers.raise_on_3, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is refused"):
        next(results)


def test_a_consumer_that_stops_early_leaves_no_process():
    results = map_items(workers.slow_square, range(1000), 2)
    assert next(results) == 0
    results.close()


def test_an_error_in_the_items_leaves_no_process():
    def items():
        yield from range(5)
        raise OSError("the input broke")

    with pytest.raises(OSError, match="input broke"):
        list(map_items(workers.square, items(), 2))


def test_items_are_taken_only_a_little_ahead():
    taken = []
    results = map_items(workers.square, (taken.append(x) or x for x in range(100)), 2)
    next(results)
    assert len(taken) <= 4 * 2 + 1
    results.close()


def test_without_items_no_process_is_started(monkeypatch):
    monkeypatch.setattr(
        parallel, "process_context", lambda modules: pytest.fail("a fork server is started")
    )
    assert list(map_items(workers.square, [], 2)) == []


PRELOADING = """
import sys
sys.path.insert(0, {root!r})
from audio_from_video.runtime import parallel
from tests.support import workers

def main():
    parallel.preload("colorsys", "no_such_module")
    print(*parallel.map_items(workers.is_imported, ["colorsys", "chunk"], 1))

if __name__ == "__main__":
    main()
"""


def test_workers_start_with_the_modules_that_the_stage_names():
    script = PRELOADING.format(root=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30
    )
    assert (done.stdout, done.returncode) == ("True False\n", 0), done.stderr


def test_a_failed_result_is_a_sentence():
    assert require_result(3, "training the generator") == 3
    with pytest.raises(UserError, match="^training the generator failed: took .* may lack memory"):
        require_result(Failure("timeout", "took too long"), "training the generator")


def test_initializer_sets_every_worker_up():
    assert list(
        map_items(workers.add_offset, range(6), 2, initializer=workers.set_offset, initargs=(100,))
    ) == [100 + x for x in range(6)]


def test_number_of_workers(monkeypatch):
    monkeypatch.setenv("WORKERS", "3")
    assert parallel.default_workers() == 3
    monkeypatch.delenv("WORKERS")
    assert parallel.default_workers() == len(os.sched_getaffinity(0))
    for wrong in ("0", "-1", "many", "1.5"):
        monkeypatch.setenv("WORKERS", wrong)
        with pytest.raises(
            UserError, match=f"WORKERS='{wrong}': it must be a whole number of at least 1"
        ):
            parallel.default_workers()


def test_engine(monkeypatch):
    monkeypatch.delenv("ENGINE", raising=False)
    assert parallel.engine() == "local" and not parallel.workers_have_gpus()
    monkeypatch.setenv("ENGINE", "slurm")
    with pytest.raises(UserError, match="ENGINE='slurm': it must be one of local, ray"):
        list(map_items(workers.square, range(8), 2))


def test_without_ray_there_is_a_sentence(monkeypatch):
    monkeypatch.setenv("ENGINE", "ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "audio_from_video.runtime.ray_engine", raising=False)
    monkeypatch.delattr("audio_from_video.runtime.ray_engine", raising=False)
    with pytest.raises(UserError, match="needs Ray: run `pip install -r requirements-ray.txt`"):
        list(map_items(workers.square, range(8), 2))


def test_time_limit_of_a_clip(monkeypatch):
    assert parallel.time_limit_s() == 60
    monkeypatch.setenv("CLIP_TIME_LIMIT_S", "5")
    assert parallel.time_limit_s() == 5
    monkeypatch.setenv("CLIP_TIME_LIMIT_S", "0.5")
    with pytest.raises(
        UserError, match="CLIP_TIME_LIMIT_S='0.5': it must be a whole number of at least 1"
    ):
        parallel.time_limit_s()
