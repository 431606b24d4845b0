"""Batches for a device: results in the items' order, failures in their places."""

import threading

import numpy as np
import pytest
import torch

from audio_from_video.backbones.batches import (
    BATCHES_AHEAD,
    Copies,
    results_in_batches,
    results_of_device,
)
from audio_from_video.runtime.worker import Failure

FAILED = Failure("timeout", "too slow")


def run(items: list, batch_size: int) -> tuple[list, list[list]]:
    """Return the results of items whose size is their value, and the batches that were computed."""
    batches: list[list] = []

    def compute(batch: list[int]) -> list[str]:
        batches.append(batch)
        return [f"result {item}" for item in batch]

    results = list(results_in_batches(iter(items), compute, lambda item: item, batch_size))
    return results, batches


def test_a_batch_is_full_when_its_sizes_add_up():
    results, batches = run([1, 2, 3, 1, 5, 1], batch_size=3)
    assert batches == [[1, 2], [3], [1, 5], [1]]
    assert results == [f"result {item}" for item in [1, 2, 3, 1, 5, 1]]


def test_failures_keep_their_places_and_fill_no_batch():
    results, batches = run([FAILED, 1, FAILED, 1, 1, FAILED], batch_size=2)
    assert batches == [[1, 1], [1]]
    assert results == [FAILED, "result 1", FAILED, "result 1", "result 1", FAILED]


def test_nothing_is_computed_of_nothing():
    assert run([], batch_size=2) == ([], [])
    assert run([FAILED], batch_size=2) == ([FAILED], [])


class Device:
    """Doubles numbers; it notes the order of what it is asked for."""

    def __init__(self):
        self.calls: list[tuple[str, list[int]]] = []

    def start(self, batch: list[int]):
        self.calls.append(("start", batch))

        def wait() -> list[int]:
            self.calls.append(("wait", batch))
            return [2 * item for item in batch]

        return wait


def test_a_device_has_the_next_batch_before_results_are_waited_for():
    device = Device()
    results = list(results_of_device(range(5), lambda item: item + 10, device.start, 2, 3))
    assert results == [20, 22, 24, 26, 28]
    first, second, third = [10, 11], [12, 13], [14]
    assert device.calls == [
        ("start", first),
        ("start", second),
        ("wait", first),
        ("start", third),
        ("wait", second),
        ("wait", third),
    ]


def test_items_are_prepared_in_threads_and_not_too_far_ahead():
    taken = []
    threads = set()

    def items():
        for item in range(100):
            taken.append(item)
            yield item

    def prepare(item: int) -> int:
        threads.add(threading.get_ident())
        return item

    results = results_of_device(items(), prepare, Device().start, 2, 3)
    assert next(results) == 0
    # Two batches are on the device.
    assert len(taken) <= (BATCHES_AHEAD + 2) * 2
    assert threading.get_ident() not in threads
    results.close()
    assert len(taken) <= (BATCHES_AHEAD + 2) * 2


def test_what_fails_while_it_is_prepared_is_raised():
    def prepare(item: int) -> float:
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        list(results_of_device([1, 0, 1], prepare, Device().start, 1, 2))


def test_copies_of_a_cpu_are_the_values_themselves():
    copies = Copies("cpu")
    parts = [np.full((2, 3), value, np.uint8) for value in (1, 2)]
    there = copies.to_device([copies.host_tensor(list(part)) for part in parts])
    assert torch.equal(there, torch.tensor(np.stack(parts)))
    assert np.array_equal(copies.to_host(there)(), np.stack(parts))
