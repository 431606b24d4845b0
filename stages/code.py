"""Note what code each stage runs, so that DVC runs a stage again when its own code changes, and only then.

Reads    stages/
Writes   data/code/<stage>.json: each file that the stage's script imports, directly or through others, or opens beside
         itself, with the digest of its content
DVC does not follow imports.  A stage could list its files among its `deps`, but dvc.lock would then hold hundreds of
entries, which DVC reads and writes with every stage that it runs; here it holds one for each stage.
"""

import ast
import hashlib
import json
import re
from pathlib import Path

CODE = Path("stages")
OUTPUT = Path("data/code")


def imported_files(script: Path, root: Path) -> set[str]:
    """Paths (relative to `root`) of a script, of every module below `stages` that it reaches, found without running it, and of
    the files that these open beside themselves."""
    todo, found = [script], set()
    while todo:
        path = todo.pop()
        name = str(path.relative_to(root))
        if name in found:
            continue
        found.add(name)
        text = path.read_text()
        found |= {
            str(path.with_name(data).relative_to(root))
            for data in re.findall(r'__file__\)\.with_name\("(.+?)"\)', text)
        }
        for node in ast.walk(ast.parse(text)):
            todo += [module for dotted in _names(node) if (module := _file(dotted, root))]
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _file(dotted: str, root: Path) -> Path | None:
    path = root / (dotted.replace(".", "/") + ".py")
    return path if dotted.startswith("stages") and path.is_file() else None


def main() -> None:
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for script in sorted(CODE.glob("*.py")):
        if script.stem not in ("__init__", "code"):
            files = {CODE / "__init__.py", *map(Path, imported_files(script, Path()))}
            digests = {
                str(path): hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
                for path in sorted(files)
            }
            (OUTPUT / f"{script.stem}.json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    main()
