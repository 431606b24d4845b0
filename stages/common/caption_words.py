"""Captions as words: with sounds in them, and how well they name those that are heard."""

import re
from collections import Counter
from functools import lru_cache

import numpy as np


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@lru_cache(maxsize=4096)
def spoken(label: str) -> str:
    """A label's name as it stands in captions: `Thump, thud` is `thump thud`, because commas separate labels."""
    return " ".join(words(label))


def tagged(caption: str, labels: list[str]) -> str:
    """A caption that also names sounds; itself where there are none."""
    return f"{', '.join(map(spoken, labels))} with {caption}" if labels else caption


def named(text: str, labels: list[str]) -> set[int]:
    """Numbers of the labels that a text names, each word in one label at most: the longest names are found first."""
    rest, found = f" {' '.join(words(text))} ", set()
    for number in sorted(range(len(labels)), key=lambda i: (-len(spoken(labels[i])), i)):
        phrase = f" {spoken(labels[number])} "
        if phrase in rest:
            found.add(number)
            rest = rest.replace(phrase, " | ")
    return found


def quality(
    texts: list[str],
    originals: list[str],
    heard: list[set[int]],
    labels: list[str],
    mapped: list[list[int]],
) -> dict:
    """Captions against the numbers of the labels that are heard (at least one each), and against the original captions.
    mapped: the labels that each caption is mapped to."""
    names = [named(text, labels) for text in texts]
    right = sum(len(a & b) for a, b in zip(names, heard, strict=True))
    pairs = [
        (Counter(words(old)), Counter(words(new)))
        for old, new in zip(originals, texts, strict=True)
    ]
    return {
        "captions": len(texts),
        "named_labels": sum(map(len, names)) / len(texts),  # per caption
        "named_precision": right / max(1, sum(map(len, names))),
        "named_recall": right / sum(map(len, heard)),
        "mapped_hits": float(
            np.mean([not b.isdisjoint(a) for a, b in zip(mapped, heard, strict=True)])
        ),  # one of them is heard
        "kept_words": float(
            np.mean([(old & new).total() / max(1, old.total()) for old, new in pairs])
        ),
    }
