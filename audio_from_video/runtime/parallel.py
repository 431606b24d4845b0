"""The single door to parallel work: a function over items, results in their order.

The results do not depend on the number of workers, nor on where they are.  The environment's ENGINE
says where: `local`, processes of this machine (the default), or `ray`, those of a Ray cluster
(runtime/ray_engine.py).  Each worker has a thread here that asks it, one item at a time
(runtime/worker.py).  Workers run single-threaded (`one_thread`): a sum over several threads would
be rounded differently from run to run.
"""

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from queue import SimpleQueue
from typing import Any, Protocol

from threadpoolctl import threadpool_limits

from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import (
    THREAD_VARIABLES,
    Failure,
    Worker,
    WorkerLost,
    process_context,
)

ITEMS_IN_FLIGHT = 4  # per worker: a worker never waits, and memory stays bounded
CLIP_TIME_LIMIT_S = 60
ENGINES = ("local", "ray")
LOSSES = 3  # of workers over an item, after which it fails

TimeLimit = float | Callable[[Any], float] | None  # seconds for an item

_preloaded: tuple[str, ...] = ()  # modules for the fork server, see `preload`


def default_workers() -> int:
    """Return the number of workers: the environment's WORKERS, else the cores of this process."""
    return _whole_number("WORKERS") or len(os.sched_getaffinity(0))


def time_limit_s() -> int:
    """Return the seconds after which a worker is killed over one clip.

    The environment's CLIP_TIME_LIMIT_S, else 60.
    """
    return _whole_number("CLIP_TIME_LIMIT_S") or CLIP_TIME_LIMIT_S


def _whole_number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    if not text:
        return None
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{variable}={text!r}: it must be a whole number of at least 1")
    return int(text)


def one_thread() -> None:
    """Make numeric libraries single-threaded here: sums, and so bytes, then are always the same."""
    # Libraries that are yet to be imported read these variables.
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"

    # Those that are imported are told.
    threadpool_limits(1)
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def map_items(
    function: Callable[[Any], Any],
    items: Iterable[Any],
    workers: int | None = None,
    timeout_s: TimeLimit = None,
    initializer: Callable[..., None] = one_thread,
    initargs: tuple = (),
    gpu: bool = False,
) -> Iterator[Any]:
    """Yield `function(item)` for each item, in the items' order, computed in `workers` processes.

    function: must be importable.  initializer: sets a worker up, with `initargs`.  gpu: the workers
    run a model, for which Ray gives each a share of a GPU; processes of this machine see all.
    timeout_s: of an item; a function gives each item its own.

    An item whose worker exceeds `timeout_s`, or dies twice, yields a `Failure`.  An exception that
    `function` raises is raised here; a UserError is raised where workers die while they start.
    At most ITEMS_IN_FLIGHT items per worker wait for an answer, so memory stays bounded.
    """
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:  # nothing to do: no process is started
        return

    with _team(function, initializer, initargs, gpu) as team:
        yield from _results(team, chain([first], iterator), workers or default_workers(), timeout_s)


@dataclass
class _Job:
    """An item, where its result goes, and how many workers were lost over it."""

    item: Any
    result: Future
    losses: int = 0


def _results(
    team: "Team", items: Iterable[Any], workers: int, timeout_s: TimeLimit
) -> Iterator[Any]:
    """Yield the results of a team for items; a worker more begins with each item at first."""
    at_work: list[TeamWorker] = []
    threads: list[threading.Thread] = []
    jobs = SimpleQueue[_Job | None]()

    def close() -> None:
        for worker in at_work:
            worker.stop()
            jobs.put(None)
        for thread in threads:
            thread.join()

    # A caller may end the program without having asked for all results: multiprocessing would
    # then wait for the workers.
    atexit.register(close)
    pending: deque[Future] = deque()
    try:
        for item in items:
            job = _Job(item, Future())
            pending.append(job.result)
            jobs.put(job)
            del job  # items may be large
            if len(at_work) < team.size(workers):
                worker = team.worker()
                thread = threading.Thread(
                    target=_ask_jobs, args=(worker, jobs, timeout_s), daemon=True
                )
                at_work.append(worker)
                thread.start()
                threads.append(thread)
            elif len(pending) >= ITEMS_IN_FLIGHT * len(at_work):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also after GeneratorExit and Ctrl-C: no worker outlives its run
        close()
        atexit.unregister(close)


def _ask_jobs(worker: "TeamWorker", jobs: SimpleQueue, timeout_s: TimeLimit) -> None:
    """Have a worker answer jobs until there are no more (in the worker's thread)."""
    while True:
        try:
            worker.wait_for_room()
        except CancelledError:
            return
        job = jobs.get()
        if job is None:
            break
        try:
            limit_s = timeout_s(job.item) if callable(timeout_s) else timeout_s
            job.result.set_result(worker.ask(job.item, limit_s))
        except WorkerLost as loss:
            job.losses += 1
            if job.losses < LOSSES:
                # Whoever has time takes it; this worker may have to wait for room.
                jobs.put(job)
            else:
                reason = f"{loss}, {LOSSES} times in a row"
                job.result.set_result(Failure("worker_died", reason))
        except BaseException as error:
            job.result.set_exception(error)
        del job  # items and results may be large
    worker.end()


class TeamWorker(Protocol):
    """What `map_items` asks of a worker: `worker.Worker` or `ray_engine.RayWorker`."""

    def wait_for_room(self) -> None:
        """Wait until the worker can be asked."""

    def ask(self, item: Any, timeout_s: float | None) -> Any:
        """Return the function's result for an item, or a `Failure`."""

    def stop(self) -> None:
        """Kill the worker, whatever it does."""

    def end(self) -> Any:
        """End the worker, which has nothing to do."""


class Team(Protocol):
    """What `map_items` asks of an engine."""

    def worker(self) -> TeamWorker:
        """Return a new worker."""

    def size(self, workers: int) -> int:
        """Return how many workers there may be now, where the caller asks for `workers`."""


class LocalTeam:
    """Workers that are processes of this machine."""

    def __init__(
        self, function: Callable[[Any], Any], initializer: Callable[..., None], initargs: tuple
    ):
        self._context = process_context(_preloaded)
        self._work = (function, initializer, initargs)

    def __enter__(self) -> "LocalTeam":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def worker(self) -> Worker:
        """Return a new worker."""
        return Worker(self._context, *self._work)

    def size(self, workers: int) -> int:
        """Return how many workers there may be."""
        return workers


def engine() -> str:
    """Return where workers are: the environment's ENGINE, else `local`."""
    name = os.environ.get("ENGINE") or "local"
    if name not in ENGINES:
        raise UserError(f"ENGINE={name!r}: it must be one of {', '.join(ENGINES)}")
    return name


def workers_have_gpus() -> bool:
    """Whether workers with a model get GPUs of a cluster."""
    if engine() == "local":
        return False
    from audio_from_video.runtime import ray_engine

    return ray_engine.has_gpus(default_workers())


def _team(
    function: Callable[[Any], Any], initializer: Callable[..., None], initargs: tuple, gpu: bool
) -> AbstractContextManager[Team]:
    if engine() == "local":
        return LocalTeam(function, initializer, initargs)
    # Ray is optional, and takes a second to import.
    from audio_from_video.runtime import ray_engine

    return ray_engine.RayTeam(function, initializer, initargs, gpu, default_workers())


def preload(*modules: str) -> None:
    """Name modules that the fork server is to import when it starts, so that workers start fast.

    The server starts with the first `map_items`; modules that cannot be imported are skipped.
    """
    global _preloaded
    _preloaded = modules


def start_server(*modules: str) -> None:
    """Start the fork server now, with these modules imported, unless it is running."""
    process_context(modules)
