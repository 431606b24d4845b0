"""The single door to parallel work: run a function over items, results in order, whatever the number of workers.

Processes come from pebble, because it alone kills the worker of an item that exceeds its time and survives the death of
a worker.  Workers run single-threaded (`worker_setup`), so that results do not depend on how many there are.
"""
import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import forkserver
from typing import Any

from pebble import ProcessExpired, ProcessPool
from threadpoolctl import threadpool_limits

from stages.common.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Failure:
    """What stands in an item's place when its worker gave no result."""

    kind: str  # 'timeout' or 'worker_died'
    reason: str


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


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends: no orphan goes on working (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _start(initializer: Callable[..., None], *arguments: Any) -> None:
    die_with_parent()
    initializer(*arguments)


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
    that `function` raises is raised here.  At most four items per worker are in flight, so memory stays bounded.
    """
    items = iter(items)
    if not (first := list(islice(items, 1))):  # nothing to do: no process is started
        return
    workers = workers or default_workers()
    pending: deque = deque()
    with ProcessPool(workers, initializer=_start, initargs=(initializer, *initargs), context=_context()) as pool:

        def start(item: Any) -> Any:
            return pool.schedule(function, args=[item], timeout=timeout_s)

        def next_result() -> Any:
            future, item = pending.popleft()
            result = _result(future, timeout_s)
            if isinstance(result, Failure) and result.kind == "worker_died":  # perhaps not by this item's fault: killed for memory
                result = _result(start(item), timeout_s)
            return result

        try:
            _start_workers(pool)
            for item in chain(first, items):
                pending.append((start(item), item))
                if len(pending) >= 4 * workers:
                    yield next_result()
            while pending:
                yield next_result()
        except BaseException:  # also GeneratorExit and Ctrl-C: no worker may outlive its run
            pool.stop()
            pool.join()
            raise


def _start_workers(pool: ProcessPool) -> None:
    """Have the pool start its processes; Ctrl-C waits until it knows them all, or one would outlive it."""
    caught: list[tuple] = []
    handler = signal.signal(signal.SIGINT, lambda *arguments: caught.append(arguments))
    try:
        if not pool.active:  # asking starts it
            raise RuntimeError("the pool of processes did not start")
    finally:
        signal.signal(signal.SIGINT, handler)
    if caught and callable(handler):
        handler(*caught[0])


def _result(future, timeout_s):
    try:
        return future.result()
    except TimeoutError:
        return Failure("timeout", f"took more than {timeout_s:g} s")
    except (ProcessExpired, CancelledError) as error:
        return Failure("worker_died", f"its worker process died ({error})")


def start_server(*modules: str) -> None:
    """Start the fork server with these modules imported, unless it is running."""
    _context(modules)


def _context(modules: tuple[str, ...] = ()):
    """A fork server that has `modules`, else the running stage, imported: workers start fast and from a process without
    threads.  It and they leave Ctrl-C to this process from their first moment on: being ignored is inherited."""
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore::RuntimeWarning:runpy"  # it warns that the stage was imported beforehand
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
