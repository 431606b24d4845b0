"""Kill `dvc repro` at random moments in every stage, run it again, and compare with an undisturbed run byte by byte.

    python -m benchmarks.kills [--kills 20] [--seed 0]

Both runs start from nothing, with tiny parameters, in folders of their own.  A victim is drawn each time: dvc, the running stage,
or one of its workers; it gets SIGKILL.  A stage is hit once, at a moment drawn from the time that it takes, before any is hit
twice; one kill of four comes at any moment, also between stages.  Where a stage outlives its dvc, the next run starts while it
is still writing.
Prints a line of Markdown for the README, and exits 1 where a byte differs, a process is left or a file is half-written.
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.support.repository import Repository

VICTIMS = ("dvc", "stage", "worker")
ANY_MOMENT = 0.25  # share of kills that wait for no stage
PATIENCE = (
    20  # runs that may fail in a row: a stage that a killed dvc left behind may still be writing
)


def processes(repository: Repository) -> list[psutil.Process]:
    """Everything that runs in a repository's folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.status() != psutil.STATUS_ZOMBIE
                and Path(process.cwd()) == repository.folder
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


def command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def stage_of(process: psutil.Process) -> str:
    """The stage that a process runs, with its item; '' for dvc and for helpers."""
    words = command(process)
    return " ".join(words[2:]).removeprefix("stages.") if words[1:2] == ["-m"] else ""


def candidates(repository: Repository, dvc: subprocess.Popen) -> dict[str, psutil.Process]:
    """Who can be killed now: victim -> process."""
    found = {"dvc": psutil.Process(dvc.pid)} if dvc.poll() is None else {}
    for process in processes(repository):
        if not stage_of(process):
            continue
        found["stage"] = process
        try:
            servers = [
                child for child in process.children() if "forkserver" in " ".join(command(child))
            ]
            if workers := [worker for server in servers for worker in server.children()]:
                found["worker"] = workers[-1]
        except psutil.Error:
            continue
    return found


def duration_s(undisturbed: Repository, stage: str) -> float:
    """How long the undisturbed run took for a stage and item."""
    try:
        return undisturbed.log(stage.replace(" ", "/"))["seconds"]
    except FileNotFoundError:  # `code` keeps no log
        return 1.0


def moment(
    repository: Repository,
    dvc: subprocess.Popen,
    undisturbed: Repository,
    hit: set[str],
    longest_s: float,
    draw: random.Random,
) -> None:
    """Wait for the moment of the next kill, or for dvc's end: in a stage that is not among `hit`, or at any time."""
    end = (
        time.monotonic() + draw.uniform(0.5, longest_s)
        if draw.random() < ANY_MOMENT
        else float("inf")
    )
    while dvc.poll() is None and time.monotonic() < end:
        running = stage_of(process) if (process := candidates(repository, dvc).get("stage")) else ""
        if end == float("inf") and running and running.split()[0] not in hit:
            end = time.monotonic() + draw.uniform(0, duration_s(undisturbed, running))
        time.sleep(0.05)


def disturb(
    repository: Repository,
    kills: int,
    undisturbed: Repository,
    longest_s: float,
    draw: random.Random,
) -> Counter:
    """Run `dvc repro` until it ends well, killing at random moments until `kills` are reached; victims and stages counted."""
    done: Counter = Counter()
    failures = 0  # in a row, of runs that nobody killed
    hit: set[str] = set()
    while failures < PATIENCE:
        before = done["kills"]
        dvc = repository.start("dvc", "repro")
        while dvc.poll() is None and done["kills"] < kills:
            moment(repository, dvc, undisturbed, hit, longest_s, draw)
            if not (victims := candidates(repository, dvc)):
                continue
            stage = (
                stage_of(victims["stage"]).split()[0] if "stage" in victims else "between stages"
            )
            victim = draw.choice([name for name in VICTIMS if name in victims])
            try:
                victims[victim].send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:  # it has just ended
                continue
            hit.add(stage)
            done.update(["kills", victim, f"in {stage}"])
            print(f"{done['kills']:3d}: {victim} in {stage}", file=sys.stderr)
        dvc.wait()
        if dvc.returncode == 0:
            return done
        done["locks"] += mended(repository)
        failures = failures + 1 if done["kills"] == before else 0
    sys.exit(
        f"{PATIENCE} times in a row `dvc repro` failed without being killed:\n{repository.run('dvc', 'repro', fails=True)}"
    )


def mended(repository: Repository) -> bool:
    """Whether a kill cut off DVC's own lock file while DVC wrote it; it is then deleted, as the README says."""
    path = repository.folder / ".dvc/tmp/rwlock"
    try:
        json.loads(path.read_text())
    except FileNotFoundError:
        return False
    except ValueError:
        path.unlink()
        return True
    return False


def differences(one: Repository, other: Repository) -> list[str]:
    """Outputs and figures that are not the same bytes."""
    first, second = one.files(), other.files()
    return sorted(
        path for path in first.keys() | second.keys() if first.get(path) != second.get(path)
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, rounds = random.Random(arguments.seed), 0
    done: Counter = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Repository(Path(folder, "undisturbed"), workers=2)
        start = time.monotonic()
        undisturbed.run("dvc", "repro")
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.0f} s", file=sys.stderr)
        while done["kills"] < arguments.kills:
            rounds += 1
            disturbed = Repository(Path(folder, f"disturbed-{rounds}"), workers=2)
            done += disturb(
                disturbed, arguments.kills - done["kills"], undisturbed, seconds / 10, draw
            )
            faults += differences(undisturbed, disturbed)
            time.sleep(2)
            faults += [f"left: {' '.join(command(process))}" for process in processes(disturbed)]
            faults += [str(path) for path in disturbed.folder.glob("data/**/.*.tmp")]
    stages = len([name for name in done if name.startswith("in ") and name != "in between stages"])
    victims = ", ".join(f"{done[name]} of {name}" for name in VICTIMS)
    print(
        f"{done['kills']} kills ({victims}) in {stages} stages, {rounds} runs of all stages: {len(faults)} differences; "
        f"{done['locks']} times DVC's own lock had to be deleted"
    )
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
