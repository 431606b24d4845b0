"""The figure of log-mel spectrograms: real, decoded, generated."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

FRAMES_PER_S = 100  # AST's spectrogram has a frame each 10 ms
RANGE = (-1.2, 1.2)  # of the colours, in AST's normalised units
DPI = 110


class MelColumn(NamedTuple):
    """The log-mels [frames, mel bins] of one clip, as they stand below each other."""

    action: str
    real: np.ndarray
    decoded: np.ndarray  # from the real features
    generated: np.ndarray  # decoded from generated features


def draw_mels(path: Path, columns: list[MelColumn]) -> None:
    """Write a PNG with a column per clip and the three kinds of log-mel as lines."""
    figure = Figure(figsize=(3 * len(columns), 5.4))
    axes = figure.subplots(3, len(columns), sharex=True, sharey=True, squeeze=False)
    for place, column in enumerate(columns):
        panels = [
            (f"{column.action}: real", column.real),
            ("real features, decoded", column.decoded),
            ("generated, decoded", column.generated),
        ]
        for axis, (title, values) in zip(axes[:, place], panels, strict=True):
            _draw_panel(axis, title, values)
        axes[2, place].set_xlabel("time (s)", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel("mel bin", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _draw_panel(axis, title: str, values: np.ndarray) -> None:
    frames, mel_bins = values.shape
    axis.imshow(
        values.T,
        origin="lower",
        aspect="auto",
        vmin=RANGE[0],
        vmax=RANGE[1],
        extent=(0, frames / FRAMES_PER_S, 0, mel_bins),
    )
    axis.set_title(title, fontsize=8)
    axis.tick_params(labelsize=7)
