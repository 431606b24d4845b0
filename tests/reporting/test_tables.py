"""What tables look like in Markdown, CSV and LaTeX, whatever stands in them."""

import csv
import io

import pytest

from audio_from_video.reporting import tables
from audio_from_video.reporting.tables import (
    COUNT,
    NUMBER,
    POINTS,
    SHARE,
    Cell,
    Table,
    Unit,
    estimate,
    interval,
    latex_text,
    number,
    plain,
    points,
    share,
)

FIGURE = {"mean": 0.12345, "ci95_low": -0.01, "ci95_high": 0.5}


def parsed(table: Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(tables.csv_text(table))))


def test_cells_show_what_people_read():
    assert str(share(FIGURE)) == "12.3 [-1.0, 50.0]"
    assert str(points(FIGURE)) == "+12.3 [-1.0, +50.0]"
    assert str(interval(FIGURE)) == "0.123 [-0.010, 0.500]"
    assert str(estimate(FIGURE, Unit("{:.2f}", 10))) == "1.23 [-0.10, 5.00]"
    assert str(share(dict.fromkeys(FIGURE))) == "no clips"
    assert str(number(-0.0004)) == "0.000"
    assert str(number(-0.0006)) == "-0.001"
    assert str(number(-0.0004, POINTS)) == "-0.0"
    assert str(number(None)) == ""
    assert str(number(12_345, COUNT)) == "12,345"
    assert str(number(0.5, SHARE)) == "50.0"


def test_markdown_has_title_note_table_and_what_stands_below():
    table = Table("t", "Title", ["a", "b|c"], [["x", share(FIGURE)]], "Note.", "Below.")
    assert (
        tables.markdown(table)
        == "## Title\n\nNote.\n\n| a | b\\|c |\n| --- | --- |\n| x | 12.3 [-1.0, 50.0] |\n\nBelow."
    )
    assert (
        tables.markdown(Table("t", "Title", ["a"], [["x"]])) == "## Title\n\n| a |\n| --- |\n| x |"
    )


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("a\nb", "a b"),
        ("a \r\n b", "a b"),
        ("a\\b", "a\\b"),
    ],
)
def test_no_text_breaks_out_of_a_markdown_cell(text, shown):
    assert tables.markdown_text(text) == shown


def test_csv_gives_plain_numbers_and_three_columns_for_an_interval():
    rows = [
        ["`real`", points(FIGURE), number(1_234_567, COUNT), 3],
        ["none", "", number(None), 4],
    ]
    assert parsed(Table("t", "T", ["row", "minus `x`", "*n*", "seeds"], rows)) == [
        ["row", "minus x", "minus x_low", "minus x_high", "n", "seeds"],
        ["real", "12.345", "-1", "50", "1234567", "3"],
        ["none", "", "", "", "", "4"],
    ]


def test_csv_has_no_minus_before_zero():
    rows = [[number(-0.0)], [number(-0.0004)]]
    assert parsed(Table("t", "T", ["x"], rows))[1:] == [["0"], ["-0.0004"]]


def test_csv_of_a_figure_without_clips_is_empty_not_a_word():
    rows = [["a", share(dict.fromkeys(FIGURE))], ["b", share(FIGURE)]]
    assert parsed(Table("t", "T", ["row", "x"], rows))[1] == ["a", "", "", ""]


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+cmd|' /C calc'!A0",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        "`=1+1`",
        "*=1*",
        "-1.0 [-2, 3]",
    ],
)
def test_no_text_is_a_formula_for_a_spreadsheet(text):
    cell = parsed(Table("t", "T", ["x"], [[text]]))[1][0]
    assert cell.startswith("'")
    assert cell.endswith(text.strip("`*")[-1])
    assert plain(f"a{text}")[0] == "a"


@pytest.mark.parametrize("text", ["-1.5", "+3", "1e-3", "-.5", "-2E+4"])
def test_numbers_are_no_formulas(text):
    assert plain(text) == text


def test_commas_and_quotes_survive_csv_and_line_breaks_become_spaces():
    assert parsed(Table("t", "T", ["x", "y"], [['a,"b"', "c\r\nd"]]))[1] == ['a,"b"', "c d"]


def test_latex_escapes_every_special_character():
    assert latex_text("_%&#${}") == r"\_\%\&\#\$\{\}"
    assert latex_text("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert latex_text("a<b|c>\n[d]") == r"a\textless{}b\textbar{}c\textgreater{} {[}d]"
    assert latex_text("`video_only` and *reported*") == r"\texttt{video\_only} and \emph{reported}"


def test_latex_numbers_have_minus_signs():
    assert latex_text(share(FIGURE)) == r"12.3 {\scriptsize [$-$1.0, 50.0]}"
    assert latex_text(number(-0.5)) == "$-$0.500"
    assert latex_text("a-b") == "a-b"
    assert latex_text(Cell((None,), NUMBER, "no clips")) == "no clips"


def test_latex_table_is_booktabs_with_balanced_rows():
    table = Table(
        "my_table",
        "A_title.",
        ["row", "x %"],
        [["a & b", number(1.0)], ["c", ""]],
        "First.\n\nSecond 5 %.",
        "Below_.",
    )
    lines = tables.latex(table).splitlines()
    assert r"\caption{A\_title. First. Second 5 \%.}" in lines
    assert r"\label{tab:my_table}" in lines
    assert r"\begin{tabular}{lr}" in lines
    assert r"row & x \% \\" in lines
    start, end = lines.index(r"\midrule"), lines.index(r"\bottomrule")
    assert lines[start + 1 : end] == [r"a \& b & 1.000 \\", r"c &  \\"]
    assert r"\par\smallskip\footnotesize Below\_." in lines
    assert lines[-1] == r"\end{table*}"
    text = "\n".join(lines).replace(r"\{", "").replace(r"\}", "")
    assert text.count("{") == text.count("}")


def test_html_keeps_cells_and_marks_intervals():
    rows = [["`video_only`", share(FIGURE), ""], ["`generated`", points(FIGURE), "a|b"]]
    table = Table(
        "t", "A `title`", ["condition", "accuracy", "*reported*"], rows, "Note.", "Below."
    )
    text = tables.html(table).replace("\n", "")
    assert text.startswith("<p>Note.</p>")
    assert text.endswith("<p>Below.</p>")
    assert 'aria-label="A title"' in text
    figure = '12.3 <span class="interval">[-1.0, 50.0]</span>'
    heading = '<th scope="row"><code>video_<wbr>only</code></th>'
    assert f'{heading}<td class="number" data-value="12.345">{figure}</td>' in text
    assert text.count("<tr>") == 3
    assert text.count("<th ") == text.count("</th>") == 3 + 2
    assert "<em>reported</em>" in text
    assert "a|b" in text


def test_html_groups_rows_with_their_definitions_and_badges():
    rows = [[f"`{name}`", number] for number, name in enumerate("abc")]
    table = Table("t", "T", ["condition", "n"], rows)
    notes = {"`a`": tables.RowNote("Of <a>"), "`c`": tables.RowNote("Of c", "leaky")}
    text = tables.html(table, notes, {"First": ["`c`"], "Second": ["`a`", "`b`"]})
    assert text.count("<tbody>") == 2
    assert text.index("First") < text.index("<code>c") < text.index("Second")
    assert text.index("Second") < text.index("<code>a") < text.index("<code>b")
    assert '<th scope="rowgroup" colspan="3"><span>First</span></th>' in text
    assert '<td class="definition">Of &lt;a&gt;</td>' in text
    assert '<code>c</code> <span class="badge">leaky</span></th>' in text
    assert text.count("badge") == 1
    assert '<th scope="col">what it is</th>' in text


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (Cell((0.1234,), tables.SHARE), "12.34"),
        (Cell((None,), tables.SHARE, "none"), None),
        (12, "12"),
        ("-1.5", "-1.5"),
        ("", None),
        ("1 or 2", None),
    ],
)
def test_html_cells_carry_the_number_they_are_sorted_by(content, value):
    expected = "" if value is None else f' data-value="{value}"'
    assert tables.sort_value(content) == expected


def test_html_has_a_paragraph_for_each_of_a_note():
    assert tables.html_paragraphs("One.\n\nTwo `x`.") == "<p>One.</p>\n<p>Two <code>x</code>.</p>\n"
    assert tables.html_paragraphs("") == ""


def test_no_text_breaks_out_of_html():
    evil = "<img src=x onerror=alert(1)> & \"'`<b>`"
    table = Table("t", evil, [evil], [[evil]], evil, evil)
    text = tables.html(table)
    assert "<img" not in text
    assert "<b>" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt; &amp; &quot;&#x27;") == 6
    assert "<code>&lt;b&gt;</code>" in text
    assert "<em>" not in tables.html_text("`a*b*c`")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("61.9 [55.0, 68.4]", "number"),
        ("-1.5", "number"),
        ("+0.9 [-1.3, +3.2]", "number"),
        ("480 / 204 / 3", "number"),
        ("58,828", "number"),
        ("*0.41*", "number"),
        (12, "number"),
        (share(FIGURE), "number"),
        (share(dict.fromkeys(FIGURE)), "short"),
        ("real / real", "short"),
        ("", "short"),
    ],
)
def test_html_tells_numbers_and_short_cells_from_text(content, kind):
    assert tables.html_cell(content).startswith(f'<td class="{kind}"')
    assert tables.html_cell("mapped, and then some more").startswith("<td>")


def test_a_banner_stands_above_the_figures_in_every_form():
    table = Table("a", "A", ["x"], [["1"], ["2"]], note="Note.", banner="Of another run: <b>.")
    assert "## A\n\n> Of another run: <b>.\n\nNote.\n\n| x |" in tables.markdown(table)
    assert tables.html(table).startswith(
        '<p class="banner" role="note">Of another run: &lt;b&gt;.</p>\n<p>Note.</p>'
    )
    assert "\\caption{A. Of another run" in tables.latex(table)
    rows = list(csv.DictReader(io.StringIO(tables.csv_text(table))))
    assert [row["of another run"] for row in rows] == ["Of another run: <b>."] * 2
    without = Table("a", "A", ["x"], [["1"]])
    for form in (tables.markdown, tables.html, tables.latex, tables.csv_text):
        assert "banner" not in form(without)
        assert "another run" not in form(without)


def test_write_leaves_the_tables_given_and_nothing_else(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/old.tex").write_text("x")
    tables.write_table_files(tmp_path / "tables", [Table("a", "A", ["x"], [["1"]])])
    assert {path.name: path.read_text() for path in (tmp_path / "tables").glob("*.csv")} == {
        "a.csv": "x\n1\n"
    }
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["a.csv", "a.tex"]
