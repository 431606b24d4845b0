"""A worker process that may be killed at any moment without harm to anybody else's work.

It has a pipe of its own.  Pools whose processes share a queue break or wait forever where one is killed while it starts, or while
it holds the queue's lock: the kernel may do that whenever memory is short.
"""

import copy
import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.reduction import ForkingPickler
from traceback import format_exc
from typing import Any

from audio_from_video.runtime.errors import UserError

PAUSES_S = (
    0.0,
    0.1,
    1.0,
)  # before each try to start a worker: a fork server that is dying refuses for a moment
DIED = (EOFError, OSError)  # what the pipe says where a process died; OSError: within a message


@dataclass(frozen=True)
class Failure:
    """What stands in an item's place when its worker gave no result."""

    kind: str  # 'timeout' or 'worker_died'
    reason: str


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, however that ends: no orphan goes on working (Linux)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Worker:
    """A process that is started when it is first asked, and anew after its death."""

    _processes = (
        threading.RLock()
    )  # multiprocessing's own list of processes is not made for threads

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
                process = self._context.Process(
                    target=_serve, args=(theirs, *self._work), daemon=True
                )
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


def _serve(
    pipe: Any, function: Callable, initializer: Callable[..., None], initargs: tuple
) -> None:
    """What a worker does: it says when it is ready, then answers items until the pipe is closed."""
    die_with_parent()
    # The server, its parent, ends with the stage once nobody else holds this file; multiprocessing hands it to workers, too.
    os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # it leaves Ctrl-C to its stage, whoever started its server
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
        del (
            answer,
            value,
        )  # the exception knows this frame: a circle, which would keep the caller's things for long
