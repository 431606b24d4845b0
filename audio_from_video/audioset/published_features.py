"""AudioSet's published audio features, and the map from their space to another one.

2,084,320 clips of about 10 s (Gemmeke et al.  2017), a SequenceExample each in *.tfrecord files:
context features `video_id` and `labels` (indices in the order of labels.py), feature list
`audio_embedding` of 128 bytes a second, VGGish's output (Hershey et al.  2017) after PCA and
whitening.  VGGish clips it to [-2, 2] and truncates it to 8 bits.  The package `tfrecord` finds
truncated files but does not check the records' checksums.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio_from_video.runtime.errors import UserError

WIDTH = 128
LOWEST = -2.0  # what 8 bits stand for
HIGHEST = 2.0
DOWNLOAD = "https://research.google.com/audioset/download.html"


# What protobuf and the package raise where a record is damaged.
DAMAGE = (
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class Published(NamedTuple):
    """Mean features of the L labels over all files."""

    means: np.ndarray  # [L, 128] of the label's clips minus that of all clips; 0 without clips
    clips: np.ndarray  # [L] clips that carry the label
    total: int  # clips


def dequantise(seconds: np.ndarray) -> np.ndarray:
    """Return 8-bit features [seconds, 128] as floats.

    Half a step (of 256) is added, as in YouTube-8M's utils.Dequantize, because VGGish truncates.
    """
    span = HIGHEST - LOWEST
    return seconds * (span / 255) + span / 512 + LOWEST


def read(root: str, labels: int, progress: Callable[[list[Path]], Iterable[Path]]) -> Published:
    """Return the labels' mean features over all *.tfrecord files below `root`.

    labels: how many there are.  progress: passes the paths on and shows how many are done.
    Raises UserError where the folder or its records are missing, or a record is damaged.
    """
    if not root or not Path(root).is_dir():
        raise UserError(
            f"label_audio.audioset_root = '{root}' is no folder: name the one that holds "
            f"AudioSet's features ({DOWNLOAD}), or set label_audio.source to clips"
        )
    sums = np.zeros((labels, WIDTH))
    clips = np.zeros(labels)
    whole = np.zeros(WIDTH)
    total = 0
    for path in progress(sorted(Path(root).rglob("*.tfrecord"))):
        for present, seconds in records(path, labels):
            mean = dequantise(seconds).mean(0)
            sums[present] += mean
            clips[present] += 1
            whole += mean
            total += 1
    if not total:
        raise UserError(
            f"label_audio.audioset_root = '{root}' holds no *.tfrecord file with records: "
            f"get them from {DOWNLOAD}"
        )
    centred = sums / np.maximum(clips, 1)[:, None] - whole / total
    means = np.where(clips[:, None] > 0, centred, 0)
    return Published(means, clips, total)


def records(path: Path, labels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the clips of a file: their different label indices, and uint8 [seconds, 128].

    Clips shorter than a second are left out.
    """
    # Here, as only runs on AudioSet's own features need these packages.
    from google.protobuf.message import DecodeError
    from tfrecord.reader import tfrecord_loader

    number = 0
    try:
        loader = tfrecord_loader(
            str(path), None, {"labels": "int"}, sequence_description={"audio_embedding": "byte"}
        )
        for context, features in loader:
            seconds = features["audio_embedding"]
            if any(len(second) != WIDTH for second in seconds):
                raise ValueError(f"audio_embedding has other than {WIDTH} bytes a second")
            present = np.unique(context["labels"])
            if present.size and not 0 <= present[0] <= present[-1] < labels:
                raise ValueError(f"labels are not all in 0..{labels - 1}")
            if seconds:
                yield present, np.frombuffer(b"".join(seconds), np.uint8).reshape(-1, WIDTH)
            number += 1
    except (DecodeError, *DAMAGE) as error:
        cause = error.args[0] if error.args else "it claims to be larger than memory"
        sentence = str(cause).rstrip(".")
        raise UserError(
            f"{path}: record {number + 1} cannot be read ({sentence}): "
            f"get the file again from {DOWNLOAD}, or remove it"
        ) from None


def fit_map(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Return ridge weights [D, A] from x [n, D] to y [n, A].

    There is no intercept: what lies at the mean of one space stays at that of the other.
    """
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def leave_one_out(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Return what the map fitted on the other rows predicts of each row, [n, A].

    Closed form by the leverages (the diagonal of the hat matrix).
    """
    fitted = x @ fit_map(x, np.eye(len(x)), penalty)  # [n, n]
    return y - (y - fitted @ y) / (1 - np.diag(fitted))[:, None]
