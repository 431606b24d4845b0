"""The single door to parallel work: a function over items, results in their order.

The results do not depend on the number of workers.  Each worker process has a thread here that asks
it, one item at a time (runtime/worker.py).  Workers run single-threaded (`one_thread`): a sum over
several threads would be rounded differently from run to run.
"""

import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from queue import SimpleQueue
from typing import Any

from threadpoolctl import threadpool_limits

from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Worker

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
ITEMS_IN_FLIGHT = 4  # per worker: a worker never waits, and memory stays bounded
CLIP_TIME_LIMIT_S = 60

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
    timeout_s: float | None = None,
    initializer: Callable[..., None] = one_thread,
    initargs: tuple = (),
) -> Iterator[Any]:
    """Yield `function(item)` for each item, in the items' order, computed in `workers` processes.

    function: must be importable.  initializer: sets a worker up, with `initargs`.

    An item whose worker exceeds `timeout_s`, or dies twice, yields a `Failure`.  An exception that
    `function` raises is raised here; a UserError is raised where workers die while they start.
    At most ITEMS_IN_FLIGHT items per worker wait for an answer, so memory stays bounded.
    """
    iterator = iter(items)
    try:
        first = next(iterator)
    except StopIteration:  # nothing to do: no process is started
        return

    context = _context(_preloaded)
    count = workers or default_workers()
    team = [Worker(context, function, initializer, initargs) for _ in range(count)]
    jobs = SimpleQueue[tuple[Any, Future] | None]()
    threads = []
    for worker in team:
        thread = threading.Thread(target=_ask_jobs, args=(worker, jobs, timeout_s), daemon=True)
        threads.append(thread)

    def close() -> None:
        for worker in team:
            worker.stop()
            jobs.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()

    # A caller may end the program without having asked for all results: multiprocessing would
    # then wait for the workers.
    atexit.register(close)
    for thread in threads:
        thread.start()
    pending: deque[Future] = deque()
    try:
        for item in chain([first], iterator):
            result: Future = Future()
            pending.append(result)
            jobs.put((item, result))
            if len(pending) >= ITEMS_IN_FLIGHT * len(team):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also after GeneratorExit and Ctrl-C: no worker outlives its run
        close()
        atexit.unregister(close)


def _ask_jobs(worker: Worker, jobs: SimpleQueue, timeout_s: float | None) -> None:
    """Have a worker answer jobs until there are no more (in the worker's thread)."""
    while True:
        job = jobs.get()
        if job is None:
            break
        item, result = job
        try:
            result.set_result(worker.ask(item, timeout_s))
        except BaseException as error:
            result.set_exception(error)
        del job, item, result  # results may be large
    worker.end()


def preload(*modules: str) -> None:
    """Name modules that the fork server is to import when it starts, so that workers start fast.

    The server starts with the first `map_items`; modules that cannot be imported are skipped.
    """
    global _preloaded
    _preloaded = modules


def start_server(*modules: str) -> None:
    """Start the fork server now, with these modules imported, unless it is running."""
    _context(modules)


def _context(modules: tuple[str, ...]) -> BaseContext:
    """Return the context of a running fork server that has imported `modules`.

    Workers are forked from this server, a process without threads.  The server and its workers
    leave Ctrl-C to this process from their first moment on: that a signal is ignored is inherited.
    """
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    # runpy warns that the stage, which each worker runs as its main module, was imported before.
    os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning:runpy"

    context = multiprocessing.get_context("forkserver")
    if modules:
        context.set_forkserver_preload(list(modules))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
    return context
