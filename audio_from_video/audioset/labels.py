"""The 527 audio labels of AudioSet, in the order of the published models' outputs.

`audioset_labels.csv` (index, mid, display_name) is part of the AudioSet ontology: AudioSet, Google,
CC BY 4.0.
"""

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

LABELS_FILE = Path(__file__).with_name("labels.csv")


@dataclass(frozen=True)
class AudioLabel:
    """A label of AudioSet's ontology."""

    index: int  # 0..526, position in a model's output
    mid: str  # e.g. "/m/09x0r"
    display_name: str  # e.g. "Speech"


@lru_cache(maxsize=1)
def load_labels() -> tuple[AudioLabel, ...]:
    """Return the 527 labels by index."""
    with LABELS_FILE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return tuple(AudioLabel(int(row["index"]), row["mid"], row["display_name"]) for row in rows)
