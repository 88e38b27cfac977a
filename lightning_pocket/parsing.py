"""The argument parser of commands that do not train: an error is one line, not a page of usage."""

from __future__ import annotations

import sys
from typing import IO, Any

from jsonargparse import ArgumentParser
from typing_extensions import override


class ShortUsage:
    """Mixin: keeps an error's output to the line that matters."""

    prog: str

    def print_usage(self, file: IO[str] | None = None) -> None:
        """Print where help is found instead of every option."""
        print(f"usage: {self.prog} [OPTIONS]; `{self.prog} --help` explains them", file=file or sys.stdout)


class Parser(ShortUsage, ArgumentParser):
    """jsonargparse's parser with a short usage line."""

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
