"""Captions as words: with sounds in them, and how well they name those that are heard."""

import re
from functools import lru_cache


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
