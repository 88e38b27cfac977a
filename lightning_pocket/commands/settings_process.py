"""The process that resolves options of `pocket fit`: reads lists of them from standard input, writes JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from lightning_pocket.commands.train import train
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import load_yaml
from lightning_pocket.studies.run_settings import NOT_RECORDED


def main() -> None:
    """Answer on standard output, with one line of JSON: all settings of each list, null where they are refused."""
    answers = [_settings_or_none(options) for options in json.loads(sys.stdin.read())]
    sys.stdout.write(f"\n{json.dumps(answers)}\n")


def print_settings(options: Sequence[str]) -> dict[str, Any]:
    """Return every setting of ``pocket fit`` with these options as a run records it.

    Raises:
        PocketError: If an option is wrong.
    """
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        train(["fit", *options, "--print_config"])
    settings = load_yaml(printed.getvalue())
    if not isinstance(settings, dict):
        lines = [line for line in said.getvalue().splitlines() if line.strip()]
        found = next((line for line in reversed(lines) if "error: " in line), lines[-1] if lines else "")
        raise PocketError(found.partition("error: ")[2] or found or "pocket fit refuses the options.")
    return {key: value for key, value in settings.items() if key not in NOT_RECORDED}


def _settings_or_none(options: Sequence[str]) -> dict[str, Any] | None:
    try:
        return print_settings(options)
    except PocketError:
        return None


if __name__ == "__main__":
    main()
