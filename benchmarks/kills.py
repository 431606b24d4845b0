"""Kill `dvc repro` at random moments, run it again, and compare with an undisturbed run.

    python -m benchmarks.kills [--kills 20] [--seed 0]

Both runs start from nothing, with tiny parameters, in folders of their own. A victim is drawn each
time: dvc, the running stage, or one of its workers; it gets SIGKILL. A stage is hit once, at a
moment drawn from the time that it takes, before any is hit twice. One kill of four comes at any
moment, also between stages. Where a stage outlives its dvc, the next run starts while it is still
writing.

Prints one line of Markdown. Exits 1 where a byte of the outputs differs from the undisturbed run's,
a process is left or a file is half-written.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from tests.support.processes import command, delete_broken_lock, processes, stage_of, victims
from tests.support.repository import Repository

VICTIMS = ("dvc", "stage", "worker")
BETWEEN = "between stages"
ANY_MOMENT = 0.25  # share of kills that wait for no stage
POLLING_S = 0.05
# Runs that may fail in a row: a stage that a killed dvc left behind may still be writing.
PATIENCE = 20


class Killer:
    """Runs `dvc repro` until it succeeds, and kills what it finds there at random moments.

    `undisturbed`, a repository after a run, tells how long each stage takes. `longest_s` is how
    long a kill that waits for no stage waits at most. `counts` has the kills so far under "kills",
    by victim, and by stage as "in <stage>"; and under "locks" how often DVC's own lock file was
    cut off.
    """

    def __init__(
        self,
        repository: Repository,
        undisturbed: Repository,
        longest_s: float,
        draw: random.Random,
    ):
        self.repository = repository
        self.undisturbed = undisturbed
        self.longest_s = longest_s
        self.draw = draw
        self.counts: Counter = Counter()
        self._stages_hit: set[str] = set()

    def run(self, kills: int) -> None:
        """Run until `dvc repro` ends well, with so many kills at most on the way."""
        failures = 0  # in a row, of runs that nobody killed
        while failures < PATIENCE:
            before = self.counts["kills"]
            dvc = self.repository.start("dvc", "repro")
            while dvc.poll() is None and self.counts["kills"] < kills:
                self._wait_for_the_moment(dvc)
                self._kill_one(dvc)
            if dvc.wait() == 0:
                return

            self.counts["locks"] += delete_broken_lock(self.repository)
            was_killed = self.counts["kills"] > before
            failures = 0 if was_killed else failures + 1
        output = self.repository.run("dvc", "repro", fails=True)
        sys.exit(f"{PATIENCE} times in a row `dvc repro` failed without being killed:\n{output}")

    def _wait_for_the_moment(self, dvc: subprocess.Popen) -> None:
        """Wait for the next kill's moment, or for dvc's end.

        The moment lies in a stage that was not hit yet, or anywhere.
        """
        end = float("inf")
        if self.draw.random() < ANY_MOMENT:
            end = time.monotonic() + self.draw.uniform(0.5, self.longest_s)
        while dvc.poll() is None and time.monotonic() < end:
            stage = victims(self.repository, dvc).get("stage")
            name = stage_of(stage) if stage else ""
            if end == float("inf") and name and name.split()[0] not in self._stages_hit:
                end = time.monotonic() + self.draw.uniform(0, self._duration_s(name))
            time.sleep(POLLING_S)

    def _duration_s(self, stage: str) -> float:
        """Return how long the undisturbed run took for a stage and its item."""
        try:
            return self.undisturbed.log(stage.replace(" ", "/"))["seconds"]
        except FileNotFoundError:  # `code` keeps no log
            return 1.0

    def _kill_one(self, dvc: subprocess.Popen) -> None:
        """Kill one of the processes that run now, if any, and count it."""
        running = victims(self.repository, dvc)
        if not running:
            return
        stage = stage_of(running["stage"]).split()[0] if "stage" in running else BETWEEN
        victim = self.draw.choice([name for name in VICTIMS if name in running])
        try:
            running[victim].send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:  # it has just ended
            return
        self._stages_hit.add(stage)
        self.counts.update(["kills", victim, f"in {stage}"])
        print(f"{self.counts['kills']:3d}: {victim} in {stage}", file=sys.stderr)


def differences(one: Repository, other: Repository) -> list[str]:
    """Return the paths of outputs and figures that are not the same bytes."""
    first = one.files()
    second = other.files()
    paths = first.keys() | second.keys()
    return sorted(path for path in paths if first.get(path) != second.get(path))


def leftovers(repository: Repository) -> list[str]:
    """Return the processes and half-written files that a run has left behind."""
    commands = [" ".join(command(process)) for process in processes(repository)]
    files = [str(path) for path in repository.folder.glob("data/**/.*.tmp")]
    return [f"left: {words}" for words in commands] + files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    rounds = 0
    counts: Counter = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Repository(Path(folder, "undisturbed"), workers=2)
        start = time.monotonic()
        undisturbed.run("dvc", "repro")
        seconds = time.monotonic() - start
        print(f"undisturbed: {seconds:.0f} s", file=sys.stderr)

        while counts["kills"] < arguments.kills:
            rounds += 1
            repository = Repository(Path(folder, f"disturbed-{rounds}"), workers=2)
            killer = Killer(repository, undisturbed, seconds / 10, draw)
            killer.run(arguments.kills - counts["kills"])
            counts += killer.counts
            faults += differences(undisturbed, repository)
            time.sleep(2)  # a process that ends by itself may do so
            faults += leftovers(repository)

    stages = [name for name in counts if name.startswith("in ") and name != f"in {BETWEEN}"]
    by_victim = ", ".join(f"{counts[name]} of {name}" for name in VICTIMS)
    print(
        f"{counts['kills']} kills ({by_victim}) in {len(stages)} stages, {rounds} runs of all "
        f"stages: {len(faults)} differences; "
        f"{counts['locks']} times DVC's own lock had to be deleted"
    )
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
