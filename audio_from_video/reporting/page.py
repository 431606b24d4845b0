"""The report as one HTML file that needs no network: tables, figures, the filter's thresholds and a browser over test clips.

The template is page.html, with its style and script; what it shows beside the tables comes as JSON.  A content security
policy lets it run its own style and script alone and load nothing but data URIs.  All text of clips, captions and labels
reaches the page escaped: through markdown-it without raw HTML, or as JSON that the script sets as text.
"""

import base64
import hashlib
import html
import json
import re
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt

from audio_from_video.reporting import clip_browser
from audio_from_video.runtime.vocabulary import ARCHITECTURES
from audio_from_video.storage import layout

TEMPLATE = Path(__file__).with_name("page.html")
PUBLISHED = 0.72  # the research description's threshold
KINDS = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}
INTERVAL = re.compile(r"\[[-+]?[\d.]+, [-+]?[\d.]+\]")
NUMBER = re.compile(r"[-+*]*\d[\d.,]*[*]*( \[.*\])?( / .*)?$")


def build(
    tables_markdown: str, figures: dict[str, Path], clips: int, conditions: list[str], seed: int = 0
) -> str:
    """The page; the same bytes for the same inputs.

    tables_markdown: the text of metrics/tables.md.  figures: caption -> PNG, JPEG or SVG file.  clips: how many test clips
    the browser holds at most.  conditions: the rows whose answers it shows, in this order.
    """
    template = TEMPLATE.read_text()
    lead, sections = split(tables_markdown)
    data = {
        "clips": clip_browser.records(clips, conditions, seed),
        "conditions": conditions,
        "sweeps": sweeps(),
        "published": PUBLISHED,
    }
    parts = {
        "policy": policy(template),
        "lead": lead,
        "main": "".join(section for _, section in sections[:1]),
        "contents": contents([title for title, _ in sections]),
        "tables": "".join(section for _, section in sections[1:]),
        "figures": "".join(figure(number, *item) for number, item in enumerate(figures.items(), 1)),
        "data": island(data),
    }
    return re.sub(
        "@@([a-z]+)@@", lambda found: parts[found[1]], template
    )  # in one pass: no part is searched for names of parts


def policy(template: str) -> str:
    """The content security policy: no source but data URIs, and the template's own style and script by their hashes."""
    hashes = {
        kind: base64.b64encode(
            hashlib.sha256(
                re.search(f"<{kind}>(.*?)</{kind}>", template, re.DOTALL)[1].encode()
            ).digest()
        ).decode()  # type: ignore[index]
        for kind in ("style", "script")
    }
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{hashes['style']}'; "
        f"script-src 'sha256-{hashes['script']}'; base-uri 'none'; form-action 'none'"
    )


def island(data: dict) -> str:
    """JSON that no text in it can break out of a script element of."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda found: f"\\u{ord(found[0]):04x}", text)


def sweeps() -> dict:
    """By architecture that has one, the sweep over the filter's threshold: its row, the chosen threshold, a dict per step."""
    path = layout.metrics("filter")
    chosen = json.loads(path.read_text()) if path.is_file() else {}
    found = {}
    for name, architecture in ARCHITECTURES.items():
        table = layout.filter_sweep(name)
        if table.is_file():
            steps = pd.read_csv(table)
            found[name] = {
                "row": architecture.generated,
                "chosen": chosen.get(name, {}).get("threshold"),
                "steps": [
                    {key: clip_browser.rounded(value, 6) for key, value in step.items()}
                    for step in steps.to_dict("records")
                ],
            }
    return found


def split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """What stands before the first section, as HTML without its heading, and per section its title and its HTML."""
    before, *sections = re.split("^## ", text, flags=re.MULTILINE)
    reader, parts = markdown(), []
    for number, section in enumerate(sections):
        title, _, body = section.partition("\n")
        level = "h2" if number == 0 else "h3"
        heading = f'<{level} id="table-{number}">{reader.renderInline(title)}</{level}>'
        parts.append(
            (
                reader.renderInline(title),
                f"<section>{heading}{reader.render(body, {'title': title})}</section>",
            )
        )
    return reader.render(re.sub("^# .*", "", before, flags=re.MULTILINE)), parts


def contents(titles: list[str]) -> str:
    """Links to the tables below the main one."""
    return "".join(
        f'<li><a href="#table-{number}">{title}</a></li>'
        for number, title in enumerate(titles)
        if number
    )


def figure(number: int, caption: str, path: Path) -> str:
    """An image file as part of the page.  SVG comes as an image, too: so its style and its names stay its own."""
    content = clip_browser.uri(KINDS[path.suffix], path.read_bytes())
    text = html.escape(caption)
    return (
        f'<figure id="figure-{number}"><div class="picture" role="region" tabindex="0" aria-label="Figure {number}">'
        f'<img src="{content}" alt="{text}"></div><figcaption><b>Figure {number}.</b> {text}</figcaption></figure>'
    )


def markdown() -> MarkdownIt:
    """A reader of the tables' Markdown: paragraphs, tables, code and emphasis; raw HTML, links and images stay text.

    Tables come in a container that scrolls, with their first column as headings of rows; intervals and numbers are marked.
    """
    reader = (
        MarkdownIt("commonmark", {"html": False})
        .enable("table")
        .disable(["html_block", "html_inline", "link", "image", "autolink"])
    )

    def table_open(renderer, tokens, i, options, env) -> str:
        return f'<div class="table" role="region" tabindex="0" aria-label="{html.escape(env.get("title", "table"))}"><table>'

    def first(tokens, i: int) -> bool:
        return tokens[i].type == "tr_open"

    rules = {
        "table_open": table_open,
        "table_close": lambda *_: "</table></div>",
        "th_open": lambda *_: '<th scope="col">',
        "td_open": lambda renderer, tokens, i, *_: (
            '<th scope="row">' if first(tokens, i - 1) else cell(tokens[i + 1].content)
        ),
        "td_close": lambda renderer, tokens, i, *_: "</th>" if first(tokens, i - 3) else "</td>",
        "text": lambda renderer, tokens, i, *_: INTERVAL.sub(
            r'<span class="interval">\g<0></span>', html.escape(tokens[i].content)
        ),
    }
    for name, rule in rules.items():
        reader.add_render_rule(name, rule)
    return reader


def cell(text: str) -> str:
    """A cell's opening tag; numbers and what is short stay on one line."""
    kind = "number" if NUMBER.match(text) else "short" if len(text) < 14 else ""
    return f'<td class="{kind}">' if kind else "<td>"
