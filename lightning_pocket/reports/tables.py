"""The one place that prints tables for terminals."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Wide enough that no row wraps where the output is not a terminal: each row stays one line for grep.
_UNLIMITED = 100_000


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None = None) -> None:
    """Print a table to standard output.

    On a terminal the cells wrap to its width; elsewhere each row is one line.

    Args:
        columns: Heads of the columns.
        rows: Cells of each row; numbers are aligned to the right.
        title: A line above the table.
    """
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else _UNLIMITED, highlight=False)
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))  # as Text: brackets in a cell are not markup
    with console.capture() as capture:
        if title:
            console.print(Text(title, style="bold"))
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))  # noqa: T201 (this module prints)
