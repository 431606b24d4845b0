"""Batches for a GPU: items come one by one from workers and are computed together."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from audio_from_video.runtime.worker import Failure


def results_in_batches(
    items: Iterable[Any],
    compute: Callable[[list[Any]], Iterable[Any]],
    size_of: Callable[[Any], int],
    batch_size: int,
) -> Iterator[Any]:
    """Yield the result of each item, in the items' order; a Failure among them is its own result.

    compute: items of a batch -> their results.  A batch is full as soon as the sizes of its items
    (`size_of`, in frames or clips) add up to `batch_size` or more.
    """
    batch: list[Any] = []
    filled = 0
    for item in items:
        batch.append(item)
        if not isinstance(item, Failure):
            filled += size_of(item)
        if filled >= batch_size:
            yield from _results(batch, compute)
            batch = []
            filled = 0
    yield from _results(batch, compute)


def _results(batch: list[Any], compute: Callable[[list[Any]], Iterable[Any]]) -> Iterator[Any]:
    good = [item for item in batch if not isinstance(item, Failure)]
    results = iter(compute(good) if good else [])
    for item in batch:
        yield item if isinstance(item, Failure) else next(results)
