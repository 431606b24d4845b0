"""Label scores of clips in a file: as a dictionary, in memory that does not grow with the clips."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from audio_from_video.storage import shards
from audio_from_video.storage.row_file import RowFile


class StoredScores(Mapping[str, np.ndarray]):
    """The column `label_scores` of an output: scores [L] float32 by clip_id."""

    def __init__(self, file: Path, source: Path):
        """Copy the scores of the directory `source` to a file, where they lie from then on."""
        self._row_of: dict[str, int] = {}

        def rows() -> Iterator[np.ndarray]:
            for row in shards.iter_rows(source, ["label_scores"]):
                self._row_of[row["clip_id"]] = len(self._row_of)
                yield row["label_scores"]

        self._file = RowFile(file, shards.tensor_shape(source, "label_scores")).write(rows())

    def __getitem__(self, clip_id: str) -> np.ndarray:
        return self._file.read([self._row_of[clip_id]])[0].numpy()

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._row_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._row_of)

    def __len__(self) -> int:
        return len(self._row_of)
