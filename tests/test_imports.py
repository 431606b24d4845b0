"""Rooms import only what their row of the table allows; circles between files do not occur."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.support.closure import ROOT

LEARNING = {"runtime", "storage", "learning"}
MEANING = LEARNING | {"meaning", "backbones", "audioset", "media"}
ALLOWED = {  # a room: the rooms that its files may import, beside itself
    "runtime": set(),
    "storage": {"runtime"},
    "media": {"runtime"},
    "audioset": {"runtime"},
    "backbones": {"runtime", "audioset"},
    "clipset": {"runtime", "storage"},
    "world": {"runtime", "audioset"},
    "learning": LEARNING,
    "meaning": MEANING,
    "classification": LEARNING | {"clipset", "audioset", "backbones"},
    "generation": LEARNING | {"clipset", "audioset", "backbones"},
    "captioning": MEANING | {"clipset"},
    "prediction": MEANING | {"classification", "generation"},
    "evaluation": MEANING | {"clipset"},
    "reporting": {"runtime", "storage", "clipset", "evaluation", "media", "audioset"},
}
LIBRARY = "audio_from_video"
FILES = [
    path.relative_to(ROOT)
    for folder in (LIBRARY, "stages", "tools", "benchmarks", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def dotted(path: Path) -> str:
    """Return a file's name as a module."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES}


@cache
def imports(path: Path) -> list[str]:
    """Return the project's modules that a file imports, at its top or within functions."""
    modules = []
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            module = name if name in MODULES else name.rpartition(".")[0]
            if module in MODULES:
                modules.append(module)
    return modules


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_lies_below_it(room):
    upward = []
    for path in FILES:
        if path.parts[:2] != (LIBRARY, room):
            continue
        for module in imports(path):
            parts = module.split(".")
            allowed = parts[0] == LIBRARY and parts[1] in ALLOWED[room] | {room}
            if not allowed:
                upward.append(f"{path} imports {module}")
    assert not upward


TRUTH_DOOR = f"{LIBRARY}.clipset.truth"
TRUTH_READERS = {f"stages/{name}.py" for name in ("sample", "clips", "dictionary", "report")}
TRUTH_READERS.add("benchmarks/scale_parts/tables.py")  # writes a table without rows


def test_only_figures_and_the_report_learn_the_truth_of_rendered_clips():
    """One module names the file; stages that import it write it, measure by it or show it."""
    readers = set()
    for path in FILES:
        if path.parts[0] == "tests" or dotted(path) == TRUTH_DOOR:
            continue
        tree = ast.parse((ROOT / path).read_text())
        names = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert "layout.TRUTH" not in names and "data/truth.parquet" not in texts, path
        if TRUTH_DOOR in imports(path):
            readers.add(path)
    for path in readers:
        room = path.parts[1] if path.parts[0] == LIBRARY else None
        assert room in ("evaluation", "reporting") or str(path) in TRUTH_READERS, path
    assert readers


def test_every_room_has_its_row():
    rooms = {path.parts[1] for path in FILES if path.parts[0] == LIBRARY and len(path.parts) > 2}
    assert rooms == set(ALLOWED)


def test_only_commands_benchmarks_and_tests_import_stages():
    """Stages do not import each other, and the library knows none of them."""
    allowed = ("tools", "benchmarks", "tests")
    wrong = []
    for path in FILES:
        for module in imports(path):
            if module.startswith("stages.") and path.parts[0] not in allowed:
                wrong.append(f"{path} imports {module}")
    assert not wrong


def test_nobody_imports_a_test_and_only_tests_and_benchmarks_import_their_helpers():
    wrong = []
    for path in FILES:
        for module in imports(path):
            if not module.startswith("tests."):
                continue
            is_helper = module.startswith("tests.support")
            if not is_helper or path.parts[0] not in ("tests", "benchmarks"):
                wrong.append(f"{path} imports {module}")
    assert not wrong


def test_no_two_files_import_each_other_in_a_circle():
    below: dict[str, set[str]] = {
        name: set(imports(path)) - {name} for name, path in MODULES.items()
    }
    while leaves := {name for name, modules in below.items() if not modules & set(below)}:
        for name in leaves:
            del below[name]
    assert not below, f"in a circle, or above one: {sorted(below)}"
