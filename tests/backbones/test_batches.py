"""Batches for a device: results in the items' order, failures in their places."""

from audio_from_video.backbones.batches import results_in_batches
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
