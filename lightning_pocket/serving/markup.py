"""Elements of the served pages that reports do not have: links, forms and tables of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote, urlencode

#: Style and script of all pages.
HEAD = '<link rel="stylesheet" href="/assets/serve.css"><script src="/assets/serve.js" defer></script>'


@dataclass(frozen=True)
class Column:
    """A column by which rows can be sorted.

    Args:
        key: Its name in the address.
        head: What a reader sees.
        number: Whether it holds numbers.
    """

    key: str
    head: str
    number: bool = False


def address(kind: str, name: str) -> str:
    """Return the address of something in the folder, such as ``/run/a%20b``.

    Args:
        kind: ``run``, ``curves`` or ``files``.
        name: Path from the folder on; ``.`` is the folder itself.
    """
    return f"/{kind}/{'' if name == '.' else quote(name)}"


def link(href: str, text: str) -> str:
    """Return a link."""
    return f'<a href="{escape(href)}">{escape(text)}</a>'


def links(entries: Sequence[tuple[str, str]]) -> str:
    """Return a list of links.

    Args:
        entries: Address and text of each.
    """
    return f"<ul>{''.join(f'<li>{link(href, text)}</li>' for href, text in entries)}</ul>"


def form(fields: Mapping[str, str], states: Sequence[str]) -> str:
    """Return the form that filters the runs.

    Args:
        fields: What was asked for: ``filter``, ``state``, ``sort`` and ``order``.
        states: States to choose from.
    """
    kept = "".join(
        f'<input type="hidden" name="{key}" value="{escape(fields[key])}">'
        for key in ("sort", "order")
        if key in fields
    )
    options = "".join(
        f'<option value="{escape(state)}"{" selected" if fields.get("state", "") == state else ""}>'
        f"{escape(state or 'any')}</option>"
        for state in ("", *states)
    )
    return (
        '<form class="filter" method="get" action="/" role="search">'
        f'<label>Name holds <input type="search" name="filter" value="{escape(fields.get("filter", ""))}"></label> '
        f'<label>State <select name="state">{options}</select></label> {kept}'
        '<button type="submit">Filter</button></form>'
    )


def sorted_heads(columns: Sequence[Column], fields: Mapping[str, str]) -> str:
    """Return the heads of a table, each a link that sorts by it; by the same again the other way round."""
    cells = []
    for column in columns:
        current = fields.get("sort") == column.key
        down = fields.get("order") == "down"
        order = "up" if current and down else "down" if current or column.number else "up"
        query = urlencode({**fields, "sort": column.key, "order": order})
        aria = f' aria-sort="{"descending" if down else "ascending"}"' if current else ""
        mark = (" ↓" if down else " ↑") if current else ""
        side = ' class="number"' if column.number else ""
        cells.append(f'<th scope="col"{side}{aria}>{link(f"/?{query}", column.head)}{mark}</th>')
    return "".join(cells)
