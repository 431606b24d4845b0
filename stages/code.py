"""Note what code each stage runs: DVC runs a stage again when that code changes, and only then.

Reads    stages/, audio_from_video/
Writes   data/code/<stage>.json: the digest of every file that the stage's script imports, directly
         or through others, of the packages' `__init__.py` on the way to them, and of the data
         files that lie in the same folders as those modules' code
DVC does not follow imports.  A stage could list its files among its `deps`, but dvc.lock would then
hold hundreds of entries, which DVC reads and writes with every stage that it runs; here it holds
one for each stage.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

from audio_from_video.runtime.digests import file_digest
from audio_from_video.storage import layout

STAGES = Path("stages")
PACKAGES = ("stages", "audio_from_video")
OUTPUT = layout.CODE


def imported_files(script: Path, root: Path) -> set[Path]:
    """Return the files below `root` that a script runs, found without running it.

    script: path relative to `root`, as the results are.  Imports are followed within PACKAGES,
    also those inside functions.  A module comes with the `__init__.py` of the packages that hold
    it, and with each data file of its own folder whose name stands in its text.
    """
    files: set[Path] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        if path in files:
            continue
        files.add(path)
        text = (root / path).read_text()
        files |= _data_files(path, text, root)
        for name in _imported_names(ast.parse(text)):
            waiting += _module_files(name, root)
    return files


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names that may be modules: `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"


def _module_files(name: str, root: Path) -> list[Path]:
    """The file of a module and the `__init__.py` of each package above it; none for strangers'."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return []
    packages = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    candidates = [*packages, Path(*parts).with_suffix(".py")]
    return [path for path in candidates if (root / path).is_file()]


def _data_files(path: Path, text: str, root: Path) -> set[Path]:
    """Files beside a module that are no code and that it names."""
    neighbours = (root / path).parent.iterdir()
    return {
        file.relative_to(root)
        for file in neighbours
        if file.is_file() and file.suffix not in (".py", ".pyc") and f'"{file.name}"' in text
    }


def main() -> None:
    """Write the digests of every stage's files."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for script in sorted(STAGES.glob("*.py")):
        if script.stem in ("__init__", "code"):
            continue
        files = imported_files(script, Path()) | {STAGES / "__init__.py"}
        digests = {str(path): file_digest(path) for path in sorted(files)}
        (OUTPUT / f"{script.stem}.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
