"""Run the checks of all kinds of backbones and write the tables of docs/backbones.md.

    python -m benchmarks.conformance

Small models of every kind are made with random weights and compared with the stock models of
transformers, alone and in batches, in float32 and bfloat16.  tests/backbones has the same checks
and fails where the page says something else.  Exits 1 where a check fails.  It takes two minutes.
"""

import os
import sys
import tempfile
from pathlib import Path

from audio_from_video.backbones.audio import load_audio
from audio_from_video.backbones.vision import VisionBackbone
from tests.support import (
    audio_conformance,
    caption_conformance,
    conformance,
    tiny_audio,
    tiny_captioners,
    tiny_vision,
    vision_conformance,
)


def vision_table(folder: Path) -> str:
    """Return the table of vision models, which are made in a folder."""
    found = {}
    for kind in tiny_vision.MODELS:
        path = tiny_vision.write(kind, folder / kind)
        backbone = VisionBackbone(str(path), device="cpu")
        found[kind] = vision_conformance.findings(kind, path, backbone)
    return vision_conformance.vision_table(found)


def audio_table(folder: Path) -> str:
    """Return the table of audio models, which are made in a folder."""
    folders = {kind: str(write(folder / kind)) for kind, write in tiny_audio.WRITERS.items()}
    backbones = {kind: load_audio(path, "cpu") for kind, path in folders.items()}
    found = {}
    for kind, path in folders.items():
        found[kind] = audio_conformance.findings(kind, path, backbones[kind])
    return audio_conformance.audio_table(found, folders, backbones)


def caption_table(folder: Path) -> str:
    """Return the table of captioning models, which are made in a folder."""
    folders = {name: write(folder / name) for name, write in tiny_captioners.WRITERS.items()}
    found = {}
    for name, path in folders.items():
        found[name] = caption_conformance.findings(name, path)
    return caption_conformance.caption_table(found, folders)


TABLES = {"vision": vision_table, "audio": audio_table, "captions": caption_table}


def main() -> None:
    os.environ["DEVICE"] = "cpu"
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for name, table_of in TABLES.items():
            table = table_of(Path(folder) / name)
            conformance.write_table(name, table)
            failed = failed or conformance.yes(False) in table
            print(table)
    if failed:
        sys.exit(f"a check fails: see {conformance.PAGE}")


if __name__ == "__main__":
    main()
