"""What the device can do at best: bf16 matrix products, and copies to it and from it."""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.gpu_parts.measuring import Measurement, Setup, seconds_per_call

PART = "device"
PEAK = "bf16 matrix product of 8,192 x 8,192 numbers"


def measure(setup: Setup) -> None:
    """Record the peak, and the speed of copies."""
    setup.attempt(PART, PEAK, lambda: _product(setup))
    host = torch.empty(setup.count(2**28, 2**20), dtype=torch.uint8)
    pinned = host.pin_memory() if setup.device == "cuda" else host
    there = torch.empty_like(host, device=setup.device)
    copies: dict[str, Callable[[], object]] = {
        "copy to the device, pinned": lambda: there.copy_(pinned, non_blocking=True),
        "copy to the device, not pinned": lambda: there.copy_(host),
        "copy from the device, pinned": lambda: pinned.copy_(there, non_blocking=True),
    }
    for what, copy in copies.items():
        setup.attempt(PART, what, partial(_copy, setup, what, copy, len(host)))


def _product(setup: Setup) -> Measurement:
    size = setup.count(8192, 128)
    a = torch.randn(size, size, device=setup.device).bfloat16()
    b = torch.randn(size, size, device=setup.device).bfloat16()
    out = torch.empty_like(a)
    products = 20

    def multiply() -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)

    seconds = seconds_per_call(multiply, setup.device)
    return Measurement(PART, PEAK, "products", products, seconds, flops=2.0 * size**3)


def _copy(setup: Setup, what: str, copy: Callable[[], object], size: int) -> Measurement:
    return Measurement(PART, what, "GB", size / 1e9, seconds_per_call(copy, setup.device))
