"""Workers on the machines of a Ray cluster, behind `parallel.map_items` (ENGINE=ray).

Each worker is an actor that starts a process of its own on its machine (runtime/worker.py), so that
time limits, limits of memory and deaths are the same as without Ray.  Items and results pass as
bytes that only the stage and that process unpickle.  Workers open clips and models by path: the
repository, its virtual environment and the clips lie on a file system that all machines share.

The environment's RAY_ADDRESS names the cluster (`ray start`); without it a cluster of this machine
is started.  GPU_SHARE is the part of a GPU that a worker with a model takes.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from multiprocessing import spawn
from multiprocessing.reduction import ForkingPickler
from types import ModuleType
from typing import Any

from audio_from_video.runtime import kernels
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.worker import (
    Failure,
    Worker,
    WorkerLost,
    answer_bytes,
    process_context,
    unpacked,
)

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to Ray's makers
try:
    import ray
    from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError
except ImportError:
    raise UserError("ENGINE=ray needs Ray: run `pip install -r requirements-ray.txt`") from None

# What Ray raises where an actor, or the large result that it had given, went with its machine.
LOST = (RayActorError, ObjectLostError, OutOfMemoryError)
# What workers read from the environment of the stage.
VARIABLES = (
    *kernels.CAPS,
    "DEVICE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
    "ITEM_STORE",
    "PARAMS_FILE",
    "XDG_CACHE_HOME",
)
STARTS = 3  # of a worker: a machine may go away while it starts
GPU_SHARE = 0.25
ANSWER_S = 10.0  # that a cluster has to answer
COUNTED_EVERY_S = 2.0  # the cluster's cores and GPUs

_teams = 0  # that are at work; see RayTeam


def connect(cores: int) -> None:
    """Connect to the cluster, or start one of this machine's cores; once in a process."""
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if address:
        _require_answer(address)
    else:
        options = {
            "address": "local",
            "num_cpus": cores,
            "include_dashboard": False,
        }
    try:
        ray.init(logging_level=logging.WARNING, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address or "local", error) from None


def _require_answer(address: str) -> None:
    """Raise UserError where nobody answers at "host:port": Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except OSError as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    cause = str(error).splitlines()[0]
    return UserError(f"no Ray cluster at RAY_ADDRESS={address} ({cause}): see docs/cluster.md")


class RayTeam:
    """Workers for one `map_items`, as a context manager.

    function, initializer, initargs: see `map_items`.  gpu: each takes a share of a GPU, where the
    cluster has any.  cores: of this machine, where no cluster is named.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        initializer: Callable[..., None],
        initargs: tuple,
        gpu: bool,
        cores: int,
    ):
        connect(cores)
        main_module = spawn.get_preparation_data("worker")
        del main_module["authkey"]  # a secret of this process
        self._setup = bytes(ForkingPickler.dumps((function, initializer, initargs)))
        self._main_module = main_module
        self._gpu_share = _gpu_share() if gpu and _resource("GPU") else 0.0
        self._counted_s = 0.0
        self._room = 0

    def __enter__(self) -> "RayTeam":
        global _teams
        # A team that feeds another one holds the cluster's cores: the other one goes between.
        self._cores = 0 if _teams else 1
        _teams += 1
        return self

    def __exit__(self, *_: object) -> None:
        global _teams
        _teams -= 1

    def worker(self) -> "RayWorker":
        """Return a new worker; it starts when the cluster has room."""
        options = {
            "num_cpus": self._cores,
            "num_gpus": self._gpu_share,
            "scheduling_strategy": "DEFAULT" if self._cores else "SPREAD",
        }
        environment = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        if not self._gpu_share:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        return RayWorker(options, (self._main_module, self._setup, environment, os.getcwd()))

    def size(self, workers: int) -> int:
        """Return how many workers there may be now.

        They are as many as the cluster has cores, those of machines that joined included, or room
        on its GPUs; or `workers`, where the environment's WORKERS says how many.
        """
        if os.environ.get("WORKERS"):
            return workers
        if time.monotonic() - self._counted_s > COUNTED_EVERY_S:
            self._room = int(_resource("CPU"))
            if self._gpu_share:
                self._room = min(self._room, int(_resource("GPU") / self._gpu_share))
            self._counted_s = time.monotonic()
        return max(self._room, 1)


def has_gpus(cores: int) -> bool:
    """Whether the cluster has GPUs for workers; cores: see `connect`."""
    connect(cores)
    return _resource("GPU") > 0


def _resource(name: str) -> float:
    return ray.cluster_resources().get(name, 0.0)


def _gpu_share() -> float:
    text = os.environ.get("GPU_SHARE", str(GPU_SHARE))
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"GPU_SHARE={text!r}: it must be a number above 0 and at most 1")
    return share


class RayWorker:
    """A worker on some machine of the cluster, and another one after its machine went away."""

    def __init__(self, options: dict[str, Any], arguments: tuple):
        self._options = options
        self._arguments = arguments
        self._actor: Any = None
        self._trouble: UserError | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def wait_for_room(self) -> None:
        """Wait until the worker has a place on a machine; raise CancelledError once stopped."""
        if self._actor is not None or self._trouble is not None:
            return
        for _ in range(STARTS):
            with self._lock:
                if self._stopped:
                    raise CancelledError
                self._actor = ray.remote(Host).options(**self._options).remote(*self._arguments)
            try:
                ray.get(self._actor.ready.remote())
                return
            except LOST as error:
                self._actor = None
                cause = str(error).strip().splitlines()[-1].strip()
        if self._stopped:
            raise CancelledError
        self._trouble = UserError(
            f"a worker could not start on the Ray cluster, {STARTS} times in a row ({cause}); "
            "docs/cluster.md says what its machines must share"
        )

    def ask(self, item: Any, timeout_s: float | None) -> Any:
        """Return the function's result for an item, or a `Failure`.

        timeout_s: from when the worker is set up.  Raises WorkerLost where its machine went away.
        """
        if self._trouble is not None:
            raise self._trouble
        try:
            answer = ray.get(self._actor.ask.remote(bytes(ForkingPickler.dumps(item)), timeout_s))
        except LOST as error:
            self.end()  # perhaps it only cannot be reached
            self._actor = None
            raise WorkerLost("its machine went away") from error
        if isinstance(answer, Failure):
            return answer
        return unpacked(ForkingPickler.loads(answer))

    def stop(self) -> None:
        """Kill the worker, whatever it does, and start none again."""
        with self._lock:
            self._stopped = True
            self.end()

    def end(self) -> None:
        """Kill the worker, which has nothing to do."""
        actor = self._actor
        if actor is not None:
            ray.kill(actor)


class Host:
    """The actor of a worker: it passes items to a process of its own on its machine."""

    def __init__(self, main_module: dict, setup: bytes, environment: dict[str, str], folder: str):
        os.environ.update(environment)
        os.chdir(folder)
        # Ray's own main module is none of the process's business.
        sys.modules["__main__"] = ModuleType("__main__")
        context = process_context(())
        self._worker = Worker(context, run_item, set_up, (main_module, setup))

    def ready(self) -> None:
        """Answer once the actor has its place."""

    def ask(self, item: bytes, timeout_s: float | None) -> bytes | Failure:
        """Return the pickled answer to a pickled item, or a `Failure`."""
        try:
            return self._worker.ask(item, timeout_s)
        except Exception as error:
            # Of the initializer, or of a process that cannot start.
            return bytes(ForkingPickler.dumps((False, error)))


_function: Callable[[Any], Any]  # of a worker's process; `set_up` sets it


def set_up(main_module: dict, setup: bytes) -> None:
    """Import the stage as the main module, as multiprocessing does, and call the initializer."""
    global _function
    spawn.prepare(main_module)
    _function, initializer, initargs = ForkingPickler.loads(setup)
    initializer(*initargs)


def run_item(item: bytes) -> bytes:
    """Return the pickled answer of the function to a pickled item (in a worker's process)."""
    return answer_bytes(lambda: _function(ForkingPickler.loads(item)))
