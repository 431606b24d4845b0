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


def killed_once_on_3(task: tuple[int, str]) -> int:
    """Dies as by the kernel's choice when memory is short, the first time."""
    x, marker = task
    if x == 3 and not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), 9)
    return x


def start_a_sleeper(marker: str) -> None:
    """Starts ffmpeg on something endless, as a hanging decoder would, and notes its number."""
    import subprocess

    from stages.common.media import _decoder_child
    from tests.media_files import FFMPEG

    command = [FFMPEG, "-nostdin", "-loglevel", "quiet", "-re", "-f", "lavfi", "-i", "anullsrc", "-t", "300", "-f", "null", "-"]
    process = subprocess.Popen(command, preexec_fn=_decoder_child)
    with open(marker, "w") as file:
        file.write(str(process.pid))
    process.wait()


def allocate(mebibytes: int) -> int:
    """Fill memory."""
    return len(bytearray(mebibytes * 2**20))
