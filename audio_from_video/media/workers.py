"""Worker processes that read strangers' files, of this machine or behind a URL.

A worker fetches the remote files that it reads, so that the stage's process is no bottleneck.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel, remote
from audio_from_video.runtime.remote import Unreachable
from audio_from_video.runtime.worker import Failure

GIVE_UP_AFTER = 64  # remote files without a result, one after the other


def map_files(
    function: Callable[[Any], dict], tasks: Iterable[Any], workers: int, root: str
) -> Iterator[dict | Failure]:
    """Yield `function(task)` for each task, in their order, computed by decoding processes.

    root: `clips.root`.  A remote file that cannot be read now gives a `Failure`.  Raises
    Unreachable where GIVE_UP_AFTER in a row give one: the network may be gone, and each would wait
    for it.
    """
    is_url = remote.is_url(root)
    results = parallel.map_items(
        OrFailure(function) if is_url else function,
        tasks,
        workers,
        parallel.time_limit_s(),
        untrusted.decoding_process,
    )
    return _while_reachable(results) if is_url else results


@dataclass(frozen=True)
class OrFailure:
    """A function, but with a `Failure` as result where a remote file cannot be read now.

    A failure is not stored, so the next run tries again.
    """

    function: Callable[[Any], dict]

    def __call__(self, task: Any) -> dict | Failure:
        try:
            return self.function(task)
        except Unreachable as error:
            return Failure("unreachable", str(error))


def _while_reachable(results: Iterable[dict | Failure]) -> Iterator[dict | Failure]:
    in_a_row = 0
    for result in results:
        in_a_row = in_a_row + 1 if isinstance(result, Failure) else 0
        yield result
        if isinstance(result, Failure) and in_a_row == GIVE_UP_AFTER:
            raise Unreachable(
                f"{in_a_row} files in a row gave no result, the last one: {result.kind}: "
                f"{result.reason}; the same command goes on where this one stopped"
            )
