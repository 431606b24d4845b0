"""Measure how densely the code is written, over folders or files of Python source.

    python -m benchmarks.code_measures [PATH ...]

Without a path these are audio_from_video, stages, tools and benchmarks. Prints one figure a line:
tokens per code line, long lines, blank lines within functions, nested comprehensions and tuple
assignments per 1,000 statements, comments, docstrings that give shapes, arguments, results or
errors, long functions, annotated arguments.
"""

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

DEFAULT = ("audio_from_video", "stages", "tools", "benchmarks")
LONG_LINE = 100  # characters
LONG_FUNCTION = 40  # lines
PER_STATEMENTS = 1000
LAYOUT = {
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.COMMENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What makes a docstring a detailed one: a shape in brackets, or a word about results and errors.
DETAIL = re.compile(
    r"\[[A-Z0-9n]\b[^\]]*\]|\b(Args|Returns|Raises|Yields)\b|\b(return|raise|yield)s?\b", re.I
)


def python_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files among `paths`, and the Python files below its folders."""
    files: list[Path] = []
    for path in paths:
        files += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return files


def docstring_lines(tree: ast.AST) -> set[int]:
    """Return the numbers of the lines that belong to a docstring."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list) or not body:
            continue
        first = body[0]
        if not isinstance(first, ast.Expr) or not isinstance(first.value, ast.Constant):
            continue
        if isinstance(first.value.value, str):
            lines.update(line_numbers(first))
    return lines


def line_numbers(node: ast.stmt) -> range:
    """Return the numbers of a statement's lines, decorators left out."""
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def count_lines(text: str, tree: ast.AST, counts: Counter) -> None:
    """Add lines, tokens and comments of one file; docstrings are no code lines."""
    documented = docstring_lines(tree)
    code_lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            counts["comments"] += 1
        elif token.type not in LAYOUT and token.start[0] not in documented:
            counts["tokens"] += 1
            code_lines.update(range(token.start[0], token.end[0] + 1))
    counts["code_lines"] += len(code_lines)
    for line in text.splitlines():
        counts["lines"] += 1
        counts["long_lines"] += len(line) > LONG_LINE


def count_nodes(text: str, tree: ast.AST, counts: Counter) -> None:
    """Add statements, comprehensions, functions and arguments of one file."""
    lines = text.splitlines()
    for node in ast.walk(tree):
        counts["statements"] += isinstance(node, ast.stmt)
        if isinstance(node, COMPREHENSIONS):
            # A walk begins with the node itself; two `for` in one comprehension are nested, too.
            parts = [part for part in ast.walk(node) if isinstance(part, COMPREHENSIONS)]
            counts["nested_comprehensions"] += len(parts) > 1 or len(node.generators) > 1
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            counts["tuple_assignments"] += isinstance(node.targets[0], ast.Tuple)
        if isinstance(node, FUNCTIONS):
            count_function(node, lines, counts)


def count_function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], counts: Counter
) -> None:
    """Add a function's length, blank lines, arguments and docstring."""
    body = [lines[number - 1] for number in line_numbers(node)]
    counts["functions"] += 1
    counts["long_functions"] += len(body) > LONG_FUNCTION
    counts["function_lines"] += len(body)
    counts["blank_lines"] += sum(not line.strip() for line in body)

    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    counts["arguments"] += len(named)
    counts["annotated"] += sum(argument.annotation is not None for argument in named)

    if not node.name.startswith("_"):
        counts["public"] += 1
        counts["detailed"] += bool(DETAIL.search(ast.get_docstring(node) or ""))


def count_all(files: Iterable[Path]) -> Counter:
    """Return the counts of all files together, by name."""
    counts: Counter = Counter()
    for path in files:
        text = path.read_text()
        tree = ast.parse(text)
        count_lines(text, tree, counts)
        count_nodes(text, tree, counts)
    return counts


def figures(counts: Counter) -> dict[str, float]:
    """Return the figures that are printed, by their names."""

    def ratio(part: str, whole: str, factor: float = 1.0) -> float:
        return factor * counts[part] / max(1, counts[whole])

    return {
        "lines": counts["lines"],
        "tokens per code line": ratio("tokens", "code_lines"),
        f"lines over {LONG_LINE} characters, %": ratio("long_lines", "lines", 100),
        "blank lines within functions, %": ratio("blank_lines", "function_lines", 100),
        f"nested comprehensions per {PER_STATEMENTS:,} statements": ratio(
            "nested_comprehensions", "statements", PER_STATEMENTS
        ),
        f"tuple assignments per {PER_STATEMENTS:,} statements": ratio(
            "tuple_assignments", "statements", PER_STATEMENTS
        ),
        "comments per 100 code lines": ratio("comments", "code_lines", 100),
        "public docstrings with shapes, arguments, returns or raises, %": ratio(
            "detailed", "public", 100
        ),
        f"functions over {LONG_FUNCTION} lines, %": ratio("long_functions", "functions", 100),
        "arguments annotated, %": ratio("annotated", "arguments", 100),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.code_measures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", type=Path, default=[Path(name) for name in DEFAULT])
    files = python_files(parser.parse_args().paths)
    for name, value in figures(count_all(files)).items():
        print(f"{value:10.1f}  {name}")


if __name__ == "__main__":
    main()
