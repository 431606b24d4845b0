"""The clips' features as training needs them: a table of clips, and files of rows with random access."""
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from stages.common import shards
from stages.common.training import RowFile

VIDEO = (Path("data/video_features/rgb"), Path("data/video_features/flow"))
AUDIO = Path("data/audio_features")


class Features:
    """Video and audio features of the clips of some splits; they lie in `folder`, so an instance is cheap to send.

    clips: a row per clip with clip_id, split, action (None where unlabelled), source_id.  video: RGB and flow features,
    concatenated, [T, 2D] per clip.  With `audio` (a directory of shards with a column `features`): `audio` rows [T, A],
    and audio_row [N], the clip's row there or -1 where it has none.
    """

    audio: RowFile  # None without `audio`; those who ask for it need not check

    def __init__(self, folder: Path, splits: Iterable[str], audio: Path | None = None):
        splits = list(splits)
        (steps, rgb), (_, flow) = (shards.tensor_shape(path, "features") for path in VIDEO)
        names: list[str] = []
        self.video = RowFile(folder / "video", (steps, rgb + flow))
        joined = shards.iter_joined(list(VIDEO), ["features"], splits)
        both = ({**row, "features": np.concatenate([row["features"], motion["features"]], axis=-1)} for row, motion in joined)
        self.video.write(noted(names, both, "features"))
        index = pd.DataFrame(shards.ok_rows(VIDEO[0])).set_index("clip_id")
        self.clips = index.loc[names, ["split", "action", "source_id"]].reset_index()
        self.audio = None  # type: ignore[assignment]
        if audio is not None:
            wanted = set(names)
            heard: list[str] = []
            rows = (row for row in shards.iter_rows(audio, ["features"], splits) if row["clip_id"] in wanted)
            self.audio = RowFile(folder / "audio", shards.tensor_shape(audio, "features")).write(noted(heard, rows, "features"))
            position = {name: i for i, name in enumerate(heard)}
            self.audio_row = torch.tensor([position.get(name, -1) for name in names])

    def rows(self, *splits: str) -> torch.Tensor:
        """Indices of the clips of the given splits."""
        return torch.from_numpy(np.flatnonzero(self.clips.split.isin(splits)))

    def sound(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio features [n, T, A], zeros where there is none, and whether there is [n]."""
        where = self.audio_row[rows]
        audio = torch.zeros(len(rows), *self.audio.shape)
        audio[where >= 0] = self.audio.read(where[where >= 0].tolist())
        return audio, where >= 0


def noted(names: list[str], rows: Iterable[dict], column: str) -> Iterator[Any]:
    """What stands in a column, row by row, while `names` takes the clip ids."""
    for row in rows:
        names.append(row["clip_id"])
        yield row[column]
