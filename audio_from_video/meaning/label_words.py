"""Captions as words: how names of labels stand in them, and which ones they name."""

import re
from functools import lru_cache


def words(text: str) -> list[str]:
    """Return the words of a text in lower case: runs of letters a-z and digits."""
    return re.findall(r"[a-z0-9]+", text.lower())


@lru_cache(maxsize=4096)
def spoken(label: str) -> str:
    """Return a label's name as it stands in captions.

    `Thump, thud` is `thump thud`, because commas separate labels.
    """
    return " ".join(words(label))


def tagged(caption: str, labels: list[str]) -> str:
    """Return a caption that also names sounds, such as "thump thud, music with a drum".

    Without labels it is the caption itself.
    """
    if not labels:
        return caption
    names = ", ".join(spoken(label) for label in labels)
    return f"{names} with {caption}"


def named(text: str, labels: list[str]) -> set[int]:
    """Return the indices of the labels that a text names.

    A word counts for one label at most: the longest names are looked for first.
    """
    phrases = [spoken(label) for label in labels]
    # Sorting is stable: names of the same length keep the labels' order.
    longest_first = sorted(range(len(labels)), key=lambda i: -len(phrases[i]))
    rest = f" {' '.join(words(text))} "
    indices: set[int] = set()
    for i in longest_first:
        phrase = f" {phrases[i]} "
        if phrase in rest:
            indices.add(i)
            rest = rest.replace(phrase, " | ")
    return indices
