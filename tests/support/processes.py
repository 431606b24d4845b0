"""What runs in a repository's folder: dvc, the stage that it started, and the stage's workers."""

import json
import subprocess
from pathlib import Path

import psutil

from tests.support.repository import Repository


def processes(repository: Repository) -> list[psutil.Process]:
    """Return everything that runs in a repository's folder."""
    running = []
    for process in psutil.process_iter():
        try:
            is_dead = process.status() == psutil.STATUS_ZOMBIE
            if not is_dead and Path(process.cwd()) == repository.folder:
                running.append(process)
        except psutil.Error:
            continue
    return running


def command(process: psutil.Process) -> list[str]:
    """Return the words of a process's command; none if the process has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def stage_of(process: psutil.Process) -> str:
    """Return the stage that a process runs, with its item; "" for dvc and for helpers."""
    words = command(process)
    if words[1:2] != ["-m"]:
        return ""
    return " ".join(words[2:]).removeprefix("stages.")


def workers_of(stage: psutil.Process) -> list[psutil.Process]:
    """Return a stage's worker processes: the children of its fork server."""
    try:
        servers = [child for child in stage.children() if "forkserver" in " ".join(command(child))]
        return [worker for server in servers for worker in server.children()]
    except psutil.Error:
        return []


def victims(repository: Repository, dvc: subprocess.Popen) -> dict[str, psutil.Process]:
    """Return the processes that can be killed now, by "dvc", "stage" and "worker"."""
    running = {}
    if dvc.poll() is None:
        running["dvc"] = psutil.Process(dvc.pid)
    for process in processes(repository):
        if not stage_of(process):
            continue
        running["stage"] = process
        workers = workers_of(process)
        if workers:
            running["worker"] = workers[-1]
    return running


def delete_broken_lock(repository: Repository) -> bool:
    """Delete DVC's own lock file where a kill cut it off while DVC wrote it, as the README says.

    Returns whether it had to be deleted.
    """
    path = repository.folder / ".dvc/tmp/rwlock"
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        path.unlink()
        return True
    return False
