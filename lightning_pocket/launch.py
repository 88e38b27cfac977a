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
        name: Path of a file, or the name of a shipped config with or without its folder and ``.yaml``.

    Raises:
        PocketError: If there is no such config, or several.
    """
    if Path(name).is_file():
        return Path(name)
    root = configs_folder()
    wanted = name.removesuffix(".yaml")
    shipped = {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}
    matches = [key for key in shipped if key == wanted or key.endswith(f"/{wanted}")]
    if len(matches) == 1:
        return shipped[matches[0]]
    if matches:
        raise PocketError(f"--config {name}: several shipped configs have this name: {', '.join(matches)}. Choose one.")
    short = {key.rpartition("/")[2]: key for key in shipped} | {key: key for key in shipped}
    close = [short[key] for key in difflib.get_close_matches(wanted, short, n=3, cutoff=0.5)]
    hint = f"Did you mean {' or '.join(dict.fromkeys(close))}?" if close else f"Shipped ones are in {root}."
    raise PocketError(f"--config {name}: no such file, and no shipped config has this name. {hint}")


def _dump(value: Option) -> str:
    return value if isinstance(value, str) else json.dumps(value)
