"""Nearest-neighbour retrieval: the clip that looks most alike lends its audio."""

import torch

from stages.common.features import Features


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
