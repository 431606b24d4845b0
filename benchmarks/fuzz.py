"""Mutate media files at random and pass them through the functions that open strangers' files.

    python -m benchmarks.fuzz [--files 3000] [--seed 0] [--save FOLDER]

Good files of many containers and codecs are changed (bits flipped, parts overwritten, cut out, doubled, swapped with another
file's, lengths made huge, cut off) and go through `clips`, `frames` and `audio` as those stages do it, in workers with a time
limit.  Prints a line of Markdown for the README.  A fault is an exception, a time-out, a dead worker, or a process left behind;
then it exits 1, and `--save` keeps the files.
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
from pathlib import Path

import psutil

from audio_from_video.media import untrusted
from audio_from_video.runtime import parallel
from audio_from_video.runtime.parallel import default_workers
from audio_from_video.runtime.worker import Failure
from stages import audio, clips, frames
from tests.support.odd_media import KINDS

TIMEOUT_S = 30.0
KNOBS = frames.FramesParams(fps=6.0, count=18, keep="all", size_px=96, jpeg_quality=95)
NUMBERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


def mutate(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """One to eight changes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        at = (
            draw.randrange(len(changed))
            if draw.random() < 0.5
            else draw.randrange(min(2000, len(changed)))
        )  # headers are small
        length = min(draw.choice([1, 2, 4, 16, 200, 2000]), len(changed) - at)
        kind = draw.choice(
            ["flip", "noise", "remove", "double", "number", "splice", "zeros", "cut"]
        )
        if kind == "flip":
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == "noise":
            changed[at : at + length] = draw.randbytes(length)
        elif kind == "remove":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "number":
            changed[at : at + 4] = draw.choice(NUMBERS).to_bytes(4, draw.choice(["big", "little"]))
        elif kind == "splice":
            changed[at : at + length] = other[at : at + length]
        elif kind == "zeros":
            changed[at : at + length] = bytes(length)
        elif draw.random() < 0.2:
            del changed[at:]
        if not changed:
            return b"\0"
    return bytes(changed)


def pass_through(path: str) -> tuple[str, int]:
    """What becomes of one file in the three stages, and the worker's peak memory so far in MiB (runs in a worker)."""
    return end_of(path), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def end_of(path: str) -> str:
    """`stage: status`, or the trace of an exception."""
    try:
        found = clips.examine(path)
        if (
            found["status"] != "ok"
            or not 0.5 <= found["duration_s"] <= 60
            or found["width_px"] * found["height_px"] > 36_000_000
        ):
            return f"clips: {found['status'] if found['status'] != 'ok' else 'limits'}"
        row = frames.drop_long(frames.extract((path, KNOBS)), 60.0)
        if row["status"] != "ok":
            return f"frames: {row['status']}"
        sound = audio.drop_silent(
            audio.extract((path, row["duration_s"], found["has_audio"])), -50.0
        )
        return f"audio: {sound['status']}"
    except Exception:  # each one is a finding
        return f"exception: {traceback.format_exc()}"


def seeds(folder: Path) -> list[bytes]:
    """The good files to begin with."""
    folder.mkdir()
    found = []
    for number, (write, first, second, _) in enumerate(KINDS.values()):
        if (first, second) == ("ok", "ok"):
            write(folder / f"{number}.mp4")
            found.append((folder / f"{number}.mp4").read_bytes())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    draw, start = random.Random(arguments.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        originals = seeds(Path(name, "seeds"))
        paths = []

        def files():
            for number in range(arguments.files):
                path = Path(name, f"{number}.mp4")
                path.write_bytes(mutate(draw.choice(originals), draw.choice(originals), draw))
                paths.append(path)
                yield str(path)

        found = list(
            parallel.map_items(
                pass_through, files(), default_workers(), TIMEOUT_S, untrusted.decoding_process
            )
        )
        peaks_mib = [0 if isinstance(result, Failure) else result[1] for result in found]
        ends = [
            result.kind if isinstance(result, Failure) else result[0].split("\n")[0].rstrip()
            for result in found
        ]
        bad = [
            number
            for number, end in enumerate(ends)
            if end in ("timeout", "worker_died") or end.startswith("exception")
        ]
        for number in bad:
            print(f"file {number}: {found[number]}", file=sys.stderr)
            if arguments.save:
                arguments.save.mkdir(exist_ok=True)
                shutil.copy(paths[number], arguments.save)
    time.sleep(1)
    left = [
        child for child in psutil.Process().children(recursive=True) if "ffmpeg" in child.name()
    ]
    counts = ", ".join(f"{n} {end}" for end, n in sorted(Counter(ends).items()))
    print(
        f"{len(found)} mutations of {len(originals)} files in {time.monotonic() - start:.0f} s: {len(bad)} faults, "
        f"{len(left)} processes left, at most {max(peaks_mib)} MiB; {counts}"
    )
    if bad or left:
        sys.exit(1)


if __name__ == "__main__":
    main()
