"""The report as one HTML file that needs no network.

It holds the answer (first_screen.py), tables, figures, the filter's thresholds
(threshold_section.py) and a browser over test clips (clip_browser.py).  The template is page.html,
with its style and script; what it shows beside the tables comes as JSON.  A content security policy
lets it run its own style and script alone and load nothing but data URIs.  All text of clips,
captions and labels reaches the page escaped: by `tables.html`, or as JSON that the script sets as
text.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

from audio_from_video.evaluation.filter import PUBLISHED_THRESHOLD
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting import (
    clip_browser,
    first_screen,
    row_tables,
    tables,
    threshold_section,
)
from audio_from_video.reporting.condition_groups import Groups, definitions
from audio_from_video.reporting.results import Results
from audio_from_video.reporting.tables import RowNote, RowNotes, Table
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout

TEMPLATE = Path(__file__).with_name("page.html")
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
NARROW_PT = 400  # an SVG that is narrower is not shown over the whole width
EXPERIMENT = "experiment_"  # begins the names of tables that are shown collapsed


def report_html(
    results: Results,
    groups: Groups,
    report_tables: list[Table],
    figures: dict[str, Path],
    provenance: list[tuple[str, str]],
    clips: int,
    seed: int = 0,
) -> str:
    """Return the page's HTML; the same bytes for the same inputs.

    groups: of the conditions, in the order in which they are shown.  report_tables: the first one
    is the main table.  figures: caption -> PNG, JPEG or SVG file.  provenance: titles and texts of
    what the figures come from.  clips: how many test clips the browser holds at most.  seed: draws
    the clips.
    """
    template = TEMPLATE.read_text()
    # The recommended chain has no predictions of its own: the browser shows its links.
    conditions = [name for name in definitions(groups) if layout.predictions(name).is_file()]
    notes = condition_notes(results, groups)
    figure_items = enumerate(figures.items(), start=1)
    records = clip_browser.clip_records(clips, conditions, seed)
    data = {
        "clips": records,
        "judged": True,
        "start": clip_browser.telling_clip(records, UPPER_BOUND, BASELINE),
        "conditions": conditions,
        "hues": {name: first_screen.hue_name(name) for name in conditions},
        "baseline": BASELINE,
        "comparisons": comparisons(),
        "architectures": architecture_labels(),
        "sweeps": threshold_section.sweeps(),
        "published": PUBLISHED_THRESHOLD,
    }
    sentences = first_screen.sentences(results)
    parts = {
        "policy": security_policy(template),
        "kind": "report",
        "heading": "Test clips, one by one",
        "question": tables.html_text(first_screen.QUESTION),
        "answer": "".join(f"<li>{tables.html_text(sentence)}</li>" for sentence in sentences),
        "numbers": first_screen.numbers_html(results),
        "differences": first_screen.differences_html(results, groups),
        "provenance": provenance_html(provenance),
        "introduction": tables.html_paragraphs(row_tables.introduction(results)),
        "main": main_section(report_tables[0], notes, groups),
        "findings": threshold_section.findings_html(results),
        "contents": contents(report_tables),
        "tables": other_sections(report_tables, notes),
        "figures": "".join(figure(i, caption, path) for i, (caption, path) in figure_items),
        "data": island(data),
    }
    return filled(template, parts)


def answers_html(records: list[dict], conditions: list[str], about: str) -> str:
    """Return a page of the clip browser alone, for clips whose true action nobody knows.

    records: see `clip_browser.new_clip_record`.  conditions: those that answered.
    about: a sentence on the clips.
    """
    template = TEMPLATE.read_text()
    data = {
        "clips": records,
        "judged": False,
        "about": about,
        "start": None,
        "conditions": conditions,
        "hues": {name: first_screen.hue_name(name) for name in conditions},
        "baseline": BASELINE,
        "comparisons": [],
        "architectures": architecture_labels(),
        "sweeps": {},
        "published": PUBLISHED_THRESHOLD,
    }
    parts = dict.fromkeys(re.findall("@@([a-z]+)@@", template), "")
    parts |= {
        "policy": security_policy(template),
        "kind": "answers",
        "heading": "New clips, one by one",
        "data": island(data),
    }
    return filled(template, parts)


def filled(template: str, parts: dict[str, str]) -> str:
    """Return the template with its parts, in one pass: no part is searched for names of parts."""
    return re.sub("@@([a-z]+)@@", lambda match: parts[match[1]], template)


def condition_notes(results: Results, groups: Groups) -> RowNotes:
    """Return what tables say of each condition, by the text of their first cells."""
    notes = {}
    for name, definition in definitions(groups).items():
        badge = "leaky" if results.settings[name].leaky else ""
        notes[f"`{name}`"] = RowNote(definition, badge)
    return notes


def provenance_html(provenance: list[tuple[str, str]]) -> str:
    """Return titles and texts as a list of definitions."""
    items = []
    for title, text in provenance:
        items.append(
            f"<div><dt>{tables.html_text(title)}</dt><dd>{tables.html_text(text)}</dd></div>"
        )
    return "".join(items)


def main_section(table: Table, notes: RowNotes, groups: Groups) -> str:
    """Return the main table, its rows in groups, with its heading."""
    rows = {title: [f"`{name}`" for name in members] for title, members in groups.items()}
    title = tables.html_text(table.title)
    return f'<section><h3 id="table-0">{title}</h3>{tables.html(table, notes, rows)}</section>'


def other_sections(report_tables: list[Table], notes: RowNotes) -> str:
    """Return all tables but the main one; those of experiments are collapsed."""
    sections = []
    for i, table in enumerate(report_tables):
        if i == 0:
            continue
        heading = f'<h3 id="table-{i}">{tables.html_text(table.title)}</h3>'
        content = tables.html(table, notes)
        if table.name.startswith(EXPERIMENT):
            content = f"<details><summary>{heading}</summary>{content}</details>"
        else:
            content = heading + content
        sections.append(f"<section>{content}</section>")
    return "".join(sections)


def contents(report_tables: list[Table]) -> str:
    """Return a list of links to the tables below the main one."""
    items = []
    for i, table in enumerate(report_tables):
        if i > 0:
            items.append(f'<li><a href="#table-{i}">{tables.html_text(table.title)}</a></li>')
    return "".join(items)


def figure(number: int, caption: str, path: Path) -> str:
    """Return an image file as part of the page.

    SVG comes as an image, too: so its style and its names stay its own.
    """
    image = path.read_bytes()
    content = clip_browser.data_uri(MEDIA_TYPES[path.suffix], image)
    text = html.escape(caption)
    kind = "wide"
    width = re.search(rb'<svg [^>]*width="([\d.]+)pt"', image)
    if width and float(width[1]) < NARROW_PT:
        kind = "narrow"
    return (
        f'<figure id="figure-{number}" class="{kind}">'
        f'<div class="picture" role="region" tabindex="0" aria-label="Figure {number}">'
        f'<img src="{content}" alt="{text}"></div>'
        '<p class="scroll-hint">↔ The figure scrolls sideways.</p>'
        f"<figcaption><b>Figure {number}.</b> {text}</figcaption></figure>"
    )


def security_policy(template: str) -> str:
    """Return the content security policy.

    It allows no source but data URIs, and the template's own style and script by their hashes.
    """
    style = content_hash(template, "style")
    script = content_hash(template, "script")
    return (
        "default-src 'none'; img-src data:; media-src data:; "
        f"style-src 'sha256-{style}'; script-src 'sha256-{script}'; "
        "base-uri 'none'; form-action 'none'"
    )


def content_hash(template: str, element: str) -> str:
    """Return the SHA-256 in base 64 of the text in the template's first such element."""
    match = re.search(f"<{element}>(.*?)</{element}>", template, re.DOTALL)
    if match is None:
        raise ValueError(f"{TEMPLATE} has no element <{element}>")
    return base64.b64encode(hashlib.sha256(match[1].encode()).digest()).decode()


def island(data: dict) -> str:
    """Return JSON of which no text can break out of a script element."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def architecture_labels() -> dict[str, str]:
    """Return a short label of each architecture, such as "1: semantic validation"."""
    return {name: architecture.title for name, architecture in ARCHITECTURES.items()}


def comparisons() -> list[tuple[str, str]]:
    """Return pairs of conditions that the browser offers as "first right, second wrong"."""
    pairs = [(UPPER_BOUND, BASELINE)]
    for architecture in ARCHITECTURES.values():
        pairs += [(architecture.generated, BASELINE), (BASELINE, architecture.generated)]
    for architecture in ARCHITECTURES.values():
        pairs.append((architecture.filtered, BASELINE))
    first = next(iter(ARCHITECTURES.values()))
    return [*pairs, (UPPER_BOUND, first.generated)]
