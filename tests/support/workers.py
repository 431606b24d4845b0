"""Functions for worker processes of tests."""

import os
import sys
import time
from multiprocessing.connection import Connection


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
    """Die the first time, as by the kernel's choice when memory is short."""
    x, marker = task
    if x == 3 and first_time(marker):
        os.kill(os.getpid(), 9)
    return x


def import_decoders() -> None:
    import audio_from_video.media.untrusted  # noqa: F401
    import tests.support.media_files  # noqa: F401


def start_a_sleeper(marker: str) -> None:
    """Start ffmpeg on something endless, as a hanging decoder would, and note its number."""
    import subprocess

    from audio_from_video.runtime.worker import die_with_parent
    from tests.support.media_files import FFMPEG

    endless = ("-re", "-f", "lavfi", "-i", "anullsrc", "-t", "300")
    command = [FFMPEG, "-nostdin", "-loglevel", "quiet", *endless, "-f", "null", "-"]
    process = subprocess.Popen(command, preexec_fn=die_with_parent)
    with open(marker, "w") as file:
        file.write(str(process.pid))
    process.wait()


def allocate(mebibytes: int) -> int:
    """Fill memory; return how many bytes."""
    return len(bytearray(mebibytes * 2**20))


def first_time(marker: str) -> bool:
    """Return whether no process was here before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        return True
    except FileExistsError:
        return False


def die_at_first_start(marker: str) -> None:
    if first_time(marker):
        os.kill(os.getpid(), 9)


def die_at_every_start() -> None:
    os._exit(7)


def fail_to_start() -> None:
    raise ValueError("no model here")


def die_while_answering(task: tuple[int, str]) -> bytes:
    """Be killed, the first time, when half of a long answer is on its way."""
    x, marker = task
    if first_time(marker):

        def send_half(connection: Connection, data: memoryview) -> None:
            os.write(connection.fileno(), data[: len(data) // 2])
            os.kill(os.getpid(), 9)

        Connection._send = send_half
    return bytes([x]) * 1_000_000


def kill_the_server_on_3(task: tuple[int, str]) -> int:
    """Kill, the first time, the process that all workers come from."""
    x, marker = task
    if x == 3 and first_time(marker):
        os.kill(os.getppid(), 9)
        time.sleep(60)
    return x


def unpicklable(x: int):
    return lambda: x


class Particular(Exception):
    """An exception that cannot be unpickled, as its constructor takes two things."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def raise_particular(x: int) -> None:
    raise Particular("this", "that")


def sleep_long(x: int) -> None:
    time.sleep(60)


def sleep_unless_0(x: int) -> int:
    time.sleep(60 if x else 0)
    return x


def is_imported(name: str) -> bool:
    return name in sys.modules


def raylet_and_item(x: int) -> tuple[int, int]:
    """Return the process of Ray that this worker's machine has one of, and the item.

    The process is 0 where it was killed a moment ago.
    """
    import psutil

    time.sleep(0.1)
    raylets = (p.pid for p in psutil.Process().parents() if p.name() == "raylet")
    return next(raylets, 0), x


def visible_gpus(x: int) -> str | None:
    time.sleep(0.1)
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def large_after_a_while(x: int) -> bytes:
    """Return more than Ray sends along with its messages: it stays on the worker's machine."""
    time.sleep(0.05)
    return bytes([x % 256]) * 1_000_000
