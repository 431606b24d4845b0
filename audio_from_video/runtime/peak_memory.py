"""Peak memory of a process and its workers."""

import threading

import psutil

PERIOD_S = 0.5  # between two samples


class PeakMemory:
    """Samples the memory of this process and its workers twice a second while its block runs.

    Pages that processes share count once (proportional set size).
    """

    def __enter__(self) -> "PeakMemory":
        self._bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(PERIOD_S):
            self._sample()

    def _sample(self) -> None:
        own = psutil.Process()
        total = 0
        for process in [own, *own.children(recursive=True)]:
            try:
                total += process.memory_full_info().pss
            except psutil.Error:  # it has just ended
                continue
        self._bytes = max(self._bytes, total)

    def mib(self) -> int:
        """Return the peak so far in MiB."""
        self._sample()
        return round(self._bytes / 2**20)
