"""The whole report on one static page, readable without a network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from .. import protocol
from .tables import Table

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { margin-top: 2.5em; border-bottom: 1px solid #ccc; }
figure { margin: 2em 0; } figure img { max-width: 100%; height: auto; }
figcaption, caption { color: #555; font-size: 0.9em; text-align: left; padding: 0.4em 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85em; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25em 0.7em; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #888; } tbody tr:nth-child(even) { background: #f5f5f5; }
.notes { background: #fff7e0; border-left: 4px solid #e69f00; padding: 0.5em 1em; }
.mixed { background: #fde8e8; border-left: 4px solid #b00000; padding: 0.5em 1em; }
nav a { margin-right: 1em; }
"""


@dataclass(frozen=True)
class Picture:
    """A figure with its files `<stem>.png`, `.pdf` and `.csv`, relative to the page."""

    stem: str
    heading: str
    caption: str


@dataclass
class Section:
    """One study on the page."""

    title: str
    slug: str
    mixed: bool
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


def render(sections: Sequence[Section]) -> str:
    """The page as HTML; links and images are relative to it."""
    links = "".join(f'<a href="#{each.slug}">{html.escape(each.title)}</a>' for each in sections)
    parts = "\n".join(_section(section) for section in sections)
    title = f"MLR on {protocol.NAME}: results"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        "<p>Scores are those of the final policy at exactly the budget. Bands and brackets are"
        " 95&nbsp;% stratified bootstrap intervals over runs. Published numbers are drawn in black;"
        ' most are means without an interval. <a href="repro.md">Reproducibility facts</a></p>\n'
        f"<nav>{links}</nav>\n{parts}\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f'<section id="{section.slug}">\n<h2>{html.escape(section.title)}</h2>']
    if section.notes:
        kind = "mixed" if section.mixed else "notes"
        items = "".join(f"<li>{html.escape(note)}</li>" for note in section.notes)
        parts.append(f'<div class="{kind}"><strong>Read first</strong><ul>{items}</ul></div>')
    for table in section.tables:
        stem = f"{section.slug}/{table.name}"
        links = _links(stem, ("csv", "md", "tex"))
        parts.append(f'<div class="wide">{table.html()}</div>\n<p>{links}</p>')
    for picture in section.pictures:
        stem = f"{section.slug}/{picture.stem}"
        caption = html.escape(picture.caption)
        parts.append(
            f'<figure id="{section.slug}-{picture.stem}"><h3>{html.escape(picture.heading)}</h3>\n'
            f'<img src="{stem}.png" alt="{html.escape(picture.heading)}">\n'
            f"<figcaption>{caption} {_links(stem, ('png', 'pdf', 'csv'))}</figcaption></figure>"
        )
    return "\n".join([*parts, "</section>"])


def _links(stem: str, kinds: Sequence[str]) -> str:
    return " · ".join(f'<a href="{stem}.{kind}">{kind.upper()}</a>' for kind in kinds)
