"""Entry point of ``pocket``: finds the command and runs it, importing nothing heavy before it must."""

from __future__ import annotations

import ast
import difflib
import os
import sys
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import end_with_parent, with_configs

#: Commands that LightningCLI parses; the others are one file each in ``commands/``.
TRAINING = {
    "fit": "Train a network, or continue a run that was interrupted.",
    "validate": "Compute the validation metrics of a run.",
    "test": "Segment the held-out cases of a run and score them, one row per case.",
}
#: Commands that take their arguments as they are, to pass most of them on.
RAW = {"crossval", "profile", "saturation", "sweep", "table"}
COMMANDS_FOLDER = Path(__file__).parent / "commands"
#: Files in there that are none of them.
_NO_COMMANDS = {"__init__", "settings_process", "train"}


def main(argv: list[str] | None = None) -> None:
    """Run the command named by the first argument.

    Args:
        argv: Arguments without the program's name; those of the process by default.

    Raises:
        SystemExit: With status 1 after an error the user can mend, 2 after a wrong command line.
    """
    arguments = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without ± shows ? instead of a traceback
            stream.reconfigure(errors="replace")
    end_with_parent()
    try:
        _dispatch(arguments)
    except BrokenPipeError:  # `pocket ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None  # what a shell gives for it
    except KeyboardInterrupt:
        print("pocket: interrupted; the same command continues where it stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        mendable = _mendable(error)
        if mendable is None:
            raise
        print(f"pocket: error: {mendable}", file=sys.stderr)
        raise SystemExit(1) from None


def _mendable(error: BaseException | None) -> PocketError | None:
    """Find our error among the causes: jsonargparse wraps what the classes of a config raise."""
    while error is not None and not isinstance(error, PocketError):
        error = error.__cause__ or error.__context__
    return error


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_help())
        return
    name, rest = arguments[0], arguments[1:]
    if name == "--version":
        from lightning_pocket import __version__

        print(f"lightning_pocket {__version__}")
    elif name in TRAINING:
        from lightning_pocket.commands.train import train

        train(arguments)
    elif name in RAW:
        getattr(import_module(f"lightning_pocket.commands.{name}"), name)(rest)
    elif name in _functions():
        _run_function(name, rest)
    else:
        close = difflib.get_close_matches(name, [*TRAINING, *_functions()], n=1)
        hint = f"Did you mean `pocket {close[0]}`?" if close else "`pocket --help` lists the commands."
        raise PocketError(f"there is no command {name!r}. {hint}")


def _functions() -> list[str]:
    return sorted(path.stem for path in COMMANDS_FOLDER.glob("*.py") if path.stem not in _NO_COMMANDS)


def _help() -> str:
    lines = {name: _first_line(COMMANDS_FOLDER / f"{name}.py") for name in _functions()} | TRAINING
    rows = "\n".join(f"  {name:<12}{text}" for name, text in sorted(lines.items()))
    return (
        "usage: pocket COMMAND [OPTIONS]\n\n"
        "Train, compare, shrink and ship pocket-sized networks for medical images.\n\n"
        f"commands:\n{rows}\n\n"
        "`pocket COMMAND --help` explains a command. A first look: `pocket demo`."
    )


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _run_function(name: str, arguments: list[str]) -> None:
    """Turn the function of a command into its command line and call it."""
    from lightning_pocket.parsing import Parser

    function = getattr(import_module(f"lightning_pocket.commands.{name}"), name)
    parser = Parser(prog=f"pocket {name}", description=_first_line(COMMANDS_FOLDER / f"{name}.py"))
    help_text = f"YAML file with options of this command, or the name of one in configs/{name}."
    parser.add_argument("--config", action="config", help=help_text)
    parser.add_function_arguments(function, as_group=False, as_positional=True)
    for action in parser._actions:
        fields = vars(action)
        if (
            isinstance(action.default, bool) or fields.get("_typehint") == bool | None
        ):  # an option without a value is true
            fields |= {"nargs": "?", "const": True}
        elif not action.option_strings and fields.get("_typehint") == list[str]:  # names separated by spaces
            fields |= {"nargs": "+", "metavar": action.dest, "_typehint": str}
    options = parser.parse_args(with_configs(arguments, [name]))
    options.pop("config", None)
    function(**parser.instantiate(options).as_dict())
