"""What every stage does around its algorithm: command line, lock, progress bar, metrics, log.

`metrics/<stage>.json` holds only what is deterministic: clips in, ok and refused by status, and the
stage's figures.  Seconds, rates, computed and reused counts and peak memory go to the git-ignored
`logs/<stage>.json`.
"""

import argparse
import errno
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from tqdm import tqdm

from audio_from_video.runtime import countdown, parallel
from audio_from_video.runtime.atomic import write_json
from audio_from_video.runtime.errors import DamagedStore, UserError, printable
from audio_from_video.runtime.parts import SLURM_ARRAY, Part, PartDone
from audio_from_video.runtime.peak_memory import PeakMemory

METRICS = Path("metrics")
LOGS = Path("logs")
LINE_INTERVAL_S = 1.0  # between lines of progress at least
FIRST_LINE_S = 20.0  # after which a stage that has said nothing yet says how long it will take
LOG_LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {remaining} left, {rate_fmt}"


class Store(Protocol):
    """What `StageRun.fill` needs of an item store (storage/item_store.py)."""

    def fill(
        self,
        tasks: Iterable[tuple[str, Any]],
        compute: Callable[[Iterator[Any]], Iterator[Any]],
        progress: Callable[[Iterable[Any]], Iterator[Any]],
    ) -> dict:
        """Compute and store what is missing; return failures by key."""


class StageRun:
    """One run of a stage, or of one of its items ("": the stage has none); `main` makes one.

    part: of the clips, where the run only stores the items of these.  log: what `write_log`
    writes, beside the seconds.
    """

    def __init__(self, stage: str, item: str, workers: int, part: Part | None = None):
        self.stage = stage
        self.item = item
        self.workers = workers
        self.part = part
        self.name = f"{stage}/{item}" if item else stage
        if part:
            self.name += f"-part-{part.number}-of-{part.count}"
        self.log: dict[str, Any] = {"workers": workers}
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._start = time.perf_counter()

    def progress(
        self,
        items: Iterable[Any],
        total: int | None = None,
        unit: str = "clip",
        timing: str = "reading_s",
    ) -> Iterator[Any]:
        """Show a bar with items/s and ETA while `items` pass; in a log, a line per 10 %.

        The time spent in making them goes to the log's entry `timing`.
        """
        timed_items = self.timed(timing, items)
        if not sys.stderr.isatty():
            yield from self._progress_lines(timed_items, total, unit)
            return
        with tqdm(total=total, desc=self.name, unit=unit, mininterval=1.0, file=sys.stderr) as bar:
            for item in timed_items:
                yield item
                bar.update()

    def _progress_lines(self, items: Iterable[Any], total: int | None, unit: str) -> Iterator[Any]:
        """Print a line for each tenth of `items` that has passed, one a second at most.

        A long stage says after FIRST_LINE_S how long all will take, as its first tenth may be far.
        """
        start = time.perf_counter()
        printed = 0  # tenths
        printed_s = 0.0  # seconds after the start
        for number, item in enumerate(items, start=1):
            yield item
            tenths = 10 * number // total if total else 0
            elapsed_s = time.perf_counter() - start
            is_late = not printed_s and elapsed_s >= FIRST_LINE_S and total is not None
            if is_late or (tenths > printed and elapsed_s - printed_s >= LINE_INTERVAL_S):
                printed = tenths
                printed_s = elapsed_s
                line = tqdm.format_meter(
                    number, total, elapsed_s, prefix=self.name, unit=unit, bar_format=LOG_LINE
                )
                print(line, file=sys.stderr, flush=True)

    def timed(self, key: str, items: Iterable[Any]) -> Iterator[Any]:
        """Pass `items` on and add the time spent in making them to the log's `key`."""
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                self._seconds[key] += time.perf_counter() - start
            yield item

    def fill(
        self,
        store: Store,
        tasks: Iterable[tuple[str, Any]],
        total: int,
        compute: Callable[[Iterator[Any]], Iterator[Any]],
    ) -> dict:
        """Fill an item store with a progress bar; return failures by key (see `ItemStore.fill`).

        Logs how many of `total` items were computed and how many were reused, and the seconds
        for reading and for computing.  A stage may fill several times: the log holds the sums.
        Where this is the run of a part, its items alone are stored, and PartDone ends the run.
        """
        if self.part:
            tasks = islice(tasks, self.part.number, None, self.part.count)
            total = len(range(self.part.number, total, self.part.count))
        computed = 0

        def counted(payloads: Iterator[Any]) -> Iterator[Any]:
            nonlocal computed
            for row in compute(payloads):
                computed += 1
                yield row

        start = time.perf_counter()
        reading_before_s = self._seconds["reading_s"]
        failures = store.fill(tasks, counted, lambda items: self.progress(items, total))

        reading_s = self._seconds["reading_s"] - reading_before_s
        self._seconds["computing_s"] += time.perf_counter() - start - reading_s
        self._count(computed=computed, reused=total - computed)
        if self.part:
            raise PartDone(f"{self.name}: {total - len(failures)} of {total} items are stored")
        return failures

    def _count(self, **counts: int) -> None:
        """Add to the log's counts."""
        for key, count in counts.items():
            self.log[key] = self.log.get(key, 0) + count

    def write_metrics(self, metrics: dict) -> None:
        """Write metrics/<stage>.json, keys in the given order."""
        write_json(METRICS / f"{self.name}.json", metrics)

    def write_log(self, peak_memory_mib: int) -> None:
        """Write logs/<stage>.json."""
        seconds = time.perf_counter() - self._start
        items = self.log.get("computed", 0) + self.log.get("reused", 0)
        for key, value in self._seconds.items():
            self.log[key] = round(value, 3)
        self.log["seconds"] = round(seconds, 3)
        self.log["items_per_s"] = round(items / seconds, 2)
        self.log["peak_memory_mib"] = peak_memory_mib
        write_json(LOGS / f"{self.name}.json", self.log)


def main(
    function: Callable[[StageRun], None],
    doc: str,
    stage: str,
    item_name: str | None = None,
    items: Callable[[], Iterable[str]] | None = None,
    in_parts: bool = False,
) -> None:
    """Run a stage from the command line: `--help`, `--workers`, and for a foreach stage its item.

    function: the stage's main().  doc: what `--help` prints.  item_name: what an item of the stage
    is called.  items: returns the items that there are.  in_parts: the stage works clip by clip, so
    that `--part` can store a part of its items.
    A UserError ends in one sentence and exit status 1; two runs of the same item wait for each
    other.
    """
    arguments = _command_line(doc, stage, item_name, in_parts).parse_args()
    # Workers run the stage's module: a fork server that has it imported starts them fast.
    parallel.preload(f"stages.{stage}")
    try:
        if arguments.workers is not None and arguments.workers < 1:
            raise UserError(f"--workers {arguments.workers}: it must be at least 1")
        item = getattr(arguments, item_name) if item_name else ""
        if items:
            known = list(items())
            if item not in known:
                raise UserError(f"'{item}' is not one of the {item_name}s: {', '.join(known)}")
        if arguments.workers:
            os.environ["WORKERS"] = str(arguments.workers)
        part = Part.parse(arguments.part) if in_parts and arguments.part else None
        run = StageRun(stage, item, arguments.workers or parallel.default_workers(), part)
        parallel.one_thread()
        stands = countdown.announcement(LOGS)
        if stands:
            print(stands, file=sys.stderr, flush=True)
        with _lock(run.name), PeakMemory() as memory:
            _run(function, run)
            run.write_log(memory.mib())
    except UserError as error:
        sentences = [printable(line) for line in str(error).splitlines()]
        sys.exit(f"{stage}: error: " + "\n".join(sentences))
    except OSError as error:
        sentence = _storage_trouble(error)
        if sentence is None:
            raise
        sys.exit(f"{stage}: error: {sentence}")
    except KeyboardInterrupt:
        sys.exit(
            f"{stage}: interrupted; finished items are stored: the same command goes on from there"
        )


def _run(function: Callable[[StageRun], None], run: StageRun) -> None:
    """Run a stage's main(), once more where stored results turn out to be damaged."""
    try:
        try:
            function(run)
        except DamagedStore as damage:
            print(f"{run.name}: {damage}", file=sys.stderr)
            function(run)
    except PartDone as done:
        print(f"{done}; when all parts are, a run without --part packs them", file=sys.stderr)


def _command_line(
    doc: str, stage: str, item_name: str | None, in_parts: bool
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m stages.{stage}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if item_name:
        parser.add_argument(item_name, help="which item of the stage to run (see dvc.yaml)")
    parser.add_argument(
        "--workers",
        type=int,
        help="processes (default: $WORKERS, else all cores); results do not depend on it",
    )
    if in_parts:
        parser.add_argument(
            "--part",
            metavar="I/N",
            nargs="?",
            const=SLURM_ARRAY,
            help="compute and store part I of N (0/N to N-1/N) and write no output; without I/N as "
            "SLURM's job array says; a run without --part then packs what is stored",
        )
    return parser


NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NO_WRITING = {errno.EROFS, errno.EACCES, errno.EPERM}
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP}  # of network file systems without locks


def _storage_trouble(error: OSError) -> str | None:
    """Return what to do about a disk that is full or cannot be written.

    None where the error means something else.
    """
    place = str(error.filename or error)

    # pyarrow raises its own OSErrors, which name the number in their text only.
    if error.errno in NO_SPACE or "errno 28" in str(error):
        trouble = f"no space left ({place}): make room"
    elif error.errno == errno.EIO:
        trouble = f"the disk cannot be read or written ({place}): see to it"
    elif error.errno in NO_WRITING:
        trouble = f"it may not be written ({place}): see to its permissions"
    else:
        return None
    return (
        f"{trouble}, then run the same command again; finished items are stored, and "
        "`git checkout metrics; dvc checkout` brings the earlier results back"
    )


def _lock(name: str) -> AbstractContextManager:
    """Hold a lock on what this item writes: a stage whose DVC was killed may still be running."""
    path = LOGS / f".{name.replace('/', '-')}.lock"
    path.parent.mkdir(exist_ok=True)
    try:
        return _acquired(FileLock(path), name)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        # The file itself is the lock then.
        return _acquired(SoftFileLock(path.with_suffix(".soft-lock")), name)


def _acquired(lock: BaseFileLock, name: str) -> AbstractContextManager:
    """Wait until a lock is ours."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(
            f"{name}: another run of this stage is still writing; waiting for it to end",
            file=sys.stderr,
        )
        return lock.acquire()
