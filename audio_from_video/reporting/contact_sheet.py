"""The picture of a data set: for each clip some frames, the waveform and the log-spectrogram, two clips to a row."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import spectrogram

TITLE_PX, FRAME_PX, SOUND_PX, GAP_PX = 22, 96, 230, 14
MARK = (40, 170, 60)


@dataclass(frozen=True)
class Cell:
    """One clip: `frames` (RGB), of which the one at `marked` shows an event; `samples` in -1..1; `events_s`."""

    title: str
    frames: list[np.ndarray]
    marked: int
    samples: np.ndarray
    rate_hz: int
    events_s: np.ndarray


def waveform(samples: np.ndarray, width: int, height: int) -> np.ndarray:
    """Smallest and largest sample per column, [height, width, 3] (RGB)."""
    image = np.full((height, width, 3), 255, np.uint8)
    peak = max(float(np.abs(samples).max()), 1e-9)
    for x, part in enumerate(np.array_split(samples / peak, width)):
        low, high = ((1 - part.max()) / 2 * (height - 1), (1 - part.min()) / 2 * (height - 1))
        image[int(low) : int(high) + 1, x] = (70, 90, 130)
    return image


def log_spectrogram(samples: np.ndarray, rate_hz: int, width: int, height: int) -> np.ndarray:
    """Power from -100 to -30 dB, low frequencies below, up to half the rate: [height, width, 3] (RGB)."""
    _, _, power = spectrogram(samples, rate_hz, nperseg=512, noverlap=352)
    level = np.clip((10 * np.log10(power + 1e-12) + 100) / 70, 0, 1)
    image = cv2.applyColorMap((255 * level[::-1]).astype(np.uint8), cv2.COLORMAP_MAGMA)[..., ::-1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def draw_cell(cell: Cell) -> np.ndarray:
    width = FRAME_PX * len(cell.frames) + SOUND_PX
    image = np.full((TITLE_PX + FRAME_PX, width, 3), 255, np.uint8)
    cv2.putText(
        image, cell.title, (2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 20), 1, cv2.LINE_AA
    )
    for i, frame in enumerate(cell.frames):
        shown = cv2.resize(frame, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA)
        if i == cell.marked:
            cv2.rectangle(shown, (0, 0), (FRAME_PX - 1, FRAME_PX - 1), MARK, 3)
        image[TITLE_PX:, i * FRAME_PX : (i + 1) * FRAME_PX] = shown
    left, half = FRAME_PX * len(cell.frames) + 4, FRAME_PX // 3
    image[TITLE_PX : TITLE_PX + half, left:] = waveform(cell.samples, width - left, half)
    image[TITLE_PX + half :, left:] = log_spectrogram(
        cell.samples, cell.rate_hz, width - left, FRAME_PX - half
    )
    duration_s = len(cell.samples) / cell.rate_hz
    for event in cell.events_s:
        x = left + int(event / duration_s * (width - left))
        cv2.line(image, (x, TITLE_PX - 5), (x, TITLE_PX + 2), MARK, 2)
    return image


def draw_contact_sheet(path: Path, cells: list[Cell]) -> None:
    """Write the cells, two to a row, as PNG."""
    drawn = [
        cv2.copyMakeBorder(
            draw_cell(c), 0, GAP_PX, 0, GAP_PX, cv2.BORDER_CONSTANT, value=(255,) * 3
        )
        for c in cells
    ]
    if len(drawn) % 2:
        drawn.append(np.full_like(drawn[0], 255))
    sheet = np.vstack([np.hstack(drawn[i : i + 2]) for i in range(0, len(drawn), 2)])
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), sheet[..., ::-1])
