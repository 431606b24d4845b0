"""Memory of the training loop on rows in a file: a thousand of them against a million.

What is measured is learning/loop.py with a small LSTM that reads its rows by index, and no table of
clips beside it.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.scale_parts.measuring import ROOT, Measurement, Record

STEPS, WIDTH = 18, 8
BATCH = 256
SCRIPT = """
import resource, sys
from pathlib import Path
from benchmarks.scale_parts.training import train
train(Path(sys.argv[1]), int(sys.argv[2]))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss // 1024)
"""


def train(path: Path, count: int) -> None:
    """Write rows to a file and train on them: an epoch, or 50 steps where these are more."""
    import numpy as np
    import torch

    from audio_from_video.learning.loop import fit
    from audio_from_video.learning.settings import TrainingParams
    from audio_from_video.storage.row_file import RowFile

    torch.set_num_threads(1)
    row = np.random.default_rng(0).normal(size=(STEPS, WIDTH))
    file = RowFile(path, (STEPS, WIDTH)).write(row for _ in range(count))
    file.moments(range(count))
    model = torch.nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def loss(indices: torch.Tensor) -> torch.Tensor:
        rows = file.read(indices.tolist())
        predicted, _ = model(rows)
        return (predicted - rows).square().mean()

    def validate() -> float:
        with torch.inference_mode():
            return loss(torch.arange(100)).item()

    p = TrainingParams(
        learning_rate=0.001, weight_decay=0.01, batch_size=BATCH, epochs=1, patience=1, min_steps=50
    )
    fit(model, loss, torch.arange(count), validate, p, 0, "benchmark")


def measure(folder: Path, sizes: list[int], record: Record) -> None:
    """Measure a training for each number of rows, each in a process of its own."""
    for count in sizes:
        path = folder / f"rows-{count}"
        command = [sys.executable, "-c", SCRIPT, str(path), str(count)]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        cpu_s, memory_mib = done.stdout.split()
        record(Measurement("training", "training loop", count, float(cpu_s), int(memory_mib)))
        path.unlink()
