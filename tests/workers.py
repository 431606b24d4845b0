"""Functions for worker processes of tests."""

import os
import threading
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
    if x == 3 and first_time(marker):
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


def first_time(marker: str) -> bool:
    """Whether no process was here before."""
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
    """Is killed, the first time, about when the first bytes of a long answer are on their way."""
    x, marker = task
    if first_time(marker):
        threading.Timer(0.02, os.kill, (os.getpid(), 9)).start()
    return bytes([x]) * 300_000_000


def kill_the_server_on_3(task: tuple[int, str]) -> int:
    """Kills, the first time, the process that all workers come from."""
    x, marker = task
    if x == 3 and first_time(marker):
        os.kill(os.getppid(), 9)
        time.sleep(60)
    return x


def unpicklable(x: int):
    return lambda: x
