"""Files and directories that are written whole or not at all.

A file that is replaced becomes another file: other names of the old one, such as hard links in
DVC's cache, keep its content.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DECIMALS = 6  # of floats in JSON files: enough for figures, and a diff shows changes only


def write_json(path: Path, content: dict) -> None:
    """Write JSON atomically: indented, keys in the given order, floats rounded to DECIMALS.

    Raises ValueError where a number is not finite.
    """
    text = json.dumps(_rounded(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, DECIMALS)
    return value


@contextmanager
def replace_directory(directory: Path) -> Iterator[Path]:
    """Yield an empty folder beside `directory` that takes its place once the block has ended well.

    Where the block raises, `directory` stays as it was.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # a killed run may have left it
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(directory, ignore_errors=True)
    os.replace(temporary, directory)
