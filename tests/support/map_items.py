"""`parallel.map_items` with processes, whatever a fixture has put in its place, and without.

Worker processes take seconds to import PyTorch. `in_process` of tests/conftest.py does without.
The limit of memory that decoding processes have would stay with the tests' own, and is not set.
"""

from collections.abc import Callable, Iterable, Iterator

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel

with_processes = parallel.map_items


def without_processes(
    function: Callable,
    items: Iterable,
    workers: int | None = None,
    timeout_s: float | None = None,
    initializer: Callable | None = None,
    initargs: tuple = (),
    gpu: bool = False,
) -> Iterator:
    """Yield `function` of each item, computed here; an exception ends it."""
    if initializer and initializer is not untrusted.decoding_process:
        initializer(*initargs)
    return map(function, items)
