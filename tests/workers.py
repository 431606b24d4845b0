"""Functions for worker processes of tests."""

import os
import time


def square(x: int) -> int:
    return x * x


def slow_square(x: int) -> int:
    time.sleep(0.05 if x % 2 else 0.0)
    return x * x


def sleep_on_3(x: int) -> int:
    if x == 3:
        time.sleep(60)
    return x


def die_on_3(x: int) -> int:
    if x == 3:
        os._exit(7)
    return x


def raise_on_3(x: int) -> int:
    if x == 3:
        raise ValueError("three is refused")
    return x


def pid_and_threads(x: int) -> tuple[int, str]:
    time.sleep(0.02)
    return os.getpid(), os.environ.get("OMP_NUM_THREADS", "")


OFFSET = 0


def set_offset(value: int) -> None:
    global OFFSET
    OFFSET = value


def add_offset(x: int) -> int:
    return x + OFFSET
