"""Batches for a GPU: items come one by one and are computed together."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from audio_from_video.runtime.worker import Failure

if TYPE_CHECKING:
    import torch

BATCHES_AHEAD = 2  # whose items are prepared while the device computes


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


def results_of_device(
    items: Iterable[Any],
    prepare: Callable[[Any], Any],
    start: Callable[[list[Any]], Callable[[], Iterable[Any]]],
    batch_size: int,
    threads: int,
) -> Iterator[Any]:
    """Yield the result of each item, in the items' order, while a device computes the next batch.

    prepare: an item -> what `start` takes; it runs in `threads` threads and should be work of
    libraries that let other threads run, such as decoding.  start: gives the device the prepared
    items of a batch and returns at once, with a function that waits for their results.
    """
    with ThreadPoolExecutor(threads) as pool:
        prepared = _prepared_ahead(pool, prepare, items, BATCHES_AHEAD * batch_size)
        under_way: Callable[[], Iterable[Any]] | None = None
        while batch := list(islice(prepared, batch_size)):
            results = under_way
            under_way = start(batch)
            # The device has work while these are waited for and used.
            if results:
                yield from results()
        if under_way:
            yield from under_way()


def _prepared_ahead(
    pool: ThreadPoolExecutor, prepare: Callable[[Any], Any], items: Iterable[Any], ahead: int
) -> Iterator[Any]:
    """Yield the prepared items in order, of which up to `ahead` are in work or wait."""
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(prepare, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class Copies:
    """Copies to a device and back that go on beside its computing; on CPU there is none to make.

    They need memory on the host that stays in its place (pinned), and a stream of their own.
    """

    def __init__(self, device: str):
        import torch

        self.device = device
        self._on_gpu = device.startswith("cuda")
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None

    def host_tensor(self, arrays: list[np.ndarray]) -> "torch.Tensor":
        """Return arrays of equal shape as one tensor [n, ...] on the host, from which copies start.

        It may be called from any thread.
        """
        import torch

        shape = (len(arrays), *arrays[0].shape)
        kind = torch.from_numpy(arrays[0]).dtype
        tensor = torch.empty(shape, dtype=kind, pin_memory=self._on_gpu)
        np.stack(arrays, out=tensor.numpy())
        return tensor

    def to_device(self, parts: list["torch.Tensor"]) -> "torch.Tensor":
        """Return host tensors of equal shape as one on the device [n, ...], for what comes next."""
        import torch

        if self._stream is None:
            return torch.stack(parts)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._stream):
            shape = (len(parts), *parts[0].shape)
            there = torch.empty(shape, dtype=parts[0].dtype, device=self.device)
            for row, part in zip(there, parts, strict=True):
                row.copy_(part, non_blocking=True)
        computing.wait_stream(self._stream)
        there.record_stream(computing)
        return there

    def to_host(self, values: "torch.Tensor") -> Callable[[], Any]:
        """Start to copy a tensor back; return a function that waits for it and gives an array."""
        import torch

        here = values.to("cpu", non_blocking=True)
        done = torch.cuda.Event() if self._on_gpu else None
        if done:
            done.record()

        def wait() -> Any:
            if done:
                done.synchronize()
            return here.numpy()

        return wait
