"""The stages that work clip by clip, on many small files; then again with 1 % more of them.

Each file is one short rendered clip with a few bytes of its own behind it, so that every file has a
content of its own.  The second run has an item store that is filled and a list of the clips that
models are fitted on (`clips.fit_on`), so that it shows what an increment costs.
"""

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

from benchmarks.scale_parts.measuring import ROOT, Folder, Measurement, Record

MODEL_STAGE = "video_features rgb"
STAGES = ("clips", "frames", "optical_flow", "audio", MODEL_STAGE)
MOST_WITH_MODEL = 5000  # files; a model on a CPU would take most of the time of a larger run
ACTIONS = 10
SIDE_PX = 64
RATE = 12  # frames per second
RATE_HZ = 16_000
ADDED_SHARE = 0.01
INCREMENT = ", 1 % more clips"  # behind the name of a stage


def write_clip(path: Path) -> None:
    """Write the clip that all files are: 3 s of moving colours with sound."""
    import numpy as np

    from audio_from_video.world.mp4 import write_mp4

    rng = np.random.default_rng(0)
    start = rng.integers(0, 255, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    frames = [np.roll(start, 2 * i, axis=1) for i in range(3 * RATE)]
    sound = rng.normal(0, 0.1, 3 * RATE_HZ).astype(np.float32)
    write_mp4(path, frames, Fraction(RATE), SIDE_PX, sound, RATE_HZ)


def write_files(root: Path, clip: Path, numbers: range) -> None:
    """Write files of all actions; one in ten of them to test."""
    content = clip.read_bytes()
    for number in numbers:
        folder = "validation" if number // ACTIONS % 10 == 0 else "training"
        path = root / folder / f"action{number % ACTIONS}" / f"source{number}_1.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        # A box that players skip: its length, `free`, and the number.
        path.write_bytes(content + (16).to_bytes(4) + b"free" + number.to_bytes(8))


def measure(folder: Path, sizes: list[int], stages: list[str], record: Record) -> None:
    """Measure the stages for each number of files.

    stages: which of STAGES, with those before them that they read; []: all of them.
    """
    clip = folder / "clip.mp4"
    write_clip(clip)
    for clips in sizes:
        place = Folder(folder / f"files-{clips}", {"clips": {"root": "root"}})
        place.set({"frames": {"size_px": SIDE_PX}})
        root = place.path / "root"
        write_files(root, clip, range(clips))
        chosen = [stage for stage in STAGES if not stages or stage in stages]
        if clips > MOST_WITH_MODEL and MODEL_STAGE in chosen:
            chosen.remove(MODEL_STAGE)
        for stage in chosen:
            record(Measurement("files", stage, clips, *place.run(*stage.split())))

        command = [sys.executable, "-m", "tools.fit_list", "fit_on.csv"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin"}
        subprocess.run(command, cwd=place.path, env=environment, check=True, capture_output=True)
        place.set({"clips": {"fit_on": "fit_on.csv"}})
        added = max(1, round(ADDED_SHARE * clips))
        write_files(root, clip, range(clips, clips + added))
        for stage in chosen:
            increment = place.run(*stage.split())
            record(Measurement("files", stage + INCREMENT, clips, *increment))
        shutil.rmtree(place.path)
