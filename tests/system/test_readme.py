"""The README and the pages of docs/ against the committed tables and what the repository holds."""

import csv
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.closure import ROOT

README = ROOT / "README.md"
DOCS = sorted(ROOT.glob("docs/*.md"))
CHANGELOG = ROOT / "CHANGELOG.md"  # also names what is no more
WRITTEN_BY_REPORT = ROOT / "docs/results.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", CHANGELOG, *DOCS]
PRESENT = [page for page in PAGES if page not in (CHANGELOG, WRITTEN_BY_REPORT)]

MAIN_TABLES = "metrics/tables.md"
CONFIRMATION_TABLES = "metrics/experiments/confirmation/tables.md"
README_TABLE = "metrics/tables/readme.md"
REAL_TABLES = ROOT / "metrics/experiments/real/tables.md"
REAL_GAINS = ROOT / "metrics/experiments/real_gains.csv"
REAL_SEGMENTS = ROOT / "metrics/experiments/real_segments.json"
SHARE = "{:.1f} [{:.1f}, {:.1f}]"
POINTS = "{:+.1f} [{:+.1f}, {:+.1f}]"
README_CONDITIONS = (
    "video_only",
    "real_audio",
    "validated",
    "mapped_validated",
    "logistic",
    "logistic_real",
    "logistic_generated",
    "logistic_mapped",
    "logistic_shuffled",
)

# 62.6 [56.4, 68.6] or +14.7 [+10.3, +19.4]
FIGURE_WITH_INTERVAL = re.compile(r"[+-]?\d+\.\d+ \[[+-]?\d+\.\d+, [+-]?\d+\.\d+\]")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


every_page = pytest.mark.parametrize("page", PAGES, ids=name_of)
every_page_on_the_present = pytest.mark.parametrize("page", PRESENT, ids=name_of)


def committed(path: str) -> str | None:
    """Text of a file at HEAD, or None.  Skips where there is no repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("no Git repository: a run may have replaced the committed tables")
    command = ["git", "-C", str(ROOT), "show", f"HEAD:{path}"]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout if result.returncode == 0 else None


def versions(path: str) -> list[str]:
    """Texts of a file that the README may quote: as committed, and as it is about to be committed.

    A run on another processor may change the file's last digits.  The README then still quotes the
    committed text.
    """
    texts = [committed(path)]
    if (ROOT / path).is_file():
        texts.append((ROOT / path).read_text())
    return [text for text in texts if text is not None]


def table_rows(text: str) -> dict[str, list[str]]:
    """Cells of a Markdown table's rows, by the name in backticks in the first."""
    rows = {}
    for line in text.splitlines():
        match = re.match(r"\| `(\w+)` \|", line)
        if match:
            rows[match.group(1)] = [cell.strip() for cell in line.strip("|").split("|")]
    return rows


def section(text: str, heading: str) -> str:
    """The text between a heading of the second level and the next one."""
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_results_are_rows_of_the_main_table():
    quoted = table_rows(section(README.read_text(), "Results"))
    assert tuple(quoted) == README_CONDITIONS
    agreements = []
    for tables in versions(MAIN_TABLES):
        main = table_rows(section(tables, "Main table"))
        # condition, audio in training / at test, accuracy, difference to video_only
        agreements.append(all(main[name][:4] == cells for name, cells in quoted.items()))
    assert any(agreements)


def test_results_are_the_table_that_report_wrote_for_the_readme():
    if committed(README_TABLE) is None:
        pytest.skip(f"{README_TABLE} is not committed yet")
    readme = README.read_text()
    assert any(table.strip() in readme for table in versions(README_TABLE))


def test_figures_with_intervals_stand_in_the_tables():
    text = README.read_text().replace("\n", " ")
    quoted = FIGURE_WITH_INTERVAL.findall(text)
    assert quoted
    confirmations = "".join(versions(CONFIRMATION_TABLES))
    missing = []
    for tables in versions(MAIN_TABLES):
        missing.append([figure for figure in quoted if figure not in tables + confirmations])
    assert [] in missing


def test_figures_of_real_clips_are_those_that_their_run_left():
    """The table has every condition of the run, and intervals stand in its files."""
    page = (ROOT / "docs/real_clips.md").read_text()
    tables = REAL_TABLES.read_text()
    written = table_rows(section(page, "Accuracy"))
    of_run = table_rows(section(tables, "Main table"))
    # condition, what it is, accuracy, difference to video_only
    assert {name: cells[2:4] for name, cells in written.items()} == {
        name: cells[2:4] for name, cells in of_run.items()
    }

    known = tables
    for row in csv.DictReader(REAL_GAINS.open()):
        for gain in ("gain", "gain_over_control"):
            if row[gain]:
                points = [100 * float(row[gain + end]) for end in ("", "_low", "_high")]
                known += POINTS.format(*points) + "\n"
    segments = json.loads(REAL_SEGMENTS.read_text())
    for figure, form in (
        (segments["pooled"]["accuracy"], SHARE),
        (segments["windows"]["accuracy"], SHARE),
        (segments["windows"]["difference"], POINTS),
    ):
        values = [100 * figure[key] for key in ("mean", "ci95_low", "ci95_high")]
        known += form.format(*values) + "\n"
    quoted = FIGURE_WITH_INTERVAL.findall(page)
    assert quoted
    assert [figure for figure in quoted if figure not in known] == []


def test_readme_is_one_page():
    text = README.read_text()
    assert len(text.splitlines()) <= 170
    assert len(text.split()) <= 1500


def test_readme_counts_the_conditions():
    conditions = yaml.safe_load((ROOT / "params.yaml").read_text())["classifier"]["conditions"]
    counts = re.findall(r"(\d+) conditions", README.read_text())
    assert counts and {int(count) for count in counts} == {len(conditions)}


def parameter(document: dict, key: str) -> bool:
    """Whether a dotted key stands in params.yaml."""
    for name in key.split("."):
        if not isinstance(document, dict) or name not in document:
            return False
        document = document[name]
    return True


@every_page_on_the_present
def test_parameters_exist(page):
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    text = page.read_text()
    changed = re.findall(r"-S '?([\w.]+)=", text)
    in_text = re.findall(
        r"`(\w+(?:\.\w+)+)(?:: [^`]+)?`", text
    )  # `section.key` or `section.key: value`
    named = [key for key in in_text if key.split(".")[0] in document]
    missing = [key for key in changed + named if not parameter(document, key)]
    assert not missing


@every_page_on_the_present
def test_commands_name_modules_that_exist(page):
    for module in re.findall(r"python -m ((?:stages|tools|benchmarks)\.\w+)", page.read_text()):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


@every_page_on_the_present
def test_experiments_exist(page):
    named = yaml.safe_load((ROOT / "params.yaml").read_text())["experiments"]["named"]
    asked = re.findall(r"python -m tools\.experiments (\w+)", page.read_text())
    assert set(asked) <= set(named)


def test_every_experiment_and_condition_is_documented():
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    experiments = (ROOT / "docs/experiments.md").read_text()
    for name in document["experiments"]["named"]:
        assert f"python -m tools.experiments {name}`" in experiments
    full = yaml.safe_load((ROOT / "params/full.yaml").read_text())
    conditions = (ROOT / "docs/conditions.md").read_text()
    for name in [*document["classifier"]["conditions"], *full["classifier"]["conditions"]]:
        assert f"`{name}`" in conditions


@every_page
def test_links_lead_to_files(page):
    pipeline = (ROOT / "dvc.yaml").read_text()
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", link):  # another site
            continue
        target = (page.parent / link.split("#")[0]).resolve()
        output_of_a_stage = target.relative_to(ROOT).as_posix() in pipeline
        if not target.exists() and not output_of_a_stage:
            missing.append(link)
    assert not missing


@every_page_on_the_present
def test_paths_in_text_exist(page):
    """Sources and tests that a page names without a link."""
    text = page.read_text()
    paths = re.findall(r"\b((?:stages|tools|benchmarks|tests|audio_from_video)/[\w/]+\.py)\b", text)
    assert not [path for path in paths if not (ROOT / path).is_file()]


def test_readme_names_every_room():
    text = README.read_text()
    for package in (ROOT / "audio_from_video").glob("*/__init__.py"):
        assert f"`audio_from_video/{package.parent.name}/`" in text
