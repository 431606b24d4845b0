"""The single door to parallel work: run a function over items, results in order, whatever the number of workers.

Each worker process has a thread here that asks it, one item at a time (common/worker.py).  Workers run single-threaded
(`one_thread`), so that results do not depend on how many there are.
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
from itertools import chain, islice
from multiprocessing import forkserver
from queue import SimpleQueue
from typing import Any

from threadpoolctl import threadpool_limits

from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import Worker

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def default_workers() -> int:
    """Number of workers: the environment's WORKERS, else the cores this process may use."""
    return _whole_number("WORKERS") or len(os.sched_getaffinity(0))


def time_limit_s() -> int:
    """Seconds that a worker may take for a clip before it is killed: the environment's CLIP_TIME_LIMIT_S, else 60."""
    return _whole_number("CLIP_TIME_LIMIT_S") or 60


def _whole_number(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    if text and (not text.isdigit() or int(text) < 1):
        raise UserError(f"{variable}={text!r}: it must be a whole number of at least 1")
    return int(text) if text else None


def one_thread() -> None:
    """Make numeric libraries single-threaded in this process: sums, and so bytes, then stay the same everywhere."""
    for name in THREAD_VARIABLES:  # for libraries yet to be imported
        os.environ[name] = "1"
    threadpool_limits(1)  # for those that are
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

    `function` must be importable.  An item whose worker exceeds `timeout_s`, or dies twice, yields a `Failure`; an exception
    that `function` raises is raised here, and a `UserError` where workers die while they start.  At most four items per worker
    are in flight, so memory stays bounded.
    """
    items = iter(items)
    if not (first := list(islice(items, 1))):  # nothing to do: no process is started
        return
    context, jobs = _context(), SimpleQueue[tuple[Any, Future] | None]()
    team = [
        Worker(context, function, initializer, initargs)
        for _ in range(workers or default_workers())
    ]
    threads = [
        threading.Thread(target=_work, args=(worker, jobs, timeout_s), daemon=True)
        for worker in team
    ]

    def close() -> None:
        for worker in team:
            worker.stop()
            jobs.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()

    atexit.register(
        close
    )  # for who ends without having asked for all results: multiprocessing would wait for them
    for thread in threads:
        thread.start()
    pending: deque[Future] = deque()
    try:
        for item in chain(first, items):
            pending.append(Future())
            jobs.put((item, pending[-1]))
            if len(pending) >= 4 * len(team):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:  # also after GeneratorExit and Ctrl-C: no worker outlives its run
        close()
        atexit.unregister(close)


def _work(worker: Worker, jobs: SimpleQueue, timeout_s: float | None) -> None:
    """What a worker's thread does: it has the worker answer jobs until there are no more."""
    while (job := jobs.get()) is not None:
        item, answer = job
        try:
            answer.set_result(worker.ask(item, timeout_s))
        except BaseException as error:
            answer.set_exception(error)
        del job, item, answer  # results may be large
    worker.end()


def start_server(*modules: str) -> None:
    """Start the fork server with these modules imported, unless it is running."""
    _context(modules)


def _context(modules: tuple[str, ...] = ()):
    """A fork server that has `modules`, else the running stage, imported: workers start fast and from a process without
    threads.  It and they leave Ctrl-C to this process from their first moment on: being ignored is inherited."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    os.environ["PYTHONWARNINGS"] = (
        "ignore::RuntimeWarning:runpy"  # it warns that the stage was imported beforehand
    )
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not modules and spec is not None and spec.name.startswith("stages."):
        modules = (spec.name,)
    context = multiprocessing.get_context("forkserver")
    if modules:
        context.set_forkserver_preload(list(modules))
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, handler)
    return context
