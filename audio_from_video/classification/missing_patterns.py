"""Patterns of missing sound: which clips, and which steps of a clip, lack theirs.

All draws depend on a seed and the clip's id alone, so that other clips do not change them and all
conditions share them.
"""

from dataclasses import dataclass

import numpy as np
import torch

from audio_from_video.runtime.digests import digest

HASH_DIGITS = 13  # hexadecimal ones; so many are exact in a float


@dataclass(frozen=True)
class Pattern:
    """Where n clips of T steps have their own sound.

    heard [n, T] bool: the steps that keep it; a clip without audible sound has none in any case.
    filled [n] bool: the clips whose other steps get the condition's filler, such as generated
    sound.  The others get the network's token there.
    """

    heard: torch.Tensor
    filled: torch.Tensor


def uniform_numbers(clip_ids: list[str], *key: int | str) -> np.ndarray:
    """Return a number in (0, 1) for each clip [n], drawn by its id and `key`."""
    largest = 16**HASH_DIGITS
    places = [int(digest(*key, clip_id)[:HASH_DIGITS], 16) for clip_id in clip_ids]
    return (np.array(places, float) + 0.5) / largest


def stream_order(clip_ids: list[str], seed: int) -> torch.Tensor:
    """Return the places [n] of clips in the order in which a stream brings them."""
    return torch.from_numpy(np.argsort(uniform_numbers(clip_ids, "stream", seed)))


# ---- whole clips ----


def silent_shares(actions: np.ndarray, audible: np.ndarray) -> dict[str, float]:
    """Return the share of inaudible clips by action, (inaudible + 1) / (clips + 2).

    actions [n], audible [n] bool: of training clips.  So no share is 0 or 1 (Laplace).
    """
    shares = {}
    for action in np.unique(actions):
        of_action = audible[actions == action]
        shares[str(action)] = float(((~of_action).sum() + 1) / (len(of_action) + 2))
    return shares


def removal_order(numbers: np.ndarray, odds: np.ndarray) -> np.ndarray:
    """Return the places [n] of clips in the order in which they lose their sound.

    Each next clip is drawn from those left with a probability in proportion to its odds [n]: clip i
    waits -log(number) / odds, an exponential time of that rate, and the first to ring goes next
    (Efraimidis & Spirakis 2006).  numbers [n]: uniform ones.
    """
    return np.argsort(-np.log(numbers) / odds, kind="stable")


def class_dependent(
    missing: torch.Tensor, audible: torch.Tensor, order: np.ndarray, steps: int
) -> Pattern:
    """Return the pattern in which as many audible clips lose their sound as in a random draw.

    missing [n] bool: the clips that the random draw names.  audible [n] bool.  order [n]: places
    of the clips (`removal_order`); the first audible ones in it lose their sound.  Inaudible clips
    are as in the random draw: those that it names are filled.
    """
    audible_order = order[audible.numpy()[order]]
    count = int((missing & audible).sum())
    removed = torch.zeros_like(missing)
    removed[torch.from_numpy(audible_order[:count].copy())] = True
    heard = (audible & ~removed)[:, None].expand(-1, steps)
    return Pattern(heard, removed | (missing & ~audible))


# ---- parts of clips ----


def segment(numbers: np.ndarray, share: float, steps: int) -> Pattern:
    """Return the pattern in which a contiguous part of every clip lacks its sound.

    numbers [n]: uniform ones, which place the parts.  share: of the steps, rounded to whole ones,
    halves up.  The part of a larger share contains that of a smaller one.
    """
    length = int(np.floor(share * steps + 0.5))
    start = np.floor(numbers * (steps - length + 1)).astype(int)[:, None]
    step = np.arange(steps)
    missing = (step >= start) & (step < start + length)
    return Pattern(torch.from_numpy(~missing), torch.ones(len(numbers), dtype=torch.bool))
