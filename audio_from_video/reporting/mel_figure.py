"""The figure of log-mel spectrograms: real, decoded, generated."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from audio_from_video.reporting.mel_picture import FRAMES_PER_S, RANGE

DPI = 110
FONT_SIZE = 8
ROWS = ("real sound", "decoded from\nreal features", "decoded from\ngenerated features")


class MelColumn(NamedTuple):
    """The log-mels [frames, mel bins] of one clip, as they stand below each other."""

    action: str
    real: np.ndarray
    decoded: np.ndarray  # from the real features
    generated: np.ndarray  # decoded from generated features


def draw_mels(path: Path, columns: list[MelColumn]) -> None:
    """Write a PNG with a column per clip and the three kinds of log-mel as lines."""
    figure = Figure(figsize=(2.6 * len(columns) + 1.4, 4.8), layout="constrained")
    axes = figure.subplots(3, len(columns), sharex=True, sharey=True, squeeze=False)
    for place, column in enumerate(columns):
        log_mels = (column.real, column.decoded, column.generated)
        for axis, log_mel in zip(axes[:, place], log_mels, strict=True):
            image = _draw_panel(axis, log_mel)
        axes[0, place].set_title(column.action, fontsize=FONT_SIZE + 1)
        axes[2, place].set_xlabel("time (s)", fontsize=FONT_SIZE)
    for axis, title in zip(axes[:, 0], ROWS, strict=True):
        axis.set_ylabel(f"{title}\nmel bin, 0 to 8 kHz", fontsize=FONT_SIZE)
    if columns:
        bar = figure.colorbar(image, ax=axes, aspect=40, pad=0.01)
        bar.set_label("log power (AST's normalised units)", fontsize=FONT_SIZE)
        bar.ax.tick_params(labelsize=FONT_SIZE - 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


def _draw_panel(axis: Axes, log_mel: np.ndarray) -> AxesImage:
    frames, mel_bins = log_mel.shape
    image = axis.imshow(
        log_mel.T,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=RANGE[0],
        vmax=RANGE[1],
        extent=(0, frames / FRAMES_PER_S, 0, mel_bins),
    )
    axis.tick_params(labelsize=FONT_SIZE - 1)
    return image
