"""Rows of an array in a file: random access in bounded memory."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from audio_from_video.runtime import digests
from audio_from_video.storage import item_store

if TYPE_CHECKING:
    import torch

SMALLEST_STD = 1e-6  # what does not vary is divided by 1


class RowFile:
    """Rows of one shape in a file, read by index with `pread`.

    It is written once from a stream and shared by the processes that train.  Memory does not grow
    with the number of rows; Parquet, in which the features lie, has no cheap random access.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "float16"):
        self.path = path
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._row_bytes = int(np.prod(shape)) * self.dtype.itemsize

    def write(self, rows: Iterable[np.ndarray]) -> "RowFile":
        """Write rows [*shape] one after the other and return this file.

        Raises ValueError where a row has another shape.
        """
        with open(self.path, "wb") as file:
            for row in rows:
                if row.shape != self.shape:
                    raise ValueError(f"a row of shape {row.shape} in a file of {self.shape}")
                file.write(np.ascontiguousarray(row, self.dtype).tobytes())
        return self

    def __len__(self) -> int:
        return self.path.stat().st_size // self._row_bytes

    def read(self, indices: Iterable[int]) -> "torch.Tensor":
        """Return rows [n, *shape] as float32, or as int64 where the file holds whole numbers."""
        import torch

        offsets = [int(index) * self._row_bytes for index in indices]
        values = np.empty((len(offsets), *self.shape), self.dtype)
        with open(self.path, "rb", buffering=0) as file:
            for row, offset in zip(values, offsets, strict=True):
                count = os.preadv(file.fileno(), [row.data], offset)
                if count != self._row_bytes:
                    raise ValueError(f"{self.path} has no whole row at byte {offset}")
        # PyTorch's conversion of half precision takes a fifth of NumPy's time.
        kind = torch.int64 if self.dtype.kind == "i" else torch.float32
        return torch.from_numpy(values).to(kind)

    def digest(self) -> str:
        """Return a digest of shape, type and all rows: part of a checkpoint's key."""
        content = digests.file_digest(self.path)
        return digests.digest(list(self.shape), str(self.dtype), content)

    def moments(
        self, indices: Iterable[int], batch: int = 256
    ) -> tuple["torch.Tensor", "torch.Tensor"]:
        """Return mean and standard deviation of some rows, each [last dimension], float32.

        They are taken over the rows and all dimensions but the last.  The standard deviation is 1
        where nothing varies; without rows the two are 0 and 1.
        """
        import torch

        indices = list(indices)
        width = self.shape[-1]
        if not indices:
            return torch.zeros(width), torch.ones(width)

        count = 0
        total = torch.zeros(width, dtype=torch.float64)
        squares = torch.zeros(width, dtype=torch.float64)
        for start in range(0, len(indices), batch):
            values = self.read(indices[start : start + batch]).flatten(0, -2).double()
            count += len(values)
            total = total + values.sum(0)
            squares = squares + values.square().sum(0)

        mean = total / count
        std = (squares / count - mean.square()).clamp(min=0).sqrt()
        std = torch.where(std > SMALLEST_STD, std, torch.ones_like(std))
        return mean.float(), std.float()


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a folder for RowFiles beside the item store; it is gone afterwards."""
    parent = item_store.folder() / "scratch"
    item_store.make_folder(parent)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)
