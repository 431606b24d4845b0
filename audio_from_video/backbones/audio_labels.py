"""From the labels that a model names to AudioSet's 527, in their order."""

import numpy as np

from audio_from_video.audioset.labels import load_labels

FEWEST = 400  # labels that must be found by name before a model counts as one of AudioSet's


def positions(names: list[str]) -> np.ndarray:
    """Return where a model has each of AudioSet's 527 labels [527], -1 where it has it not.

    names: the model's labels by index, as display names or as ids of AudioSet's ontology ("mid").
    """
    place = {_plain(name): index for index, name in enumerate(names)}
    found = []
    for label in load_labels():
        by_name = place.get(_plain(label.display_name), -1)
        found.append(place.get(_plain(label.mid), by_name))
    return np.array(found)


def are_audioset(names: list[str]) -> bool:
    """Return whether a model's labels are AudioSet's, but for some that it lacks."""
    return int((positions(names) >= 0).sum()) >= FEWEST


def reorder(scores: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the scores [n, 527] of AudioSet's labels from a model's own [n, L].

    places: from `positions`.  Labels that the model lacks get 0.
    """
    ordered = scores[:, np.maximum(places, 0)]
    ordered[:, places < 0] = 0
    return ordered


def _plain(name: str) -> str:
    return name.strip().casefold()
