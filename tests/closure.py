"""The files of this repository that a stage script imports, directly or through others, found without running it."""
import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported_files(script: Path) -> set[str]:
    """Paths (relative to the repository root) of `script` and every module below `stages` that it reaches."""
    todo, found = [script], set()
    while todo:
        path = todo.pop()
        name = str(path.relative_to(ROOT))
        if name in found:
            continue
        found.add(name)
        text = path.read_text()
        found |= {str(path.with_name(data).relative_to(ROOT)) for data in re.findall(r'__file__\)\.with_name\("(.+?)"\)', text)}
        for node in ast.walk(ast.parse(text)):
            todo += [module for dotted in _names(node) if (module := _file(dotted))]
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


def _file(dotted: str) -> Path | None:
    path = ROOT / (dotted.replace(".", "/") + ".py")
    return path if dotted.startswith("stages") and path.is_file() else None
