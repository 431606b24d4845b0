"""The single door to parallel work: run a function over items, results in order, whatever the number of workers.

Each worker process has a pipe of its own and a thread here that asks it, one item at a time.  Pools whose processes share a
queue break or wait forever where one is killed while it starts, or while it holds the queue's lock: the kernel may do that
whenever memory is short.  Workers run single-threaded (`one_thread`), so that results do not depend on how many there are.
"""
import atexit
import copy
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from traceback import format_exc
from typing import Any

from threadpoolctl import threadpool_limits

from stages.common.errors import UserError

PAUSES_S = (0.0, 0.1, 1.0)  # before each try to start a worker: a fork server that is dying refuses for a moment
DIED = (EOFError, OSError)  # what the pipe says where a process died; OSError: within a message

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
    team = [_Worker(context, function, initializer, initargs) for _ in range(workers or default_workers())]
    threads = [threading.Thread(target=_work, args=(worker, jobs, timeout_s), daemon=True) for worker in team]

    def close() -> None:
        for worker in team:
            worker.stop()
            jobs.put(None)
        for thread in threads:
            if thread.is_alive():
                thread.join()

    atexit.register(close)  # for who ends without having asked for all results: multiprocessing would wait for them
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


def _work(worker: "_Worker", jobs: SimpleQueue, timeout_s: float | None) -> None:
    """What a worker's thread does: it has the worker answer jobs until there are no more."""
    while (job := jobs.get()) is not None:
        item, answer = job
        try:
            answer.set_result(worker.ask(item, timeout_s))
        except BaseException as error:
            answer.set_exception(error)
        del job, item, answer  # results may be large
    worker.end()


class _Worker:
    """A process that is started when it is first asked, and anew after its death."""

    _processes = threading.RLock()  # multiprocessing's own list of processes is not made for threads

    def __init__(self, context: Any, *work: Any):
        self._context, self._work = context, work
        self._process: Any = None
        self._stopped = False

    def ask(self, item: Any, timeout_s: float | None) -> Any:
        """The function's result, or a `Failure`.  A death is perhaps not this item's fault, so it gets a second try."""
        if self._process is not None and self._pipe.poll():  # it died since it was asked last
            self.end()
        for _ in range(2):
            if self._process is None:
                self._start()
            try:
                self._pipe.send(item)
                if not self._pipe.poll(timeout_s):
                    self._process.kill()
                    self.end()
                    return Failure("timeout", f"took more than {timeout_s:g} s")
                answer = self._pipe.recv()
            except DIED:
                exit_code = self.end()
                continue
            return _unpacked(answer)
        return Failure("worker_died", f"its worker process died (exit code {exit_code})")

    def _start(self) -> None:
        for pause_s in PAUSES_S:
            time.sleep(pause_s)
            with self._processes:
                if self._stopped:
                    raise CancelledError
                self._pipe, theirs = self._context.Pipe()
                process = self._context.Process(target=_serve, args=(theirs, *self._work), daemon=True)
                try:
                    process.start()
                    self._process = process
                except DIED:
                    continue
                finally:
                    theirs.close()
            try:
                ready = self._pipe.recv()
            except DIED:
                self.end()
                continue
            _unpacked(ready)  # or raise what the initializer raised
            return
        raise UserError(
            f"worker processes died while they started, {len(PAUSES_S)} times in a row: where memory is short, set the environment's "
            "WORKERS to fewer"
        )

    def stop(self) -> None:
        """Kill the process, whatever it does, and start none again; its thread then finds the pipe closed."""
        with self._processes:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> int | None:
        """Forget the process, which is dying or has nothing to do; its exit code, negative for a signal."""
        with self._processes:
            if self._process is None:
                return None
            self._pipe.close()
            self._process.join(1)
            self._process.kill()  # if it hangs even then
            self._process.join()
            exit_code, self._process = self._process.exitcode, None
            return exit_code


def _serve(pipe: Any, function: Callable, initializer: Callable[..., None], initargs: tuple) -> None:
    """What a worker does: it says when it is ready, then answers items until the pipe is closed."""
    die_with_parent()
    # The server, its parent, ends with the stage once nobody else holds this file; multiprocessing hands it to workers, too.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it leaves Ctrl-C to its stage
    _answer(pipe, initializer, *initargs)
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        _answer(pipe, function, item)


def _answer(pipe: Any, function: Callable, *arguments: Any) -> None:
    """Send whether the function succeeded, and its result or exception."""
    try:
        pipe.send((True, function(*arguments)))
    except Exception as error:
        error.add_note(f"in a worker process:\n{format_exc()}")
        pipe.send((False, error if _travels(error) else RuntimeError(format_exc())))


def _travels(error: Exception) -> bool:
    """Whether an exception can be pickled and made again from that."""
    try:
        ForkingPickler.dumps(error)
        copy.copy(error)
        return True
    except Exception:
        return False


def _unpacked(answer: tuple[bool, Any]) -> Any:
    succeeded, value = answer
    if succeeded:
        return value
    try:
        raise value
    finally:
        del answer, value  # the exception knows this frame: a circle, which would keep the caller's things for long


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
