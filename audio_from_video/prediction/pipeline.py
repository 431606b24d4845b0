"""A bundle at work: videos in, answers out."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from audio_from_video.backbones import hub
from audio_from_video.media import untrusted
from audio_from_video.prediction import perception
from audio_from_video.prediction.answers import Answering, WindowAnswer
from audio_from_video.prediction.bundle import Bundle, read_bundle
from audio_from_video.prediction.perception import Percept, Perception
from audio_from_video.prediction.videos import (
    ReadingTask,
    ReadVideo,
    VideoArray,
    Window,
    clip_length_s,
    read,
    reading_limit_s,
)
from audio_from_video.runtime import parallel
from audio_from_video.runtime.errors import UserError
from audio_from_video.runtime.parallel import one_thread
from audio_from_video.runtime.worker import Failure

Video = str | os.PathLike | VideoArray
WINDOWS_AT_ONCE = 8  # that the trained networks answer together


@dataclass(frozen=True)
class VideoAnswer:
    """The answers to a video, or why there are none.

    name: the file's path, or the array's name.  status: ok, or why it is refused, with a reason
    for people.  windows: one, or several of a long video.
    """

    name: str
    status: str
    reason: str
    windows: list[WindowAnswer]


@dataclass
class Reading:
    """A video on its way: its windows, and what was seen and heard in them so far."""

    name: str
    clip_id: str
    video: ReadVideo
    percepts: list[Percept | Failure] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all its windows were perceived."""
        return len(self.percepts) == len(self.video.windows)

    @property
    def window_ids(self) -> list[str]:
        """The id of each window, which decides the noise of architecture 2."""
        windows = self.video.windows
        if len(windows) == 1:
            return [self.clip_id]
        return [f"{self.clip_id}@{window.start_s:g}" for window in windows]

    @property
    def refusal(self) -> tuple[str, str]:
        """Status and reason: of the file, or of a worker that failed."""
        for percept in self.percepts:
            if isinstance(percept, Failure):
                return percept.kind, percept.reason
        return self.video.status, self.video.reason


class Pipeline:
    """A bundle with its models loaded.

    workers: processes that perceive; one more reads files, with limits on time and memory for what
    is broken.  0: this process does everything, without these limits.  A script that gives a number
    needs the guard `if __name__ == "__main__"`, as with multiprocessing.
    """

    def __init__(self, bundle: Bundle, workers: int = 0):
        self.bundle = bundle
        self.settings = bundle.settings
        self.workers = workers
        one_thread()
        self._answering = Answering(bundle)
        self._perception: Perception | None = None

    @classmethod
    def from_pretrained(cls, directory: Path | str, workers: int = 0) -> "Pipeline":
        """Load a bundle.  Raises UserError where it is damaged, or lacks a published model."""
        return cls(read_bundle(directory), workers)

    @property
    def clip_length_s(self) -> float:
        """The length of a window, and the default of `stride_s`."""
        return clip_length_s(self.settings.frames)

    def predict(
        self, videos: Video | Sequence[Video], stride_s: float | None = None
    ) -> list[VideoAnswer]:
        """Return the answers to videos, in their order; see `stream`."""
        if isinstance(videos, str | os.PathLike | VideoArray):
            videos = [videos]
        return list(self.stream(videos, stride_s))

    def stream(
        self, videos: Iterable[Video], stride_s: float | None = None
    ) -> Iterator[VideoAnswer]:
        """Yield the answers to files and arrays of frames, in their order.

        stride_s: between the starts of the windows of a long video (default: they touch).
        """
        if stride_s is None:
            stride_s = self.clip_length_s
        if not stride_s > 0:
            raise UserError(f"a stride of {stride_s:g} s: it must be above 0")
        group: list[Reading] = []
        for reading in self._perceive(self._read(videos, stride_s)):
            group.append(reading)
            if sum(len(each.percepts) for each in group) >= WINDOWS_AT_ONCE:
                yield from self._answer(group)
                group = []
        yield from self._answer(group)

    def log_mels(self, features: np.ndarray) -> np.ndarray:
        """Return what generated features [n, T, A] sound like, to look at.

        Log-mel spectrograms [n, frames, mel bins] at 100 frames a second, normalised as AST reads
        them.
        """
        return self._answering.heads.log_mels(torch.from_numpy(features))

    def _read(self, videos: Iterable[Video], stride_s: float) -> Iterator[Reading]:
        """Read videos into windows."""
        waiting: deque[tuple[str, str]] = deque()

        def tasks() -> Iterator[ReadingTask]:
            for video in videos:
                waiting.append(_names(video))
                yield ReadingTask(video, self.settings.frames, stride_s)

        if self.workers:
            # One process decodes faster than several perceive.
            read_videos = parallel.map_items(
                read, tasks(), 1, reading_limit_s, untrusted.decoding_process
            )
        else:
            read_videos = map(read, tasks())
        for video in read_videos:
            name, clip_id = waiting.popleft()
            if isinstance(video, Failure):
                video = ReadVideo([], video.kind, video.reason)
            yield Reading(name, clip_id, video)

    def _perceive(self, readings: Iterator[Reading]) -> Iterator[Reading]:
        """Yield the videos once all their windows were perceived."""
        waiting: deque[Reading] = deque()

        def windows() -> Iterator[Window]:
            for reading in readings:
                waiting.append(reading)
                yield from reading.video.windows

        for percept in self._percepts(windows()):
            while waiting[0].complete:
                yield waiting.popleft()
            waiting[0].percepts.append(percept)
        yield from waiting

    def _percepts(self, windows: Iterator[Window]) -> Iterator[Percept | Failure]:
        if self.workers and hub.device() == "cpu":
            yield from parallel.map_items(
                perception.perceive,
                windows,
                self.workers,
                initializer=perception.load,
                initargs=(self.bundle,),
            )
            return
        for window in windows:
            if self._perception is None:
                self._perception = Perception(self.bundle)
            yield self._perception(window)

    def _answer(self, readings: list[Reading]) -> Iterator[VideoAnswer]:
        """Answer perceived videos together."""
        clip_ids: list[str] = []
        percepts: list[Percept] = []
        for reading in readings:
            if reading.refusal[0] == "ok":
                clip_ids += reading.window_ids
                percepts += [each for each in reading.percepts if isinstance(each, Percept)]
        answers = iter(self._answering(clip_ids, percepts) if percepts else [])
        for reading in readings:
            status, reason = reading.refusal
            if status != "ok":
                yield VideoAnswer(reading.name, status, reason, [])
                continue
            windows = [
                WindowAnswer(
                    start_s=window.start_s,
                    end_s=window.end_s,
                    jpegs=window.jpegs,
                    samples=window.samples,
                    **next(answers),
                )
                for window in reading.video.windows
            ]
            yield VideoAnswer(reading.name, status, reason, windows)


def _names(video: Video) -> tuple[str, str]:
    """A video's name, and its clip id: that of a data set, `<folder>/<file stem>`."""
    if isinstance(video, VideoArray):
        return video.name, video.name
    path = Path(video)
    return os.fspath(video), f"{path.absolute().parent.name}/{path.stem}"
