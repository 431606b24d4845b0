"""List and prune the item store.

python -m tools.stored_items            list what is stored
python -m tools.stored_items --prune    delete the versions that the current outputs do not
                                        use, and what killed runs left a day ago or earlier:
                                        checkpoints, files of training rows, damaged files
"""

import argparse
import shutil
import time
from pathlib import Path

from audio_from_video.storage import layout, shards
from audio_from_video.storage.item_store import folder

LEFT_S = 86_400.0  # what nobody has touched for so long belongs to no run


def versions_in_use(data: Path = layout.DATA) -> set[str]:
    """The item versions that the outputs below `data` were packed from."""
    return {shards.item_version(index.parent) for index in data.rglob(shards.INDEX)}


def leftovers() -> list[Path]:
    """What runs that were killed left behind in the store's folder."""
    found = [
        path
        for pattern in ("checkpoints/*", "scratch/*", "*/*.damaged")
        for path in folder().glob(pattern)
    ]
    return sorted(path for path in found if time.time() - path.stat().st_mtime > LEFT_S)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--prune",
        action="store_true",
        help="delete the versions that the current outputs do not use",
    )
    prune = parser.parse_args().prune
    used = versions_in_use()
    for path in sorted(folder().glob("*/*.sqlite")):
        state = "in use" if path.stem in used else "deleted" if prune else "unused"
        print(
            f"{path.stat().st_size / 2**20:10.1f} MiB  {state:8s}  {path.parent.name}/{path.stem}"
        )
        if state == "deleted":
            for part in path.parent.glob(path.name + "*"):
                part.unlink()
    for path in leftovers():
        print(f"{'deleted' if prune else 'left':>26s}  {path.parent.name}/{path.name}")
        if prune:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


if __name__ == "__main__":
    main()
