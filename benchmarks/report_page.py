"""HTML by hand: the frame of a page and its tables. Everything that comes from a slide or a file is escaped here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from .report_style import STYLE
from .report_tables import Table

# Should anything ever get past the escaping, it still can neither run nor fetch.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_ID_TITLE = re.compile(r'<section id="(\w+)"><h2>(.*?)</h2>')


def page(name: str, head: Iterable[tuple[str, str]], cards: str, sections: Sequence[str]) -> str:
    """A whole page. `head` is listed under the title; `cards` and `sections` are HTML."""
    listed = "".join(f"<li>{escape(what)} <b>{escape(text)}</b></li>" for what, text in head)
    links = "".join(f'<a href="#{m[1]}">{m[2]}</a>' for m in map(_ID_TITLE.match, sections) if m)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(name)}: codecs side by side</title><style>{STYLE}</style></head>\n<body><main>"
        f'<h1>{escape(name)}</h1><p class="soft">Codecs side by side on the same pixels, by <code>inrwsi '
        f"bench</code></p>"
        f'<ul class="facts">{listed}</ul><nav>{links}</nav>\n{cards}\n{"".join(sections)}</main></body></html>\n'
    )


def section(key: str, title: str, body: str) -> str:
    """A section with a heading, or nothing where `body` is empty."""
    return f'<section id="{key}"><h2>{escape(title)}</h2>{body}</section>\n' if body else ""


def table_html(table: Table, own: Sequence[bool]) -> str:
    """A table; rows marked in `own` stand out."""

    def cell(tag: str, i: int, text: str) -> str:
        return f"<{tag}{' class=w' if i < table.words else ''}>{escape(text)}</{tag}>"

    heads = "".join(cell("th", i, head) for i, head in enumerate(table.heads))
    rows = "".join(
        f"<tr{' class=own' if mine else ''}>{''.join(cell('td', i, text) for i, text in enumerate(row))}</tr>\n"
        for row, mine in zip(table.rows, own, strict=True)
    )
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>\n{rows}</tbody></table></div>'


def details(summary: str, body: str) -> str:
    """A part that can be folded away."""
    return f"<details open><summary>{escape(summary)}</summary>{body}</details>"


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and what they are."""
    return f"<dl>{''.join(f'<dt>{escape(k)}</dt><dd>{escape(v)}</dd>' for k, v in pairs)}</dl>"


def pre(text: str) -> str:
    """A command as it was typed."""
    return f"<pre>{escape(text)}</pre>"
