"""Hold a stage's workers in the middle of their work for as long as a file exists.

Python imports a module of this name whenever it starts; `Repository.hold` puts this folder on
PYTHONPATH. Tests so kill at a known moment of a stage, and not after so many seconds, of which
a busy machine needs more.

The environment's HOLD_FOLDER holds an empty file by the name of the stage. A worker that has sent
HOLD_AFTER answers writes `<stage>.<pid>` beside it and waits until the first file is gone.
"""

import os
import sys
import time
from pathlib import Path

HOLD_AFTER = 3  # answers of a worker, of which the first says that it is ready


def hold_this_worker() -> None:
    """Make this process wait before its next answer, once it has sent HOLD_AFTER of them."""
    from multiprocessing.connection import Connection

    folder = Path(os.environ["HOLD_FOLDER"])
    stage = os.environ["HOLD_STAGE"]
    send = Connection.send_bytes
    answers = 0

    def send_or_wait(self, message) -> None:
        nonlocal answers
        if answers == HOLD_AFTER and (folder / stage).exists():
            (folder / f"{stage}.{os.getpid()}").touch()
            while (folder / stage).exists():
                time.sleep(0.01)
        answers += 1
        send(self, message)

    Connection.send_bytes = send_or_wait  # type: ignore[method-assign]


if "HOLD_FOLDER" in os.environ:
    command = sys.orig_argv
    if command[1:2] == ["-m"]:
        os.environ["HOLD_STAGE"] = command[2].removeprefix("stages.")
    if any("multiprocessing.forkserver" in word for word in command):
        os.register_at_fork(after_in_child=hold_this_worker)
