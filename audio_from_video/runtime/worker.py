"""A worker process that may be killed at any moment without harm to anybody else's work.

It has a pipe of its own.  Pools whose processes share a queue break, or wait forever, where one of
them is killed while it starts or while it holds the queue's lock: the kernel may do that whenever
memory is short.
"""

import copy
import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from multiprocessing.reduction import ForkingPickler
from traceback import format_exc
from typing import Any

from audio_from_video.runtime.errors import UserError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# Before each try to start a worker: a fork server that is dying refuses for a moment.
PAUSES_S = (0.0, 0.1, 1.0)
TRIES = 2  # of an item: a worker's death is perhaps not the item's fault
# What the pipe raises where a process died; OSError where it died within a message.
DIED = (EOFError, OSError)


@dataclass(frozen=True)
class Failure:
    """What stands in an item's place when its worker gave no result."""

    kind: str  # 'timeout', 'worker_died' or, of a file on another machine, 'unreachable'
    reason: str


class WorkerLost(Exception):
    """A worker went away with its machine: its item is no reason, another worker may take it."""


def require_result(result: Any, work: str) -> Any:
    """Return a worker's result; raise UserError where it is a `Failure`.

    work: what the worker did, as the beginning of a sentence ("training the generator").
    """
    if isinstance(result, Failure):
        raise work_failed(work, result.reason)
    return result


def work_failed(work: str, reason: str) -> UserError:
    """Return the error for work that a worker did not finish; memory is the usual reason."""
    return UserError(
        f"{work} failed: {reason}; the machine may lack memory, try --workers 1 (or WORKERS=1)"
    )


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends (Linux).

    No orphan then goes on working.
    """
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def process_context(modules: tuple[str, ...]) -> BaseContext:
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


class Worker:
    """A process that is started when it is first asked, and anew after its death.

    context: multiprocessing's, with a fork server.  The process calls `initializer(*initargs)`
    once and then `function` for each item.
    """

    # multiprocessing's own list of processes is not made for threads.
    _processes = threading.RLock()

    def __init__(
        self,
        context: BaseContext,
        function: Callable[[Any], Any],
        initializer: Callable[..., None],
        initargs: tuple,
    ):
        self._context = context
        self._work = (function, initializer, initargs)
        self._process: Any = None
        self._stopped = False

    def wait_for_room(self) -> None:
        """Return at once: there is always room for a process on this machine."""

    def ask(self, item: Any, timeout_s: float | None) -> Any:
        """Return the function's result for an item, or a `Failure`."""
        died_meanwhile = self._process is not None and self._pipe.poll()
        if died_meanwhile:
            self.end()
        for _ in range(TRIES):
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
            return unpacked(answer)
        return Failure("worker_died", f"its worker process died (exit code {exit_code})")

    def _start(self) -> None:
        for pause_s in PAUSES_S:
            time.sleep(pause_s)
            if not self._fork():
                continue
            try:
                ready = self._pipe.recv()
            except DIED:
                self.end()
                continue
            unpacked(ready)  # or raise what the initializer raised
            return
        raise UserError(
            f"worker processes died while they started, {len(PAUSES_S)} times in a row: "
            "where memory is short, set the environment's WORKERS to fewer"
        )

    def _fork(self) -> bool:
        """Start a process; return whether the fork server did so."""
        with self._processes:
            if self._stopped:
                raise CancelledError
            self._pipe, theirs = self._context.Pipe()
            arguments = (theirs, *self._work)
            process = self._context.Process(  # type: ignore[attr-defined]
                target=_serve, args=arguments, daemon=True
            )
            try:
                process.start()
            except DIED:
                return False
            finally:
                theirs.close()
            self._process = process
            return True

    def stop(self) -> None:
        """Kill the process, whatever it does, and start none again.

        A thread that waits for it in `ask` then finds the pipe closed.
        """
        with self._processes:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def end(self) -> int | None:
        """Forget the process, which is dying or has nothing to do.

        Returns its exit code, negative for a signal, or None where there is no process.
        """
        with self._processes:
            if self._process is None:
                return None
            self._pipe.close()
            self._process.join(1)
            self._process.kill()  # if it hangs even then
            self._process.join()
            exit_code = self._process.exitcode
            self._process = None
            return exit_code


def _serve(
    pipe: Any, function: Callable, initializer: Callable[..., None], initargs: tuple
) -> None:
    """Say when this process is ready, then answer items until the pipe is closed (in a worker)."""
    die_with_parent()
    # The fork server ends with the stage once nobody else holds this file, and multiprocessing
    # hands it to workers as well.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    # Ctrl-C is for the stage to handle, whoever started its server.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send_bytes(answer_bytes(initializer, *initargs))
    while True:
        try:
            item = pipe.recv()
        except EOFError:
            return
        pipe.send_bytes(answer_bytes(function, item))
        del item  # it may be large


def answer_bytes(function: Callable, *arguments: Any) -> bytes:
    """Return, pickled, whether the function succeeded, and its result or exception."""
    try:
        return bytes(ForkingPickler.dumps((True, function(*arguments))))
    except Exception as error:
        error.add_note(f"in a worker process:\n{format_exc()}")
        answer = (False, error if _travels(error) else RuntimeError(format_exc()))
        return bytes(ForkingPickler.dumps(answer))


def _travels(error: Exception) -> bool:
    """Whether an exception can be pickled and made again from that."""
    try:
        ForkingPickler.dumps(error)
        copy.copy(error)
        return True
    except Exception:
        return False


def unpacked(answer: tuple[bool, Any]) -> Any:
    """Return the result that an answer holds, or raise its exception."""
    succeeded, value = answer
    if succeeded:
        return value
    try:
        raise value
    finally:
        # The exception knows this frame: a circle, which would keep the caller's things for long.
        del answer, value
