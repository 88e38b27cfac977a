"""The one writer of HTML pages: each is a single file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lightning_pocket.storage import write_text

_STYLE = Path(__file__).with_name("page.css")
_NUMBER = re.compile(r"[<>≈]?\s?[+-]?\d")

#: Stands in a table for what was not measured.
NOT_KNOWN = "n/a"


class Page:
    """Collects the parts of a page, in order, and writes them.

    Every text is escaped. The file holds its styles and pictures itself, loads nothing from a network and runs no
    script; it follows the reader's choice of light or dark and prints well.

    Args:
        title: Heading of the page.
        language: Code of the language that the page is written in.
    """

    def __init__(self, title: str, language: str = "en") -> None:
        self.title = title
        self.language = language
        self._parts: list[str] = []

    def section(self, heading: str) -> None:
        """Begin a section."""
        self._parts.append(f"<h2>{escape(heading)}</h2>")

    def subsection(self, heading: str) -> None:
        """Begin a part of a section."""
        self._parts.append(f"<h3>{escape(heading)}</h3>")

    def paragraph(self, text: str, kind: str = "") -> None:
        """Add a paragraph.

        Args:
            text: Its words.
            kind: ``lead`` for what matters most, ``note`` for a remark, or nothing.
        """
        self._parts.append(f"<p{_class(kind)}>{escape(text)}</p>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        """Add a table; the first cell of a row is its name, and columns of numbers are aligned to the right.

        Args:
            header: Heads of the columns.
            rows: Cells of each row, as long as the header.
            caption: What the table shows.
        """
        numeric = [_is_numeric([row[column] for row in rows]) for column in range(len(header))]
        sides = [_class("number" if is_number else "") for is_number in numeric]
        heads = "".join(f'<th scope="col"{side}>{escape(head)}</th>' for head, side in zip(header, sides, strict=True))
        lines = []
        for first, *cells in rows:
            line = "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(cells, sides[1:], strict=True))
            lines.append(f'<tr><th scope="row"{sides[0]}>{escape(first)}</th>{line}</tr>')
        self._parts.append(
            f'<div class="table" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
            f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table></div>"
        )

    def charts(self, charts: Sequence[tuple[str, str]]) -> None:
        """Add charts, side by side where there is room.

        Args:
            charts: The ``<svg>`` element, as a function of ``charts`` returns it, and the caption of each.
        """
        figures = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in charts)
        self._parts.append(f'<div class="side-by-side">{"".join(figures)}</div>')

    def pictures(self, pictures: Sequence[tuple[bytes, str, str]]) -> None:
        """Add pictures, stored in the page, side by side where there is room.

        Args:
            pictures: Content of a PNG file, what it shows for those who do not see it, and the line below it, of each.
        """
        figures = (
            f'<figure><img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode("ascii")}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
            for png, alt, caption in pictures
        )
        self._parts.append(f'<div class="side-by-side">{"".join(figures)}</div>')

    def details(self, summary: str, text: str) -> None:
        """Add a text such as a config that is shown as it is, once a reader opens it."""
        self._parts.append(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>")

    def code(self, text: str) -> None:
        """Add a text such as commands that is shown as it is."""
        self._parts.append(f"<pre>{escape(text)}</pre>")

    def html(self) -> str:
        """Return the page."""
        parts = "\n".join(self._parts)
        return (
            f'<!DOCTYPE html>\n<html lang="{escape(self.language)}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
            f"<body>\n<main>\n<h1>{escape(self.title)}</h1>\n{parts}\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Args:
            path: File to write; missing folders are made.
        """
        write_text(path, self.html())


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in {"", NOT_KNOWN}]
    return bool(filled) and all(_NUMBER.match(cell) for cell in filled)


def _class(name: str) -> str:
    return f' class="{escape(name)}"' if name else ""
