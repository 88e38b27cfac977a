"""What a profile shows: on the terminal, in a folder, in a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.table_files import Table, write_tables
from lightning_pocket.storage import write_csv, write_json

from .details import LAYER_COLUMNS, Layers
from .page import verdicts, write_page
from .tables import COLUMNS, CostTables, print_aligned

#: File by which the folder of a profile is known.
_MARK = "profile.json"


@dataclass(frozen=True)
class CostReport:
    """Everything that a profile came to.

    Args:
        costs: Its rows.
        layers: Layers of its networks, where they were asked for.
        limits: Tables of what fits a memory.
        device: What was measured on; empty where nothing was.
        command: Command that makes it again.
    """

    costs: CostTables
    layers: Sequence[Layers]
    limits: Sequence[Table]
    device: str
    command: str

    def print(self) -> None:
        """Print tables, and what they mean in a few sentences."""
        for table in self._tables():
            print_aligned(table)
            say()
        for row in self.costs.rows:
            if row.problem:
                say(f"not computed: {row.candidate.label}, batch {row.batch}, {row.size}: {row.problem}")
        for sentence in (*verdicts(self.costs), *self.costs.plan.notes):
            say(sentence)

    def write(self, output: Path | None, table: Path | None) -> None:
        """Write the files.

        Args:
            output: Folder, or HTML file; None for neither.
            table: File of the table; None for none.
        """
        files = [] if table is None else [table]
        page = output
        if output is not None and output.suffix != ".html":
            files += [output / f"table.{ending}" for ending in ("csv", "md", "tex")]
            page = output / "index.html"
        for file in files:
            self._write_table(file)
            say(f"table: {file}")
        if page is not None:
            write_page(page, self.costs, self._more(), self.device, self.command)
            say(f"page: {page}")

    def _write_table(self, file: Path) -> None:
        if file.suffix.lower() != ".csv":
            write_tables(file, self._tables())
            return
        write_csv(file, COLUMNS, self.costs.records())
        if self.layers:
            rows = [record for layers in self.layers for record in layers.records]
            write_csv(file.with_name(f"{file.stem}_layers.csv"), LAYER_COLUMNS, rows)

    def _more(self) -> list[Table]:
        return [*(layers.table() for layers in self.layers), *self.limits]

    def _tables(self) -> list[Table]:
        return [*self.costs.tables(), *self._more()]


def claim(output: Path | None, table: Path | None, command: str) -> None:
    """Make sure, before anything is computed, that the files can be written and nobody else's are overwritten.

    Args:
        output: Folder, or HTML file; None for neither.
        table: File of the table; None for none.
        command: Command that fills the folder.

    Raises:
        PocketError: If a folder holds something else than a profile, or cannot be written.
    """
    files = [(key, path) for key, path in (("--output", output), ("--table", table)) if path is not None]
    for key, path in files:
        folder = path if key == "--output" and path.suffix != ".html" else path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            foreign = folder == path and not (path / _MARK).is_file() and next(folder.iterdir(), None)
            if foreign:
                raise PocketError(
                    f"--output {path}: holds {foreign.name}, and is not the folder of a profile. Name a new folder."
                )
            if folder == path:
                write_json(path / _MARK, {"command": command})
            elif not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise PocketError(f"{key} {path}: cannot be written ({error.strerror}). Name another place.") from error


def say(text: str = "") -> None:
    """Print a line for the person at the terminal."""
    print(text)  # noqa: T201 (this module prints)
