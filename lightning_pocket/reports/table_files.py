"""Tables as files: text, Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import check_writable, write_text

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
}
_UNBROKEN = 30  # characters of a cell that need not be broken
_POWER = re.compile(r"(\d)e([+-])0*(\d+)")
_MINUS = re.compile(r"(?<![\w${-])-(?=\d)")


@dataclass(frozen=True)
class Table:
    """Text in rows and columns.

    Args:
        title: Line above the table.
        header: Heads of the columns.
        rows: Cells of each row, as many as the header has.
    """

    title: str
    header: list[str]
    rows: list[list[str]]

    def filled(self) -> Table:
        """Return the table without the columns in which every cell is blank."""
        kept = [column for column in range(len(self.header)) if not self.rows or any(r[column] for r in self.rows)]
        return Table(self.title, [self.header[c] for c in kept], [[row[c] for c in kept] for row in self.rows])

    def unbroken(self) -> Table:
        """Return the table with spaces that break no line, for pages; long cells and the header stay as they are."""
        rows = [[c.replace(" ", "\u00a0") if len(c) <= _UNBROKEN else c for c in row] for row in self.rows]
        return Table(self.title, self.header, rows)

    def text(self) -> str:
        """Return the table with columns aligned by spaces."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        shown = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.title, shown[0], "  ".join("-" * width for width in widths), *shown[1:]]) + "\n"

    def markdown(self) -> str:
        """Return the table in the Markdown of GitHub."""
        lines = [[_markdown(cell) for cell in line] for line in (self.header, *self.rows)]
        lines.insert(1, ["---"] * len(self.header))
        return f"**{_markdown(self.title)}**\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self) -> str:
        r"""Return a ``table`` environment; it needs ``\usepackage{booktabs}``, and ``graphicx`` to fit the page."""
        head, *rows = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in (self.header, *self.rows)]
        return "\n".join(
            [
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{_latex(self.title)}}}",
                r"  \resizebox{\linewidth}{!}{%",
                rf"  \begin{{tabular}}{{{'l' * len(self.header)}}}",
                r"    \toprule",
                f"    {head}",
                r"    \midrule",
                *(f"    {row}" for row in rows),
                r"    \bottomrule",
                r"  \end{tabular}}",
                r"\end{table}",
                "",
            ]
        )


_FORMATS: dict[str, Callable[[Table], str]] = {".txt": Table.text, ".md": Table.markdown, ".tex": Table.latex}
#: Endings of file names that a table can have; CSV is written from numbers.
ENDINGS = (".csv", *_FORMATS)


def check_table_path(option: str, path: Path) -> None:
    """Refuse a file whose ending tells no format, or that could not be written, before anything is computed.

    Raises:
        PocketError: If it is such a file, or a folder.
    """
    if path.suffix.lower() not in ENDINGS:
        raise PocketError(f"{option} {path}: ends in {path.suffix!r}; expected one of {', '.join(ENDINGS)}.")
    check_writable(option, path, "table.csv")


def write_tables(path: Path, tables: Sequence[Table]) -> None:
    """Write tables one below the other, in the format that the ending of the file names.

    Args:
        path: File that ends in ``.txt``, ``.md`` or ``.tex``.
        tables: The tables.
    """
    form = _FORMATS[path.suffix.lower()]
    write_text(path, "\n".join(form(table) for table in tables))


def _markdown(cell: str) -> str:
    return re.sub(r"([\\|*_`<>\[\]])", r"\\\1", cell)


def _latex(cell: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(cell.split()))
    signed = _POWER.sub(lambda found: rf"{found[1]}$\times10^{{{found[2].strip('+')}{found[3]}}}$", escaped)
    return _MINUS.sub("$-$", signed)
