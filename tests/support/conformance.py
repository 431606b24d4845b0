"""The tables of docs/backbones.md that say what the checks of tests/backbones find.

`python -m benchmarks.conformance` writes them, and the tests compare them with what they find.
"""

from collections.abc import Iterable

from tests.support.closure import ROOT

PAGE = ROOT / "docs/backbones.md"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def yes(passed: bool) -> str:
    """Return a check's cell."""
    return "yes" if passed else "**no**"


def markers(name: str) -> tuple[str, str]:
    """Return the lines before and behind a table of the page."""
    first = f"<!-- {name}: written by `python -m benchmarks.conformance` -->"
    return first, f"<!-- end of {name} -->"


def table_on_page(name: str) -> str:
    """Return a table as it stands on the page."""
    before, behind = markers(name)
    return PAGE.read_text().split(before)[1].split(behind)[0].strip()


def write_table(name: str, text: str) -> None:
    """Put a table in its place on the page."""
    before, behind = markers(name)
    head, rest = PAGE.read_text().split(before)
    _, tail = rest.split(behind)
    PAGE.write_text(f"{head}{before}\n{text}\n{behind}{tail}")
