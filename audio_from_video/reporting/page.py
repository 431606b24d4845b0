"""The report as one HTML file that needs no network.

It holds tables, figures, the filter's thresholds and a browser over test clips.  The template is
page.html, with its style and script; what it shows beside the tables comes as JSON.  A content
security policy lets it run its own style and script alone and load nothing but data URIs.  All text
of clips, captions and labels reaches the page escaped: by `tables.html`, or as JSON that the script
sets as text.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pandas as pd

from audio_from_video.evaluation.filter import PUBLISHED_THRESHOLD
from audio_from_video.evaluation.rows import BASELINE, UPPER_BOUND
from audio_from_video.reporting import clip_browser, tables
from audio_from_video.reporting.tables import Table
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout

TEMPLATE = Path(__file__).with_name("page.html")
MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}


def report_html(
    introduction: str,
    report_tables: list[Table],
    figures: dict[str, Path],
    clips: int,
    conditions: list[str],
    seed: int = 0,
) -> str:
    """Return the page's HTML; the same bytes for the same inputs.

    introduction: paragraphs that stand above everything.  report_tables: the first one is the main
    table.  figures: caption -> PNG, JPEG or SVG file.  clips: how many test clips the browser holds
    at most.  conditions: those whose answers it shows, in this order.  seed: draws the clips.
    """
    template = TEMPLATE.read_text()
    sections = [section(i, table) for i, table in enumerate(report_tables)]
    figure_items = enumerate(figures.items(), start=1)
    data = {
        "clips": clip_browser.clip_records(clips, conditions, seed),
        "conditions": conditions,
        "baseline": BASELINE,
        "comparisons": comparisons(),
        "architectures": architecture_labels(),
        "sweeps": threshold_sweeps(),
        "published": PUBLISHED_THRESHOLD,
    }
    parts = {
        "policy": security_policy(template),
        "lead": tables.html_paragraphs(introduction),
        "main": "".join(sections[:1]),
        "contents": contents(report_tables),
        "tables": "".join(sections[1:]),
        "figures": "".join(figure(i, caption, path) for i, (caption, path) in figure_items),
        "data": island(data),
    }
    # In one pass, so that no part is searched for the names of parts.
    return re.sub("@@([a-z]+)@@", lambda match: parts[match[1]], template)


def section(index: int, table: Table) -> str:
    """Return a table's section with its heading, which links lead to by `table-<index>`."""
    level = "h2" if index == 0 else "h3"
    title = tables.html_text(table.title)
    heading = f'<{level} id="table-{index}">{title}</{level}>'
    return f"<section>{heading}{tables.html(table)}</section>"


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
    content = clip_browser.data_uri(MEDIA_TYPES[path.suffix], path.read_bytes())
    text = html.escape(caption)
    return (
        f'<figure id="figure-{number}">'
        f'<div class="picture" role="region" tabindex="0" aria-label="Figure {number}">'
        f'<img src="{content}" alt="{text}"></div>'
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


def threshold_sweeps() -> dict:
    """Return the sweep over the filter's threshold of each architecture that has one.

    By architecture: the condition that takes all of its generated audio, the threshold that the
    filter used (None where it has no metrics), and the figures at each threshold.
    """
    path = layout.metrics("filter")
    filter_metrics = json.loads(path.read_text()) if path.is_file() else {}
    sweeps = {}
    for name, architecture in ARCHITECTURES.items():
        table = layout.filter_sweep(name)
        if not table.is_file():
            continue
        steps = []
        for step in pd.read_csv(table).to_dict("records"):
            steps.append({key: clip_browser.rounded(value, 6) for key, value in step.items()})
        sweeps[name] = {
            "condition": architecture.generated,
            "chosen": filter_metrics.get(name, {}).get("threshold"),
            "steps": steps,
        }
    return sweeps
