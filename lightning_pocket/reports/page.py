"""The one writer of HTML pages: each is a single file that needs nothing else."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from lightning_pocket.storage import write_text

from .redaction import redact

_HERE = Path(__file__).parent
_STYLE = _HERE / "page.css"
#: Licence and code of the library that charts are zoomed with: https://d3js.org.
_D3 = ("d3-LICENSE.txt", "d3-7.9.0.min.js")
_NUMBER = re.compile(r"[<>≈]?\s?[+-]?\d")

_ENDS_SCRIPT = re.compile(r"</script|<!--", re.IGNORECASE)

#: Stands in a table for what was not measured.
NOT_KNOWN = "n/a"


class Page:
    """Collects the parts of a page, in order, and writes them.

    Every text is escaped. Secrets and the names of home folders do not show in commands and texts that are shown as
    they are. The file holds its styles, pictures and scripts itself and loads nothing from a network; it
    follows the reader's choice of light or dark and prints well. It runs no script unless :meth:`script` or
    :meth:`interactive` was called, and is complete without.

    Args:
        title: Heading of the page.
        language: Code of the language that the page is written in.
    """

    def __init__(self, title: str, language: str = "en") -> None:
        self.title = title
        self.language = language
        self._parts: list[str] = []
        self._scripts: list[str] = []
        self._entries: list[tuple[int, str]] = []
        self._has_contents = False
        self._contents_at: int | None = None
        self._level = 2

    def part(self, heading: str) -> None:
        """Begin one of several parts of the page; the sections that follow belong to it."""
        self._level = 2
        self.section(heading, "part")
        self._level = 3

    def section(self, heading: str, kind: str = "") -> None:
        """Begin a section."""
        level = self._level
        if self._has_contents and self._contents_at is None:
            self._contents_at = len(self._parts)
        self._entries.append((level, heading))
        name = f' id="section-{len(self._entries)}"' if self._contents_at is not None else ""
        css = _class(kind or ("" if level == 2 else "section"))
        self._parts.append(f"<h{level}{css}{name}>{escape(heading)}</h{level}>")

    def subsection(self, heading: str) -> None:
        """Begin a part of a section."""
        self._parts.append(f"<h{self._level + 1}>{escape(heading)}</h{self._level + 1}>")

    def contents(self) -> None:
        """Add links to the sections that follow, of the highest level that there are several of; once in a page.

        They stand before the first of these sections, so below a verdict that comes before it.
        """
        self._has_contents = True

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
            pictures: Content of a PNG or WebP file, what it shows for those who do not see it, and the line below it,
                of each.
        """
        figures = (
            f'<figure><img alt="{escape(alt)}" src="data:image/{_kind(content)};base64,'
            f'{base64.b64encode(content).decode("ascii")}"><figcaption>{escape(caption)}</figcaption></figure>'
            for content, alt, caption in pictures
        )
        self._parts.append(f'<div class="side-by-side">{"".join(figures)}</div>')

    def details(self, summary: str, text: str) -> None:
        """Add a text such as a config that is shown as it is, once a reader opens it."""
        self._parts.append(f"<details><summary>{escape(summary)}</summary><pre>{escape(redact(text))}</pre></details>")

    def code(self, text: str) -> None:
        """Add a text such as commands that is shown as it is, and copied by a button where the page has scripts."""
        self._parts.append(f'<pre class="code">{escape(redact(text))}</pre>')

    def markup(self, html: str) -> None:
        """Add elements that a function of this package has made, and in which it has escaped every text.

        Args:
            html: Such as the viewer of volumes; what it opens, a later call closes.
        """
        self._parts.append(html)

    def script(self, text: str) -> None:
        """Add a script that runs once the page is read; the same script is kept once.

        Args:
            text: JavaScript that loads nothing.

        Raises:
            ValueError: If the text would end its own ``<script>`` element or hide its end.
        """
        if _ENDS_SCRIPT.search(text):
            raise ValueError("a script of a page may hold neither </script nor <!--: write <\\/script or \\x3C")
        if text not in self._scripts:
            self._scripts.append(text)

    def interactive(self) -> None:
        """Let readers point at the charts and zoom into them, and copy code by a button: 290 KiB of scripts."""
        licence, library = (_HERE.joinpath("vendor", name).read_text(encoding="utf-8") for name in _D3)
        self.script(f"/*\n{licence}*/\n{library}")
        for name in ("charts.js", "copy.js"):
            self.script(_HERE.joinpath(name).read_text(encoding="utf-8"))

    def html(self) -> str:
        """Return the page."""
        before = len(self._parts) if self._contents_at is None else self._contents_at
        parts = "\n".join([*self._parts[:before], *self._links(), *self._parts[before:]])
        scripts = "".join(f"<script>\n{script}\n</script>\n" for script in self._scripts)
        return (
            f'<!DOCTYPE html>\n<html lang="{escape(self.language)}">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>\n</head>\n"
            f"<body>\n<main>\n<h1>{escape(self.title)}</h1>\n{parts}\n</main>\n{scripts}</body>\n</html>\n"
        )

    def _links(self) -> list[str]:
        """Return the contents, where they are asked for and there is more than one section."""
        levels = [level for level, _ in self._entries]
        top = 2 if levels.count(2) > 1 else 3
        if self._contents_at is None or levels.count(top) < 2:
            return []
        entries = [
            f'<li><a href="#section-{number}">{escape(heading)}</a></li>'
            for number, (level, heading) in enumerate(self._entries, 1)
            if level == top
        ]
        return [f'<nav aria-label="Contents"><ul>{"".join(entries)}</ul></nav>']

    def write(self, path: Path) -> None:
        """Write the page, whole or not at all.

        Args:
            path: File to write; missing folders are made.
        """
        write_text(path, self.html())


def _is_numeric(cells: Sequence[str]) -> bool:
    filled = [cell for cell in cells if cell not in {"", NOT_KNOWN}]
    return bool(filled) and all(_NUMBER.match(cell) for cell in filled)


def _kind(picture: bytes) -> str:
    """Return the subtype of a picture's media type, told by its first bytes."""
    return "webp" if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP" else "png"


def _class(name: str) -> str:
    return f' class="{escape(name)}"' if name else ""
