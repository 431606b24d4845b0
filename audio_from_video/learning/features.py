"""The clips' features as training needs them: a table of clips, and files of rows.

A clip's number in the table is its `clip_index`.  The files give random access (storage/row_file):
an instance is cheap to send to a worker, and memory does not grow with the number of clips.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from audio_from_video.runtime.digests import digest
from audio_from_video.storage import fit_on, layout, shards
from audio_from_video.storage.row_file import RowFile

CLIPS_PER_READ = 256  # bounds memory where all clips are read
MOST_CANDIDATES = 100_000  # among which the nearest clip is sought


@dataclass
class Sound:
    """Audio features of clips.

    file: rows [T, A]; generated features are rows [seeds, T, A].
    row [N]: by clip_index the clip's row in the file, -1 where the clip has no audio features.
    """

    file: RowFile
    row: torch.Tensor

    def read(self, clip_indices: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return audio features [n, T, A] of clips, and which clips have them [n] bool.

        Clips without audio features have zeros.  Of generated features those of this seed's
        generator are returned; there may be fewer generators than seeds.
        """
        rows = self.row[clip_indices]
        known = rows >= 0
        audio = torch.zeros(len(clip_indices), *self.file.shape)
        audio[known] = self.file.read(rows[known].tolist())
        if audio.ndim == 4:  # [n, seeds, T, A]
            audio = audio[:, seed % audio.shape[1]]
        return audio, known


class VideoFeatures:
    """Video features of the clips of some splits.

    clips: a row per clip with clip_id, split, action (None where unlabelled) and source_id.
    video: rows [T, 2D] in the same order, RGB and flow features one behind the other.
    fitted [N]: the clips that generators and label predictors are fitted on.
    """

    def __init__(self, folder: Path, splits: Iterable[str]):
        """Read data/video_features; the rows lie in `folder` from then on."""
        splits = list(splits)
        steps, rgb_width = shards.tensor_shape(layout.RGB_FEATURES, "features")
        _, flow_width = shards.tensor_shape(layout.FLOW_FEATURES, "features")
        clip_ids: list[str] = []

        def rows() -> Iterator[np.ndarray]:
            for rgb, flow in shards.iter_joined(list(layout.VIDEO_FEATURES), ["features"], splits):
                clip_ids.append(rgb["clip_id"])
                yield np.concatenate([rgb["features"], flow["features"]], axis=-1)

        self.video = RowFile(folder / "video", (steps, rgb_width + flow_width)).write(rows())
        index = pd.DataFrame(shards.ok_rows(layout.RGB_FEATURES)).set_index("clip_id")
        self.clips = index.loc[clip_ids, ["split", "action", "source_id"]].reset_index()
        self.fitted = torch.from_numpy(fit_on.fitted(clip_ids))

    def load_sound(self, file: Path, source: Path, column: str = "features") -> Sound:
        """Return the audio features of a directory of shards for these clips.

        file: where the rows lie from then on.  column: of the shards.
        """
        clip_ids = self.clips.clip_id.tolist()
        wanted = set(clip_ids)
        splits = sorted(set(self.clips.split))
        all_rows = shards.iter_rows(source, [column], splits)
        rows = (row for row in all_rows if row["clip_id"] in wanted)
        stored_ids: list[str] = []
        stored = RowFile(file, shards.tensor_shape(source, column))
        stored.write(iter_column(rows, column, stored_ids))

        row_of = {clip_id: row for row, clip_id in enumerate(stored_ids)}
        row = torch.tensor([row_of.get(clip_id, -1) for clip_id in clip_ids], dtype=torch.long)
        return Sound(stored, row)

    def clip_indices(self, *splits: str) -> torch.Tensor:
        """Return the indices of the clips of the given splits, ascending."""
        return torch.from_numpy(np.flatnonzero(self.clips.split.isin(splits)))

    def noise(self, clip_indices: torch.Tensor, shape: tuple[int, ...], *key: int) -> torch.Tensor:
        """Return standard normal noise [n, *shape] that depends on the clip and `key` alone.

        key: a seed, say.  Other clips and their order do not change a clip's noise.
        """
        clip_ids = [self.clips.clip_id[clip_index] for clip_index in clip_indices.tolist()]
        return torch.stack([own_noise(clip_id, shape, *key) for clip_id in clip_ids])


class Features(VideoFeatures):
    """Video features, and the audio features of the clips that have them.

    audio: rows [T, A].  audio_row [N]: by clip_index the clip's row there, -1 where it has none.
    """

    def __init__(self, folder: Path, splits: Iterable[str], audio: Path = layout.AUDIO_FEATURES):
        """Read data/video_features, and `audio`, a directory of shards with a column `features`."""
        super().__init__(folder, splits)
        self._sound = self.load_sound(folder / "audio", audio)
        self.audio = self._sound.file
        self.audio_row = self._sound.row

    def sound(self, clip_indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return audio features [n, T, A] and which clips have them [n]; see `Sound.read`."""
        return self._sound.read(clip_indices)


def own_noise(clip_id: str, shape: tuple[int, ...], *key: int) -> torch.Tensor:
    """Return standard normal noise [*shape] that depends on a clip's id and `key` alone."""
    seed = int(digest(clip_id, *key)[:15], 16)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def iter_column(rows: Iterable[dict], column: str, clip_ids: list[str]) -> Iterator[Any]:
    """Yield a column's value of each row and append the row's clip_id to `clip_ids`."""
    for row in rows:
        clip_ids.append(row["clip_id"])
        yield row[column]


def nearest(
    data: VideoFeatures,
    candidates: torch.Tensor,
    clip_indices: torch.Tensor,
    mean: torch.Tensor,
    std: torch.Tensor,
    other_sources: bool = False,
) -> torch.Tensor:
    """Return for each clip the candidate that looks most alike [n]: its audio can be borrowed.

    Nearest-neighbour retrieval: the highest cosine between the means over time of standardised
    video features.  candidates, clip_indices: clip indices.  mean, std [2D]: what standardises.
    other_sources: no clip gets one of its own source.  Of more than MOST_CANDIDATES candidates so
    many are drawn by hash: time and memory would grow with the square of the clips.
    """
    if len(candidates) > MOST_CANDIDATES:
        names = data.clips.clip_id[candidates.numpy()].map(lambda name: digest("candidate", name))
        drawn = np.sort(names.to_numpy().argsort()[:MOST_CANDIDATES])
        candidates = candidates[torch.from_numpy(drawn)]

    def directions(indices: torch.Tensor) -> torch.Tensor:
        """Unit vectors [n, 2D]."""
        means = []
        for part in indices.split(CLIPS_PER_READ):
            video = data.video.read(part.tolist())
            means.append(((video - mean) / std).mean(1))
        return torch.nn.functional.normalize(torch.cat(means), dim=1)

    sources = torch.from_numpy(data.clips.source_id.factorize()[0])
    candidate_directions = directions(candidates)
    best = []
    for part in clip_indices.split(CLIPS_PER_READ):
        similarity = directions(part) @ candidate_directions.T
        if other_sources:
            same_source = sources[part][:, None] == sources[candidates][None]
            similarity[same_source] = -torch.inf
        best.append(similarity.argmax(1))
    return candidates[torch.cat(best)]
