"""List and prune the item store.

python -m tools.stored_items            list what is stored
python -m tools.stored_items --prune    delete the versions that the current outputs do not use,
                                        and what killed runs left a day ago or earlier:
                                        checkpoints, files of training rows, damaged files
"""

import argparse
import shutil
import time
from pathlib import Path

from audio_from_video.storage import layout, shards
from audio_from_video.storage.item_store import folder

LEFT_BEHIND_S = 86_400.0  # what nobody has touched for so long belongs to no run
LEFT_BEHIND = ("checkpoints/*", "scratch/*", "*/*.damaged")


def versions_in_use(data: Path = layout.DATA) -> set[str]:
    """Return the item versions that the outputs below `data` were packed from."""
    return {shards.item_version(index.parent) for index in data.rglob(shards.INDEX)}


def leftovers() -> list[Path]:
    """Return what killed runs left behind in the store's folder."""
    paths = []
    for pattern in LEFT_BEHIND:
        for path in folder().glob(pattern):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
                paths.append(path)
    return sorted(paths)


def delete_version(path: Path) -> None:
    """Delete a version's database with its write-ahead log."""
    for part in path.parent.glob(path.name + "*"):
        part.unlink()


def list_versions(prune: bool) -> None:
    """Print every stored version; delete those that are not in use where `prune`."""
    used = versions_in_use()
    for path in sorted(folder().glob("*/*.sqlite")):
        unused = path.stem not in used
        state = "in use"
        if unused:
            state = "deleted" if prune else "unused"
        size_mib = path.stat().st_size / 2**20
        print(f"{size_mib:10.1f} MiB  {state:8s}  {path.parent.name}/{path.stem}")
        if unused and prune:
            delete_version(path)


def list_leftovers(prune: bool) -> None:
    """Print what killed runs left; delete it where `prune`."""
    state = "deleted" if prune else "left"
    for path in leftovers():
        print(f"{state:>26s}  {path.parent.name}/{path.name}")
        if not prune:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def main() -> None:
    """List what is stored, or prune it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete the versions that the current outputs do not use",
    )
    arguments = parser.parse_args()
    list_versions(arguments.prune)
    list_leftovers(arguments.prune)


if __name__ == "__main__":
    main()
