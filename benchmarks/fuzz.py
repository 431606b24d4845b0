"""Mutate media files at random and pass them through the functions that open strangers' files.

    python -m benchmarks.fuzz [--files 3000] [--seed 0] [--save FOLDER]

Good files of many containers and codecs are changed: bits flipped, parts overwritten, cut out,
doubled, swapped with another file's, lengths made huge, the end cut off. They go through `clips`,
`frames` and `audio` as those stages do it, in workers with a time limit.

Prints one line of Markdown. A fault is an exception, a time-out, a dead worker, or a process left
behind; then it exits 1, and `--save` keeps the files.
"""

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel
from audio_from_video.runtime.worker import Failure
from stages import audio, clips, frames
from tests.support.odd_media import KINDS

TIMEOUT_S = 30.0
FRAMES = frames.FramesParams(fps=6.0, count=18, keep="all", size_px=96, jpeg_quality=95)
SHORTEST_S = 0.5
LONGEST_S = 60.0
LARGEST_PX = 36_000_000
SILENCE_DB = -50.0
HEADER = 2000  # bytes; headers are small, so half of the changes are drawn from there
CHANGES = ("flip", "noise", "remove", "double", "number", "splice", "zeros", "cut")
LENGTHS = [1, 2, 4, 16, 200, 2000]
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutate(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """Return a file's bytes after one to eight changes; some splice in the bytes of `other`."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        _change(changed, other, draw)
        if not changed:
            return b"\0"
    return bytes(changed)


def _change(data: bytearray, other: bytes, draw: random.Random) -> None:
    """Change something at a random place."""
    anywhere = draw.random() < 0.5
    start = draw.randrange(len(data)) if anywhere else draw.randrange(min(HEADER, len(data)))
    length = min(draw.choice(LENGTHS), len(data) - start)
    part = slice(start, start + length)
    kind = draw.choice(CHANGES)
    if kind == "flip":
        data[start] ^= 1 << draw.randrange(8)
    elif kind == "noise":
        data[part] = draw.randbytes(length)
    elif kind == "remove":
        del data[part]
    elif kind == "double":
        data[start:start] = data[part]
    elif kind == "number":
        number = draw.choice(NUMBERS)
        order = draw.choice(["big", "little"])
        data[start : start + 4] = number.to_bytes(4, order)  # type: ignore[arg-type]
    elif kind == "splice":
        data[part] = other[part]
    elif kind == "zeros":
        data[part] = bytes(length)
    elif draw.random() < 0.2:  # "cut", which would leave little to decode if it came more often
        del data[start:]


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    end: str  # "<stage>: <status>", or "exception: " and its trace
    peak_mib: int  # of the worker's memory so far


def pass_through(path: str) -> Outcome:
    """Pass one file through the three stages (runs in a worker)."""
    try:
        end = end_of(path)
    except Exception:  # each one is a fault
        end = f"exception: {traceback.format_exc()}"
    return Outcome(end, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def end_of(path: str) -> str:
    """Return the last stage that a file reaches and its status there."""
    clip = clips.examine(path)
    if clip["status"] != "ok":
        return f"clips: {clip['status']}"
    is_large = clip["width_px"] * clip["height_px"] > LARGEST_PX
    if is_large or not SHORTEST_S <= clip["duration_s"] <= LONGEST_S:
        return "clips: limits"

    pictures = frames.drop_long(frames.extract((path, None, FRAMES)), LONGEST_S)
    if pictures["status"] != "ok":
        return f"frames: {pictures['status']}"

    task = (path, pictures["start_s"], pictures["duration_s"], clip["has_audio"], False)
    sound = audio.drop_silent(audio.extract(task), SILENCE_DB)
    return f"audio: {sound['status']}"


def good_files(folder: Path) -> list[bytes]:
    """Return the files to begin with: those of tests/support/odd_media.py that become frames."""
    folder.mkdir()
    contents = []
    for number, (write, clips_status, frames_status, _) in enumerate(KINDS.values()):
        if (clips_status, frames_status) == ("ok", "ok"):
            path = folder / f"{number}.mp4"
            write(path)
            contents.append(path.read_bytes())
    return contents


def mutated_files(
    folder: Path, originals: list[bytes], count: int, draw: random.Random
) -> Iterator[str]:
    """Write mutations as 0.mp4, 1.mp4, ... and yield their paths."""
    for number in range(count):
        path = folder / f"{number}.mp4"
        path.write_bytes(mutate(draw.choice(originals), draw.choice(originals), draw))
        yield str(path)


def end_in_words(result: Outcome | Failure) -> str:
    """Return the end of a file, an exception's trace left out."""
    if isinstance(result, Failure):
        return result.kind
    return result.end.split("\n")[0].rstrip()


def is_fault(end: str) -> bool:
    return end in ("timeout", "worker_died") or end.startswith("exception")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        originals = good_files(folder / "originals")
        files = mutated_files(folder, originals, arguments.files, draw)
        workers = parallel.default_workers()
        results = list(
            parallel.map_items(pass_through, files, workers, TIMEOUT_S, untrusted.decoding_process)
        )
        ends = [end_in_words(result) for result in results]
        faults = [number for number, end in enumerate(ends) if is_fault(end)]
        for number in faults:
            print(f"file {number}: {results[number]}", file=sys.stderr)
            if arguments.save:
                arguments.save.mkdir(exist_ok=True)
                shutil.copy(folder / f"{number}.mp4", arguments.save)

    time.sleep(1)  # a decoder that ends by itself may do so
    children = psutil.Process().children(recursive=True)
    left = [child for child in children if "ffmpeg" in child.name()]
    counts = ", ".join(f"{count} {end}" for end, count in sorted(Counter(ends).items()))
    peak_mib = max(result.peak_mib for result in results if isinstance(result, Outcome))
    print(
        f"{len(results)} mutations of {len(originals)} files in "
        f"{time.monotonic() - start:.0f} s: {len(faults)} faults, {len(left)} processes left, "
        f"at most {peak_mib} MiB; {counts}"
    )
    if faults or left:
        sys.exit(1)


if __name__ == "__main__":
    main()
