"""The settings of the runs of a study: what options come to, and whether a run that is there has the same."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import program
from lightning_pocket.run_folder import RunFolder, show_differences
from lightning_pocket.storage import read_json

#: What ``--print_config`` prints and no run records.
NOT_RECORDED = ("ckpt_path", "weights_only", "fresh", "progress")


def resolve_settings(options: Sequence[str]) -> dict[str, Any]:
    """Return every setting of ``pocket fit`` with these options as a run records it, without training.

    Args:
        options: Options of ``pocket fit``.

    Raises:
        PocketError: If an option is wrong.
    """
    command = [*program(), "fit", *options, "--print_config"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}  # paths need not be ASCII
    result = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, check=False)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if "error: " in line] or result.stderr.splitlines()[-1:]
        raise PocketError(said[-1].partition("error: ")[2] or said[-1] if said else "pocket fit refuses the options.")
    settings: dict[str, Any] = yaml.safe_load(result.stdout)
    return {key: value for key, value in settings.items() if key not in NOT_RECORDED}


def resolve_all(options: Sequence[Sequence[str]]) -> list[dict[str, Any] | None]:
    """Return what :func:`resolve_settings` does for several lists of options, with the imports of one.

    Args:
        options: Lists of options of ``pocket fit``.

    Returns:
        Every setting; None for options that ``pocket fit`` refuses, which tells why.
    """
    if not options:
        return []
    command = [sys.executable, "-m", "lightning_pocket.commands.settings_process"]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    given = json.dumps([list(entry) for entry in options])
    result = subprocess.run(command, input=given, capture_output=True, encoding="utf-8", env=environment, check=False)
    if result.returncode:
        return [None] * len(options)
    found: list[dict[str, Any] | None] = json.loads(result.stdout.splitlines()[-1])
    return found


def with_options(settings: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with some of them changed.

    Args:
        settings: Every setting of a run.
        options: Values by dotted name.
    """
    changed = copy.deepcopy(dict(settings))
    for name, value in options.items():
        *path, last = name.split(".")
        inner = changed
        for key in path:
            inner[key] = inner.get(key) or {}
            inner = inner[key]
        inner[last] = value
    return changed


def check_settings(run: RunFolder, settings: Mapping[str, Any], mend: str) -> None:
    """Refuse a run that was begun with other settings.

    Args:
        run: The run; it need not be there.
        settings: Every setting that it should have.
        mend: How to mend it, a sentence.

    Raises:
        PocketError: If it has others.
    """
    if run.config.is_file():
        shown = show_differences(yaml.safe_load(run.config.read_text(encoding="utf-8")), dict(settings))
        if shown:
            raise PocketError(f"{run.path} was trained with other settings ({shown}). {mend}")


def check_data(run: RunFolder, settings: Mapping[str, Any]) -> None:
    """Refuse a run whose data, or whose split of them, are not those that the settings lead to now.

    Args:
        run: The run; it need not be there. Where it recorded no data nothing is checked.
        settings: Every setting that it should have.

    Raises:
        PocketError: If they differ, or the data cannot be opened.
    """
    manifest = read_json(run.manifest) if run.manifest.is_file() else {}
    if manifest.get("data", {}).get("hash"):
        from .run_data import make_data  # torch only where it is needed

        run.check_data(getattr(make_data(settings, "the options"), "record", {}))
