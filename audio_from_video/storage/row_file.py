"""Rows of an array in a file: random access in bounded memory."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from audio_from_video.runtime import digests
from audio_from_video.storage import item_store


class RowFile:
    """Rows of one shape in a file, read by index with `pread`: memory does not grow with the number of rows.

    Written once from a stream (Parquet has no cheap random access), shared by the processes that train.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: str = "float16"):
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._bytes = int(np.prod(shape)) * self.dtype.itemsize

    def write(self, rows: Iterable[np.ndarray]) -> "RowFile":
        with open(self.path, "wb") as file:
            for row in rows:
                if row.shape != self.shape:
                    raise ValueError(f"a row of shape {row.shape} in a file of {self.shape}")
                file.write(np.ascontiguousarray(row, self.dtype).tobytes())
        return self

    def __len__(self) -> int:
        return self.path.stat().st_size // self._bytes

    def read(self, indices: Iterable[int]) -> torch.Tensor:
        """Rows [n, *shape] as float32 (int64 where the file holds whole numbers)."""
        with open(self.path, "rb", buffering=0) as file:
            data = b"".join(
                os.pread(file.fileno(), self._bytes, int(i) * self._bytes) for i in indices
            )
        kind = np.int64 if self.dtype.kind == "i" else np.float32
        return torch.from_numpy(np.frombuffer(data, self.dtype).astype(kind)).view(-1, *self.shape)

    def digest(self) -> str:
        """Of all rows: part of a checkpoint's key."""
        with open(self.path, "rb") as file:
            content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        return digests.digest(list(self.shape), str(self.dtype), content)

    def moments(
        self, indices: Iterable[int], batch: int = 256
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [last dimension] over the given rows and their steps (1 where it is 0); 0 and 1
        where no row is given."""
        indices = list(indices)
        if not indices:
            return torch.zeros(self.shape[-1]), torch.ones(self.shape[-1])
        n, (total, squares) = 0, torch.zeros(2, self.shape[-1], dtype=torch.float64)
        for start in range(0, len(indices), batch):
            values = self.read(indices[start : start + batch]).flatten(0, -2).double()
            n, total, squares = (
                n + len(values),
                total + values.sum(0),
                squares + values.square().sum(0),
            )
        mean = total / n
        std = (squares / n - mean.square()).clamp(min=0).sqrt()
        return mean.float(), torch.where(std > 1e-6, std, torch.ones_like(std)).float()


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for RowFiles beside the item store, gone afterwards."""
    parent = item_store.folder() / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as name:
        yield Path(name)
