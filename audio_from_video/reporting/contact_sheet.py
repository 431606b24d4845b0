"""The contact sheet of a data set: some frames, waveform and log-spectrogram of each clip.

It is drawn pixel by pixel with OpenCV, as frames must stay as they are.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.signal import spectrogram

TITLE_PX = 22
FRAME_PX = 96
SOUND_PX = 230
GAP_PX = 14
CELLS_PER_ROW = 2
WHITE = 255
MARK = (40, 170, 60)  # RGB of events
WAVE = (70, 90, 130)
LOWEST_DB = -100.0  # of the spectrogram's colours
RANGE_DB = 70.0


@dataclass(frozen=True)
class Cell:
    """One clip of the sheet."""

    title: str
    frames: list[np.ndarray]  # RGB [H, W, 3] uint8
    marked: int  # number of the frame that shows an event
    samples: np.ndarray  # [n] in -1..1
    rate_hz: int
    events_s: np.ndarray  # [E]


def waveform(samples: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an RGB image [height, width, 3] of the smallest and largest sample per column."""
    image = np.full((height, width, 3), WHITE, np.uint8)
    peak = max(float(np.abs(samples).max()), 1e-9)
    for x, part in enumerate(np.array_split(samples / peak, width)):
        top = (1 - part.max()) / 2 * (height - 1)
        bottom = (1 - part.min()) / 2 * (height - 1)
        image[int(top) : int(bottom) + 1, x] = WAVE
    return image


def log_spectrogram(samples: np.ndarray, rate_hz: int, width: int, height: int) -> np.ndarray:
    """Return an RGB image [height, width, 3] of power in dB, from 0 Hz (below) to half the rate."""
    _, _, power = spectrogram(samples, rate_hz, nperseg=512, noverlap=352)
    level = np.clip((10 * np.log10(power + 1e-12) - LOWEST_DB) / RANGE_DB, 0, 1)
    low_below = (255 * level[::-1]).astype(np.uint8)
    image = cv2.applyColorMap(low_below, cv2.COLORMAP_MAGMA)[..., ::-1]
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def cell_image(cell: Cell) -> np.ndarray:
    """Return a cell as an RGB image: the title, below it the frames, and beside them the sound."""
    frames_px = FRAME_PX * len(cell.frames)
    width = frames_px + SOUND_PX
    image = np.full((TITLE_PX + FRAME_PX, width, 3), WHITE, np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(image, cell.title, (2, 15), font, 0.45, (20, 20, 20), 1, cv2.LINE_AA)
    for i, frame in enumerate(cell.frames):
        picture = cv2.resize(frame, (FRAME_PX, FRAME_PX), interpolation=cv2.INTER_AREA)
        if i == cell.marked:
            cv2.rectangle(picture, (0, 0), (FRAME_PX - 1, FRAME_PX - 1), MARK, 3)
        image[TITLE_PX:, i * FRAME_PX : (i + 1) * FRAME_PX] = picture

    left = frames_px + 4
    sound_px = width - left
    wave_px = FRAME_PX // 3
    middle = TITLE_PX + wave_px
    image[TITLE_PX:middle, left:] = waveform(cell.samples, sound_px, wave_px)
    image[middle:, left:] = log_spectrogram(
        cell.samples, cell.rate_hz, sound_px, FRAME_PX - wave_px
    )
    duration_s = len(cell.samples) / cell.rate_hz
    for event_s in cell.events_s:
        x = left + int(event_s / duration_s * sound_px)
        cv2.line(image, (x, TITLE_PX - 5), (x, TITLE_PX + 2), MARK, 2)
    return image


def write_contact_sheet(path: Path, cells: list[Cell]) -> None:
    """Write the cells, CELLS_PER_ROW to a row, as PNG."""
    images = []
    for cell in cells:
        border = (0, GAP_PX, 0, GAP_PX)  # top, bottom, left, right
        white = (WHITE,) * 3
        images.append(
            cv2.copyMakeBorder(cell_image(cell), *border, cv2.BORDER_CONSTANT, value=white)
        )
    while len(images) % CELLS_PER_ROW:
        images.append(np.full_like(images[0], WHITE))
    rows = []
    for first in range(0, len(images), CELLS_PER_ROW):
        rows.append(np.hstack(images[first : first + CELLS_PER_ROW]))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
