"""The clips' features as training needs them: a table of clips, and files of rows with random access."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from audio_from_video.runtime.digests import digest
from audio_from_video.storage import layout, shards
from audio_from_video.storage.row_file import RowFile

VIDEO = (layout.RGB_FEATURES, layout.FLOW_FEATURES)
AUDIO = layout.AUDIO_FEATURES


@dataclass
class Sound:
    """Audio features of clips: `file` holds rows [T, A] (generated ones [seeds, T, A]), row [N] a clip's place there, -1
    where it has none."""

    file: RowFile
    row: torch.Tensor

    def read(self, rows: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio features [n, T, A] of clips, zeros where there are none, and whether there are [n]; of generated features
        those of this seed's generator."""
        where = self.row[rows]
        audio = torch.zeros(len(rows), *self.file.shape)
        audio[where >= 0] = self.file.read(where[where >= 0].tolist())
        return (audio[:, seed % audio.shape[1]] if audio.ndim == 4 else audio), where >= 0


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
        both = (
            {**row, "features": np.concatenate([row["features"], motion["features"]], axis=-1)}
            for row, motion in joined
        )
        self.video.write(noted(names, both, "features"))
        index = pd.DataFrame(shards.ok_rows(VIDEO[0])).set_index("clip_id")
        self.clips = index.loc[names, ["split", "action", "source_id"]].reset_index()
        self.audio = None  # type: ignore[assignment]
        if audio is not None:
            sound = self.load_sound(folder / "audio", audio)
            self.audio, self.audio_row = sound.file, sound.row

    def load_sound(self, file: Path, source: Path) -> Sound:
        """The audio features of a directory of shards (column `features`), for these clips; they lie in `file`."""
        names = self.clips.clip_id.tolist()
        wanted, heard = set(names), []  # type: set[str], list[str]
        rows = (
            row
            for row in shards.iter_rows(source, ["features"], sorted(set(self.clips.split)))
            if row["clip_id"] in wanted
        )
        stored = RowFile(file, shards.tensor_shape(source, "features")).write(
            noted(heard, rows, "features")
        )
        position = {name: i for i, name in enumerate(heard)}
        return Sound(
            stored, torch.tensor([position.get(name, -1) for name in names], dtype=torch.long)
        )

    def rows(self, *splits: str) -> torch.Tensor:
        """Indices of the clips of the given splits."""
        return torch.from_numpy(np.flatnonzero(self.clips.split.isin(splits)))

    def sound(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Audio features [n, T, A], zeros where there is none, and whether there is [n]."""
        return Sound(self.audio, self.audio_row).read(rows)

    def noise(self, rows: torch.Tensor, shape: tuple[int, ...], *key: int) -> torch.Tensor:
        """Standard normal noise of clips [n, *shape]: it depends on nothing but the clip and `key` (a seed, say)."""
        seeds = [int(digest(self.clips.clip_id[row], *key)[:15], 16) for row in rows.tolist()]
        return torch.stack(
            [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )


def noted(names: list[str], rows: Iterable[dict], column: str) -> Iterator[Any]:
    """What stands in a column, row by row, while `names` takes the clip ids."""
    for row in rows:
        names.append(row["clip_id"])
        yield row[column]


def nearest(
    data: Features,
    candidates: torch.Tensor,
    rows: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    other_sources: bool = False,
) -> torch.Tensor:
    """For each of `rows` the candidate [n] whose mean over time of the standardised video features has the highest cosine.

    mean and std [V] standardise; with `other_sources` no clip gets one of its own source.
    """

    def directions(which: torch.Tensor) -> torch.Tensor:
        videos = (data.video.read(part.tolist()) for part in which.split(256))
        return torch.nn.functional.normalize(
            torch.cat([((video - mean) / std).mean(1) for video in videos]), dim=1
        )

    sources = torch.from_numpy(data.clips.source_id.factorize()[0])
    known, found = directions(candidates), []
    for part in rows.split(256):
        similarity = directions(part) @ known.T
        if other_sources:
            similarity[sources[part][:, None] == sources[candidates][None]] = -torch.inf
        found.append(similarity.argmax(1))
    return candidates[torch.cat(found)]
