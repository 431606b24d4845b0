"""List and prune the item store.

python -m tools.stored_items                       list what is stored, and bytes by stage: its own,
                                                   and those of shards that it shares with outputs
python -m tools.stored_items --prune               delete the versions that the current outputs do
                                                   not use, and what killed runs left a day ago or
                                                   earlier: checkpoints, files of training rows,
                                                   damaged files
python -m tools.stored_items --prune --unused-days 30    only of versions unused for 30 days
python -m tools.stored_items --prune --keep-gib 100      only as many, oldest first, until the
                                                         store has 100 GiB
"""

import argparse
import shutil
import time
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from audio_from_video.storage import layout, shards
from audio_from_video.storage.item_store import DAMAGED, folder

DAY_S = 86_400.0
LEFT_BEHIND_S = DAY_S  # what nobody has touched for so long belongs to no run
# The last one: stores of releases up to 0.2, which nothing reads.
LEFT_BEHIND = ("checkpoints/*", "scratch/*", f"*/*/*{DAMAGED}", "*/*/.*.tmp", "*/*.sqlite*")
GIB = 2**30
MIB = 2**20


@dataclass(frozen=True)
class Version:
    """The stored items of a stage under one version.

    size_bytes: what deleting it frees.  last_use_s: when an item was last stored, in seconds since
    1970.  shared_bytes: of shards that are also files of an output or of DVC's cache, by hard link.
    """

    path: Path
    in_use: bool
    size_bytes: int
    last_use_s: float
    shared_bytes: int = 0

    @property
    def stage(self) -> str:
        """The stage's name in the store."""
        return self.path.parent.name


def versions_in_use(data: Path = layout.DATA) -> set[str]:
    """Return the item versions that the outputs below `data` were packed from."""
    return {shards.item_version(index.parent) for index in data.rglob(shards.INDEX)}


def stored_versions() -> list[Version]:
    """Return all versions of the store, by stage."""
    used = versions_in_use()
    versions = []
    for path in sorted(folder().glob("*/*/")):
        if path.parent.name in ("checkpoints", "scratch"):
            continue
        files = [file.stat() for file in path.iterdir()]
        size_bytes = sum(file.st_size for file in files if file.st_nlink == 1)
        shared_bytes = sum(file.st_size for file in files if file.st_nlink > 1)
        last_use_s = max((file.st_mtime for file in files), default=path.stat().st_mtime)
        versions.append(Version(path, path.name in used, size_bytes, last_use_s, shared_bytes))
    return versions


def prunable(
    versions: list[Version], unused_days: float, keep_gib: float | None, now_s: float
) -> list[Version]:
    """Return the versions to delete, of those not in use: the oldest first.

    unused_days: nothing was stored in them for so long.  keep_gib: no more are deleted once the
    store is as small as that; None deletes them all.
    """
    found = [
        version
        for version in versions
        if not version.in_use and now_s - version.last_use_s >= unused_days * DAY_S
    ]
    found.sort(key=lambda version: version.last_use_s)
    if keep_gib is None:
        return found

    size_bytes = sum(version.size_bytes for version in versions)
    enough: list[Version] = []
    for version in found:
        if size_bytes <= keep_gib * GIB:
            break
        enough.append(version)
        size_bytes -= version.size_bytes
    return enough


def leftovers() -> list[Path]:
    """Return what killed runs left behind in the store's folder."""
    paths = []
    for pattern in LEFT_BEHIND:
        for path in folder().glob(pattern):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
                paths.append(path)
    return sorted(paths)


def list_versions(versions: list[Version], deleted: list[Version]) -> None:
    """Print every stored version, then the bytes of each stage and of all."""
    for version in versions:
        state = "in use" if version.in_use else "unused"
        if version in deleted:
            state = "deleted"
        name = f"{version.stage}/{version.path.name}"
        print(line(version.size_bytes, version.shared_bytes, state, name))
    for stage, group in groupby(versions, key=lambda version: version.stage):
        of_stage = list(group)
        size_bytes = sum(version.size_bytes for version in of_stage)
        shared_bytes = sum(version.shared_bytes for version in of_stage)
        print(line(size_bytes, shared_bytes, "stage", stage))
    size_bytes = sum(version.size_bytes for version in versions)
    shared_bytes = sum(version.shared_bytes for version in versions)
    print(line(size_bytes, shared_bytes, "total", ""))


def line(size_bytes: int, shared_bytes: int, state: str, name: str) -> str:
    """Return a line of the list."""
    sizes = f"{size_bytes / MIB:10.1f} MiB  {shared_bytes / MIB:10.1f} MiB shared"
    return f"{sizes}  {state:8s}  {name}".rstrip()


def list_leftovers(prune: bool) -> None:
    """Print what killed runs left; delete it where `prune`."""
    state = "deleted" if prune else "left"
    for path in leftovers():
        print(f"{state:>26s}  {path.relative_to(folder())}")
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
    parser.add_argument(
        "--unused-days",
        type=float,
        default=0.0,
        metavar="DAYS",
        help="spare versions in which something was stored since",
    )
    parser.add_argument(
        "--keep-gib",
        type=float,
        metavar="GIB",
        help="delete no more once the store is as small as that",
    )
    arguments = parser.parse_args()
    versions = stored_versions()
    deleted: list[Version] = []
    if arguments.prune:
        deleted = prunable(versions, arguments.unused_days, arguments.keep_gib, time.time())
    for version in deleted:
        shutil.rmtree(version.path)
    list_versions(versions, deleted)
    list_leftovers(arguments.prune)


if __name__ == "__main__":
    main()
