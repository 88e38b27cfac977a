"""A run is a list of command-line arguments, and nothing else."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from lightning_pocket.errors import PocketError

#: Set for a process whose standard input is a pipe from the one that started it, and which must not outlive that one.
_TIED = "POCKET_ENDS_WITH_PARENT"
#: How long a process may take to end by itself after Ctrl-C, in seconds.
_GRACE_S = 5.0

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


def start_tied(arguments: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start ``pocket`` in a process of its own that ends with this one, however this one ends.

    Args:
        arguments: What follows ``pocket``.
        output: File that standard output and standard error are appended to, as UTF-8.
        environment: Variables on top of those of this process.

    Returns:
        The process; its standard input is the pipe by which it notices the end of this one.
    """
    return subprocess.Popen(
        [*program(), *arguments],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment, _TIED: "1"},
    )


def run_tied(arguments: Sequence[str]) -> int:
    """Run ``pocket`` in a process of its own that ends with this one, however this one ends, and has its output.

    Args:
        arguments: What follows ``pocket``.

    Returns:
        Its exit status.
    """
    with subprocess.Popen([*program(), *arguments], stdin=subprocess.PIPE, env={**os.environ, _TIED: "1"}) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)  # it has got the terminal's Ctrl-C too, and tells how to continue
            raise
        finally:
            process.kill()


def end_with_parent() -> None:
    """Watch, in a process that was started by :func:`start_tied` or :func:`run_tied`, for the end of the one that did.

    The children of this process inherit the pipe and the variable: where they are ``pocket`` too, they watch as well.
    """
    if os.environ.get(_TIED):
        threading.Thread(target=_exit_at_end_of_input, daemon=True).start()


def _exit_at_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


def configs_folder() -> Path:
    """Return the folder of shipped configs: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def find_config(name: str, folders: Sequence[str] = ("experiments", "presets")) -> Path:
    """Return the config file called ``name``.

    Args:
        name: Path of a file, or a shipped config: its path below ``configs``, or its bare name in one of ``folders``;
            ``.yaml`` may be left out.
        folders: Where a bare name is looked for, in order.

    Raises:
        PocketError: If there is no such config.
    """
    if Path(name).is_file():
        return Path(name)
    root = configs_folder()
    wanted = name.removesuffix(".yaml")
    for folder in ("", *folders):
        shipped = root / folder / f"{wanted}.yaml"
        if shipped.is_file():
            return shipped
    known = [path.stem for folder in folders for path in sorted((root / folder).glob("*.yaml"))]
    close = difflib.get_close_matches(wanted, known, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Shipped ones are in {root}."
    raise PocketError(f"--config {name}: no such file, and no shipped config has this name. {hint}")


def with_configs(arguments: Sequence[str], folders: Sequence[str] = ("experiments", "presets")) -> list[str]:
    """Return arguments in which each ``--config`` is followed by the path of a file.

    Args:
        arguments: What the user typed.
        folders: Where bare names are looked for, in order.

    Raises:
        PocketError: If there is no such config, or it is not YAML: later errors would not name the file.
    """
    expanded: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, separator, value = argument.partition("=")
        if name == "--config":
            expanded.append(f"--config={_readable(find_config(value if separator else next(rest, ''), folders))}")
        else:
            expanded.append(argument)
    return expanded


def read_config(path: Path) -> Any:
    """Return what a config file says.

    Args:
        path: The file.

    Raises:
        PocketError: If it is not YAML.
    """
    import yaml

    from lightning_pocket.storage import load_yaml

    try:
        return load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PocketError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error


def _readable(config: Path) -> Path:
    read_config(config)
    return config


def _dump(value: Option) -> str:
    return value if isinstance(value, str) else json.dumps(value)
