"""Tables as values, and the three forms in which they are written: Markdown, CSV and LaTeX (booktabs).

A cell is text or a `Cell`, a number that knows how it is shown.  Text may hold `code` and *emphasis* in Markdown's marks.
CSV gives plain numbers in the unit that the table shows (per cent where it says per cent), an interval in three columns:
`x`, `x_low`, `x_high`.
"""

import csv
import io
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LATEX = {character: f"\\{character}" for character in "_%&#${}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
}
CODE, EMPHASIS = re.compile(r"`([^`]+)`"), re.compile(r"\*([^*]+)\*")
FORMULA = tuple("=+-@")  # what a spreadsheet takes a cell for a formula by


@dataclass(frozen=True)
class Cell:
    """A number (mean,) or a figure (mean, low, high) and the format in which people read it; (None,) shows as `empty`."""

    values: tuple[float | int | None, ...]
    form: str
    empty: str = ""

    def __str__(self) -> str:
        if self.values[0] is None:
            return self.empty
        mean, *bounds = (self.form.format(value) for value in self.values)
        return f"{mean} [{', '.join(bounds)}]" if bounds else mean


Content = str | int | Cell


@dataclass(frozen=True)
class Table:
    """name: stem of its files; note: what stands between title and table; below: after it."""

    name: str
    title: str
    header: list[str]
    rows: list[list[Content]]
    note: str = ""
    below: str = ""


def figure(value: dict, form: str, scale: float = 1, empty: str = "no clips") -> Cell:
    """A cell of a figure `{mean, ci95_low, ci95_high}`, times `scale`."""
    numbers = [value[key] for key in ("mean", "ci95_low", "ci95_high")]
    return Cell(
        tuple(None if number is None else scale * number for number in numbers), form, empty
    )


def percent(value: dict, signed: bool = False) -> Cell:
    """A figure in per cent (points for differences)."""
    return figure(value, "{:+.1f}" if signed else "{:.1f}", 100)


def interval(value: dict) -> Cell:
    """A figure as it is, to three places."""
    return figure(value, "{:.3f}")


def number(value: float | None, form: str = "{:.3f}") -> Cell:
    return Cell((value,), form)


def grid(header: list[str], rows: list[list[Content]]) -> str:
    """Header and rows in Markdown."""
    lines: list[list] = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(markdown_text(str(cell)) for cell in line) + " |" for line in lines
    )


def markdown_text(text: str) -> str:
    """A backslash before a pipe would undo the pipe's own, so it is doubled."""
    return re.sub(r"(\\*)\|", lambda found: 2 * found[1] + r"\|", one_line(text))


def one_line(text: str) -> str:
    """Text without line breaks, which no cell of the three forms can be trusted to survive."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text)


def markdown(table: Table) -> str:
    """Title, note, table and what stands below it."""
    return "\n\n".join(
        part
        for part in (f"## {table.title}", table.note, grid(table.header, table.rows), table.below)
        if part
    )


def plain(text: str) -> str:
    """Text without Markdown's marks, as no spreadsheet takes it for a formula."""
    text = one_line(EMPHASIS.sub(r"\1", CODE.sub(r"\1", text))).strip()
    return f"'{text}" if text.startswith(FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text) is not None


def csv_text(table: Table) -> str:
    """Plain numbers, six significant digits; a column in which a cell has an interval becomes three."""
    columns = []
    for name, cells in zip(table.header, columns_of(table), strict=True):
        spread = any(isinstance(cell, Cell) and len(cell.values) == 3 for cell in cells)
        for part, suffix in enumerate(("", "_low", "_high") if spread else ("",)):
            columns.append([plain(name) + suffix, *(csv_value(cell, part) for cell in cells)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def columns_of(table: Table) -> list[list[Content]]:
    return [[row[i] for row in table.rows] for i in range(len(table.header))]


def csv_value(content: Content, part: int) -> str:
    """The mean (part 0) or a bound of a cell; '' for what it has not."""
    if not isinstance(content, Cell):
        return "" if part else plain(str(content))
    value = content.values[part] if part < len(content.values) else None
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"


def latex_text(content: Content) -> str:
    """Escaped text; marks become commands, minus signs of numbers are true ones and intervals smaller than their figures."""
    if isinstance(content, Cell) and content.values[0] is not None:
        return (
            re.sub(r" (\[.+\])", r" {\\scriptsize \1}", str(content))
            .replace("-", "$-$")
            .replace("%", r"\%")
        )
    text = "".join(LATEX.get(character, character) for character in one_line(str(content)))
    return EMPHASIS.sub(r"\\emph{\1}", CODE.sub(r"\\texttt{\1}", text))


def latex(table: Table) -> str:
    """A float for booktabs and graphicx; a table too wide for the line is scaled down to it."""
    numeric = [
        all(isinstance(cell, Cell | int) or not cell for cell in cells)
        for cells in columns_of(table)
    ]
    lines: list[list] = [table.header, *table.rows]
    head, *body = (" & ".join(latex_text(cell) for cell in line) + r" \\" for line in lines)
    caption = ". ".join(part.rstrip(".") for part in (table.title, table.note) if part)
    return "\n".join(
        [
            "% \\usepackage{booktabs, graphicx}; written by `python -m stages.report`",
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{latex_text(caption)}.}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *([rf"\par\smallskip\footnotesize {latex_text(table.below)}"] if table.below else []),
            r"\end{table*}",
            "",
        ]
    )


def write(folder: Path, tables: Iterable[Table]) -> None:
    """Write <name>.csv and <name>.tex of each table into the folder, and remove what else it held."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for table in tables:
        (folder / f"{table.name}.csv").write_text(csv_text(table))
        (folder / f"{table.name}.tex").write_text(latex(table))
