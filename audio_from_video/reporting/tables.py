"""Tables as values, and their four written forms: Markdown, CSV, LaTeX (booktabs) and HTML.

A cell is text, a whole number or a `Cell`: a figure that knows its unit.  Text may hold `code` and
*emphasis* in Markdown's marks.  CSV gives plain numbers in the unit that the table shows (per cent
where it says per cent), an interval in three columns: `x`, `x_low`, `x_high`.
"""

import base64
import csv
import html as html_escapes
import io
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

LATEX_ESCAPES = {character: f"\\{character}" for character in "_%&#${}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
}
CODE = re.compile(r"`([^`]+)`")
EMPHASIS = re.compile(r"\*([^*]+)\*")
NUMBER_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
INTERVAL_TEXT = re.compile(r"\[[-+]?[\d.]+, [-+]?[\d.]+\]")
# A count, a number with its interval or counts between slashes, also in emphasis.
FIGURE_TEXT = re.compile(r"[-+*]*\d[\d.,]*[*]*( \[.*\])?( / .*)?$")

# A spreadsheet takes text that begins with one of these for a formula.
FORMULA_STARTS = tuple("=+-@")
SHORT_TEXT = 14  # characters; shorter text stays on one line of the HTML page


@dataclass(frozen=True)
class Unit:
    """How a figure is shown: the format of a number, after it was multiplied by `scale`."""

    form: str
    scale: int = 1


SHARE = Unit("{:.1f}", 100)  # a fraction, shown in per cent
POINTS = Unit("{:+.1f}", 100)  # a difference of fractions, shown in points
# z: 0.000 has no minus.  Points keep theirs: a bound of -0.0 says that an interval holds 0.
NUMBER = Unit("{:z.3f}")
SHORT_NUMBER = Unit("{:z.2f}")
P_VALUE = Unit("{:.2g}")
COUNT = Unit("{:,}")


@dataclass(frozen=True)
class Cell:
    """A number (mean,) or an estimate (mean, low, high) with its unit; (None,) shows as `empty`."""

    values: tuple[float | int | None, ...]
    unit: Unit
    empty: str = ""

    @property
    def scaled(self) -> tuple[float | int | None, ...]:
        """The values in the unit that is shown."""
        scale = self.unit.scale
        return tuple(None if value is None else scale * value for value in self.values)

    def __str__(self) -> str:
        if self.values[0] is None:
            return self.empty
        mean, *bounds = (self.unit.form.format(value) for value in self.scaled)
        return f"{mean} [{', '.join(bounds)}]" if bounds else mean


Content = str | int | Cell


@dataclass(frozen=True)
class Table:
    """A table with its texts.

    name: stem of its files.  note: paragraphs between title and table.  below: paragraphs after it.
    banner: a sentence above figures of another run (stamps.py), '' for those of this run.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[Content]]
    note: str = ""
    below: str = ""
    banner: str = ""

    @property
    def columns(self) -> list[list[Content]]:
        """The cells by column, without the header."""
        columns: list[list[Content]] = [[] for _ in self.header]
        for row in self.rows:
            for column, content in zip(columns, row, strict=True):
                column.append(content)
        return columns


def estimate(value: dict, unit: Unit, empty: str = "no clips") -> Cell:
    """Return the cell of an estimate `{mean, ci95_low, ci95_high}` with its interval."""
    return Cell((value["mean"], value["ci95_low"], value["ci95_high"]), unit, empty)


def share(value: dict) -> Cell:
    """Return the cell of a fraction with its interval, in per cent."""
    return estimate(value, SHARE)


def points(value: dict) -> Cell:
    """Return the cell of a difference of fractions with its interval, in points with a sign."""
    return estimate(value, POINTS)


def interval(value: dict) -> Cell:
    """Return the cell of an estimate that is no fraction, to three places."""
    return estimate(value, NUMBER)


def number(value: float | None, unit: Unit = NUMBER) -> Cell:
    """Return the cell of a number without interval; None shows as nothing."""
    return Cell((value,), unit)


def one_line(text: str) -> str:
    """Return text without line breaks, which no form of a table can be trusted to survive."""
    return re.sub(r"\s*[\r\n]+\s*", " ", text)


# ---- Markdown ----


def markdown(table: Table) -> str:
    """Return title, banner, note, table and what stands below it in Markdown."""
    grid_text = grid(table.header, table.rows)
    parts = (f"## {table.title}", quote(table.banner), table.note, grid_text, table.below)
    return "\n\n".join(part for part in parts if part)


def quote(text: str) -> str:
    """Return a sentence as a quotation in Markdown, which stands out; '' without a text."""
    return f"> {text}" if text else ""


def grid(header: list[str], rows: list[list[Content]]) -> str:
    """Return header and rows as a Markdown table."""
    lines: list[list] = [header, ["---"] * len(header), *rows]
    return "\n".join(markdown_line(line) for line in lines)


def markdown_line(cells: Iterable[Content]) -> str:
    """Return a line of a Markdown table."""
    return "| " + " | ".join(markdown_text(str(cell)) for cell in cells) + " |"


def markdown_text(text: str) -> str:
    """Return text with escaped pipes.

    A backslash before a pipe is doubled, as it would undo the pipe's own.
    """
    return re.sub(r"(\\*)\|", lambda match: 2 * match[1] + r"\|", one_line(text))


# ---- CSV ----


def csv_text(table: Table) -> str:
    """Return the table as CSV: plain numbers, six significant digits.

    A column in which a cell has an interval becomes three.  The banner stands in every row.
    """
    columns = []
    for name, cells in zip(table.header, table.columns, strict=True):
        has_interval = any(isinstance(cell, Cell) and len(cell.values) == 3 for cell in cells)
        suffixes = ("", "_low", "_high") if has_interval else ("",)
        for part, suffix in enumerate(suffixes):
            columns.append([plain(name) + suffix, *(csv_value(cell, part) for cell in cells)])
    if table.banner:
        columns.append(["of another run", *[plain(table.banner)] * len(table.rows)])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*columns, strict=True))
    return text.getvalue()


def csv_value(content: Content, part: int) -> str:
    """Return the mean (part 0) or a bound of a cell; '' for what it has not."""
    if not isinstance(content, Cell):
        return "" if part else plain(str(content))
    value = content.scaled[part] if part < len(content.values) else None
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:z.6g}"


def plain(text: str) -> str:
    """Return text without Markdown's marks, such that no spreadsheet takes it for a formula."""
    text = EMPHASIS.sub(r"\1", CODE.sub(r"\1", text))
    text = one_line(text).strip()
    is_formula = text.startswith(FORMULA_STARTS) and NUMBER_TEXT.fullmatch(text) is None
    return f"'{text}" if is_formula else text


# ---- LaTeX ----


def latex(table: Table) -> str:
    """Return a float for booktabs and graphicx; a table that is too wide is scaled to the line."""
    alignment = "".join("r" if is_numeric(cells) else "l" for cells in table.columns)
    lines: list[list] = [table.header, *table.rows]
    head, *body = (latex_line(line) for line in lines)
    caption = ". ".join(
        part.rstrip(".") for part in (table.title, table.banner, table.note) if part
    )
    below = [rf"\par\smallskip\footnotesize {latex_text(table.below)}"] if table.below else []
    return "\n".join(
        [
            "% \\usepackage{booktabs, graphicx}; written by `python -m stages.report`",
            r"\begin{table*}",
            r"\centering\small",
            rf"\caption{{{latex_text(caption)}.}}",
            rf"\label{{tab:{table.name}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            *below,
            r"\end{table*}",
            "",
        ]
    )


def is_numeric(cells: list[Content]) -> bool:
    """Return whether a column holds nothing but figures and gaps."""
    return all(isinstance(cell, Cell | int) or not cell for cell in cells)


def latex_line(cells: Iterable[Content]) -> str:
    """Return a line of a LaTeX table."""
    return " & ".join(latex_text(cell) for cell in cells) + r" \\"


def latex_text(content: Content) -> str:
    """Return escaped text whose marks are commands.

    Minus signs of figures are true ones, and intervals are smaller than their figures.
    """
    if isinstance(content, Cell) and content.values[0] is not None:
        text = re.sub(r" (\[.+\])", r" {\\scriptsize \1}", str(content))
        return text.replace("-", "$-$").replace("%", r"\%")
    characters = (LATEX_ESCAPES.get(character, character) for character in one_line(str(content)))
    text = CODE.sub(r"\\texttt{\1}", "".join(characters))
    return EMPHASIS.sub(r"\\emph{\1}", text)


# ---- HTML ----


@dataclass(frozen=True)
class RowNote:
    """What an HTML table says of a row beside its name: a line that defines it, and a badge."""

    definition: str
    badge: str = ""


RowNotes = Mapping[str, RowNote]


def html(
    table: Table, notes: RowNotes | None = None, groups: Mapping[str, Iterable[str]] | None = None
) -> str:
    """Return note, table and what stands below it in HTML.

    The title is the table's accessible name.  The table comes in a container that scrolls, with a
    link to its CSV.  The first column holds the headings of the rows.

    notes: by the text of the first cell.  groups: texts of first cells by the title of their group,
    in which the rows then stand, each with its definition in a second column.
    """
    notes = notes or {}
    label = html_escapes.escape(plain(table.title))
    header = list(table.header)
    if groups:
        header.insert(1, "what it is")
        rows_by_name = {str(row[0]): row for row in table.rows}
        bodies = ""
        for title, names in groups.items():
            rows = [rows_by_name[name] for name in names]
            lines = "".join(html_line(row, notes, defined=True) for row in rows)
            bodies += f"{html_group_body(title, len(header), lines)}\n"
    else:
        bodies = f"<tbody>\n{''.join(html_line(row, notes) for row in table.rows)}</tbody>"
    titles = "".join(f'<th scope="col">{html_text(name)}</th>' for name in header)
    return (
        f"{html_banner(table.banner)}"
        f"{html_paragraphs(table.note)}"
        f'<div class="frame-of-table"><div class="table" role="region" tabindex="0" '
        f'aria-label="{label}"><table>\n'
        f"<thead><tr>{titles}</tr></thead>\n{bodies}</table></div></div>\n"
        f'<p class="below">{csv_link(table)}</p>\n'
        f"{html_paragraphs(table.below)}"
    )


def html_group_body(title: str, columns: int, lines: str) -> str:
    """Return the rows of a group with a line that names it."""
    heading = f'<th scope="rowgroup" colspan="{columns}"><span>{html_text(title)}</span></th>'
    return f'<tbody>\n<tr class="group">{heading}</tr>\n{lines}</tbody>'


def csv_link(table: Table) -> str:
    """Return a link that saves the table as CSV; the link holds the file."""
    content = base64.b64encode(csv_text(table).encode()).decode()
    name = html_escapes.escape(table.name)
    label = html_escapes.escape(f"Save as CSV: {plain(table.title)}")
    return (
        f'<a class="csv" download="{name}.csv" aria-label="{label}" '
        f'href="data:text/csv;base64,{content}">Save as CSV</a>'
    )


def html_line(cells: list[Content], notes: RowNotes, defined: bool = False) -> str:
    """Return a row of an HTML table; defined: whether its definition is a column."""
    heading, *others = cells
    note = notes.get(str(heading), RowNote(""))
    badge = f' <span class="badge">{html_text(note.badge)}</span>' if note.badge else ""
    definition = f'<td class="definition">{html_text(note.definition)}</td>' if defined else ""
    cells_html = "".join(html_cell(cell) for cell in others)
    name = f'<th scope="row"{sort_value(heading)}>{html_text(heading)}{badge}</th>'
    return f"<tr>{name}{definition}{cells_html}</tr>\n"


def html_cell(content: Content) -> str:
    """Return a cell whose class says whether it is a number or short: both stay on one line."""
    text = str(content)
    kind = ""
    if FIGURE_TEXT.match(text):
        kind = ' class="number"'
    elif len(text) < SHORT_TEXT:
        kind = ' class="short"'
    return f"<td{kind}{sort_value(content)}>{html_text(content)}</td>"


def sort_value(content: Content) -> str:
    """Return the attribute with the number that a cell is sorted by; '' for text."""
    value = ""
    if isinstance(content, int):
        value = str(content)
    elif isinstance(content, Cell):
        value = csv_value(content, 0)
    elif NUMBER_TEXT.fullmatch(content):
        value = content
    return f' data-value="{value}"' if value else ""


def html_banner(text: str) -> str:
    """Return the banner above figures of another run; '' without a text."""
    return f'<p class="banner" role="note">{html_text(text)}</p>\n' if text else ""


def html_paragraphs(text: str) -> str:
    """Return the paragraphs of a text, which empty lines separate."""
    return "".join(f"<p>{html_text(part)}</p>\n" for part in text.split("\n\n") if part)


def html_text(content: Content) -> str:
    """Return escaped text whose marks are elements and whose intervals are marked.

    Names in code may break after an underscore, and nowhere else.
    """
    pieces = CODE.split(str(content))
    # What CODE.split captured stands at the odd places: code, in which nothing else is marked.
    for i, piece in enumerate(pieces):
        escaped = html_escapes.escape(piece)
        if i % 2:
            pieces[i] = f"<code>{escaped.replace('_', '_<wbr>')}</code>"
        else:
            marked = INTERVAL_TEXT.sub(r'<span class="interval">\g<0></span>', escaped)
            pieces[i] = EMPHASIS.sub(r"<em>\1</em>", marked)
    return "".join(pieces)


# ---- files ----


def write_table_files(folder: Path, tables: Iterable[Table]) -> None:
    """Write <name>.csv and <name>.tex of each table into the folder and remove all else in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for table in tables:
        (folder / f"{table.name}.csv").write_text(csv_text(table))
        (folder / f"{table.name}.tex").write_text(latex(table))
