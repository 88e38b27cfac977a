"""A run is a list of command-line arguments, and nothing else."""

from __future__ import annotations

import difflib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from lightning_pocket.errors import PocketError

Option = bool | int | float | str | list[int] | None


@dataclass(frozen=True)
class Run:
    """One training, as the files and options that describe it.

    Args:
        configs: Config files or names of shipped ones; later ones override earlier ones.
        options: Command-line options on top, by their dotted name.
    """

    configs: tuple[str, ...] = ()
    options: dict[str, Option] = field(default_factory=dict)

    def argv(self, command: str = "fit") -> list[str]:
        """Return the arguments after ``pocket`` that repeat the run."""
        configs = [f"--config={name}" for name in self.configs]
        options = [f"--{name}={_dump(value)}" for name, value in self.options.items()]
        return [command, *configs, *options]


def program() -> list[str]:
    """Return how to start ``pocket`` in a process of its own."""
    return [sys.executable, "-m", "lightning_pocket"]


def configs_folder() -> Path:
    """Return the folder of shipped configs: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str) -> Path:
    """Return the config file called ``name``.

    Args:
        name: Path of a file, or a shipped config: its path below ``configs``, or the bare name of an experiment or
            preset; ``.yaml`` may be left out.

    Raises:
        PocketError: If there is no such config.
    """
    if Path(name).is_file():
        return Path(name)
    root = configs_folder()
    wanted = name.removesuffix(".yaml")
    for folder in ("", "experiments/", "presets/"):
        shipped = root / f"{folder}{wanted}.yaml"
        if shipped.is_file():
            return shipped
    known = [path.stem for folder in ("experiments", "presets") for path in sorted((root / folder).glob("*.yaml"))]
    close = difflib.get_close_matches(wanted, known, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Shipped ones are in {root}."
    raise PocketError(f"--config {name}: no such file, and no shipped config has this name. {hint}")


def _dump(value: Option) -> str:
    return value if isinstance(value, str) else json.dumps(value)
