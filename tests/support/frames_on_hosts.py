"""The stage's side of a run on two hosts: frames of clips, until both hosts have given some.

    python -m tests.support.frames_on_hosts ROOT FOLDER CLIP ...

ROOT: where workers read the clips, a folder or a URL.  FOLDER: a folder with the clips, into which
each worker looks.  Prints what `frames_and_host` returns, as a JSON list.
"""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import psutil
import yaml

from audio_from_video.clipset import roots
from audio_from_video.media.frames import extract
from audio_from_video.media.settings import FramesParams
from audio_from_video.runtime.digests import digest
from audio_from_video.runtime.parallel import map_items
from tests.support.closure import ROOT

HOSTS = 2
PATIENCE_S = 240.0

Task = tuple[str, str, str]  # where clips are read, a folder that is looked into, a clip's name
Answer = tuple[str, str, str, bool]


def frames_and_host(task: Task) -> Answer:
    """Return a clip's name, the digest of its frames, this host's address, and what it sees.

    That is whether the folder of the task has the clip.
    """
    root, folder, name = task
    p = FramesParams(**yaml.safe_load((ROOT / "params.yaml").read_text())["frames"])
    row = extract((roots.place(root, name), None, p))
    jpegs = [jpeg.hex() for jpeg in row["jpegs"]]
    frames = digest(row["status"], row["reason"], jpegs, row["times_s"].tolist())
    return name, frames, own_address(), Path(folder, name).exists()


def own_address() -> str:
    """Return the address of this host's first device that leads to others; "" without one."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family == socket.AF_INET and not found.address.startswith("127."):
                return found.address
    return ""


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is met, PATIENCE_S at most."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)


def main() -> None:
    # Only this process needs it: tests import the module for its function.
    import ray

    from audio_from_video.runtime.ray_engine import connect

    root, folder, *names = sys.argv[1:]
    connect(1)
    wait_until(lambda: len(ray.nodes()) == HOSTS)
    answers: list[Answer] = []

    def tasks() -> Iterator[Task]:
        deadline = time.monotonic() + PATIENCE_S
        for name in cycle(names):
            hosts = {address for _, _, address, _ in answers}
            is_whole = len(answers) >= len(names) and len(hosts) == HOSTS
            if is_whole or time.monotonic() > deadline:
                return
            yield root, folder, name

    for answer in map_items(frames_and_host, tasks()):
        answers.append(answer)
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
