"""Bits of HTML; whatever comes from a program, a spec or a person is escaped here."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from hpckit.clock import seconds_of
from hpckit.paint import harmless


def text(value: Any) -> str:
    """A value as text that is safe between tags and in quoted attributes."""
    return html.escape("\n".join(harmless(line) for line in str(value).split("\n")), quote=True)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), caption: str
) -> str:
    """Rows of cells that are HTML already; it scrolls by itself where it is too wide."""

    def line(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f"<{tag}{scope}{' class=n' if at in right else ''}>{cell}</{tag}>"
            for at, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f'<caption class="unseen">{text(caption)}</caption><thead><tr>{line(head, "th")}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def pairs(items: Iterable[tuple[str, str]]) -> str:
    """Words with what they mean; the second is HTML already."""
    listed = "".join(f"<div><dt>{text(key)}</dt><dd>{value}</dd></div>" for key, value in items)
    return f"<dl>{listed}</dl>"


def folded(summary: str, body: str, *, is_open: bool = False, kind: str = "") -> str:
    attributes = f"{f' class={kind}' if kind else ''}{' open' if is_open else ''}"
    return f"<details{attributes}><summary>{text(summary)}</summary>{body}</details>"


def section(id: str, title: str, body: str, lead: str = "") -> str:
    said = f'<p class="lead">{text(lead)}</p>' if lead else ""
    return (
        f'<section id="{id}" aria-labelledby="{id}-title"><h2 id="{id}-title">{text(title)}</h2>'
        f"{said}{body}</section>"
    )


def in_script(value: str) -> str:
    """JSON as it may stand inside a script element: nothing in it ends that."""
    return value.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def moment(iso: str | None) -> str:
    """A time of the ledger for a person: the page is read on other days, and elsewhere."""
    if not iso:
        return "-"
    try:
        seconds_of(iso)
    except ValueError:
        return text(iso)
    date, _, clock = iso.partition("T")
    return f'<time datetime="{text(iso)}">{date} <b>{clock[:8]}</b></time>'
