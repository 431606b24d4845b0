"""AudioSet's published audio features, and the map from their space to another one.

2,084,320 clips of about 10 s (Gemmeke et al. 2017), a SequenceExample each in *.tfrecord files: context features `video_id`
and `labels` (indices in the order of audioset.py), feature list `audio_embedding` of 128 bytes a second, VGGish's output
(Hershey et al. 2017) after PCA and whitening.  VGGish clips it to [-2, 2] and truncates it to 8 bits.
The package `tfrecord` finds truncated files but does not check the records' checksums.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio_from_video.runtime.errors import UserError

WIDTH = 128
LOWEST, HIGHEST = -2.0, 2.0  # what 8 bits stand for
DOWNLOAD = "https://research.google.com/audioset/download.html"


class Published(NamedTuple):
    """What the files say of each label."""

    means: (
        np.ndarray
    )  # [L, 128] mean over the label's clips minus the mean over all clips; zeros without clips
    clips: np.ndarray  # [L] clips that carry the label
    total: int  # clips


def dequantise(seconds: np.ndarray) -> np.ndarray:
    """uint8 -> float; half a step (of 256) is added, as in YouTube-8M's utils.Dequantize, because VGGish truncates."""
    span = HIGHEST - LOWEST
    return seconds * (span / 255) + span / 512 + LOWEST


def read(root: str, labels: int, progress: Callable[[list[Path]], Iterable[Path]]) -> Published:
    """Sums over all *.tfrecord files below `root`, in the order of their paths."""
    if not root or not Path(root).is_dir():
        raise UserError(
            f"label_audio.audioset_root = '{root}' is no folder: name the one that holds AudioSet's features ({DOWNLOAD}), "
            "or set label_audio.source to clips"
        )
    sums, clips, whole, total = np.zeros((labels, WIDTH)), np.zeros(labels), np.zeros(WIDTH), 0
    for path in progress(sorted(Path(root).rglob("*.tfrecord"))):
        for present, seconds in records(path, labels):
            mean = dequantise(seconds).mean(0)
            sums[present] += mean
            clips[present] += 1
            whole += mean
            total += 1
    if not total:
        raise UserError(
            f"label_audio.audioset_root = '{root}' holds no *.tfrecord file with records: get them from {DOWNLOAD}"
        )
    means = np.where(clips[:, None] > 0, sums / np.maximum(clips, 1)[:, None] - whole / total, 0)
    return Published(means, clips, total)


def records(path: Path, labels: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The clips of a file: different label indices, and uint8 [seconds, 128]; clips shorter than a second are left out."""
    from google.protobuf.message import DecodeError
    from tfrecord.reader import tfrecord_loader

    number = 0
    try:
        for context, features in tfrecord_loader(
            str(path), None, {"labels": "int"}, sequence_description={"audio_embedding": "byte"}
        ):
            seconds = features["audio_embedding"]
            if any(len(second) != WIDTH for second in seconds):
                raise ValueError(f"audio_embedding has other than {WIDTH} bytes a second")
            present = np.unique(context["labels"])
            if present.size and not 0 <= present[0] <= present[-1] < labels:
                raise ValueError(f"labels are not all in 0..{labels - 1}")
            if seconds:
                yield present, np.frombuffer(b"".join(seconds), np.uint8).reshape(-1, WIDTH)
            number += 1
    except (
        RuntimeError,
        DecodeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OverflowError,
        MemoryError,
    ) as error:
        cause = str(error.args[0] if error.args else "it claims to be larger than memory").rstrip(
            "."
        )
        raise UserError(
            f"{path}: record {number + 1} cannot be read ({cause}): get the file again from {DOWNLOAD}, or remove it"
        ) from None


def fit_map(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge weights [D, A] without intercept from x [n, D] to y [n, A]: what lies at the mean of one stays at that of the other."""
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def leave_one_out(x: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """What the map fitted on the other rows says of each row: [n, A], in closed form by the leverages."""
    fitted = x @ fit_map(x, np.eye(len(x)), penalty)  # [n, n]
    return y - (y - fitted @ y) / (1 - np.diag(fitted))[:, None]
