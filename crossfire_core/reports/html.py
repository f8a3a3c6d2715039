"""A self-contained page: tables and pictures in one file that can be mailed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1060px;margin:2rem auto;
padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem}
p.note{color:#616e7c;margin:.3rem 0}img{max-width:100%;height:auto;display:block;margin:.4rem 0}
table{border-collapse:collapse;margin:.8rem 0}td,th{padding:.25rem .9rem .25rem 0;text-align:left;
border-bottom:1px solid #e4e7eb;vertical-align:top}td.n,th.n{text-align:right}
figure{margin:0 0 1.2rem 0}figcaption{color:#616e7c;font-size:.9rem}
.cards{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0}.card{border:1px solid #e4e7eb;
border-radius:6px;padding:.5rem 1rem;min-width:8rem}.card b{display:block;font-size:1.35rem}
.card span{color:#616e7c;font-size:.85rem}
"""


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows.

    Attributes:
        name: file name without suffix.
        caption: one line for people.
        data: the PNG file.
    """

    name: str
    caption: str
    data: bytes


def page(title: str, body: Sequence[str]) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def heading(text: str) -> str:
    """A section's title."""
    return f"<h2>{escape(text)}</h2>"


def note(text: str) -> str:
    """A quiet paragraph."""
    return f'<p class="note">{escape(text)}</p>'


def cards(values: Sequence[tuple[str, str]]) -> str:
    """Large figures in a row, each (value, what it is)."""
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label in values
    )
    return f'<div class="cards">{inner}</div>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells that start with a digit are set right."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "\n".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>\n{body}\n</table>"


def _cell(text: str) -> str:
    kind = ' class="n"' if text[:1].isdigit() else ""
    return f"<td{kind}>{escape(text)}</td>"


def details(summary: str, rows: Sequence[Sequence[str]]) -> str:
    """A table that is folded away until asked for."""
    return f"<details><summary>{escape(summary)}</summary>{table(('', ''), rows)}</details>"


def picture(item: Picture) -> str:
    """The picture inside the page."""
    data = base64.b64encode(item.data).decode("ascii")
    return (
        f'<figure><img alt="{escape(item.caption)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(item.caption)}</figcaption></figure>"
    )
