"""Argument parsing with errors that say the one thing that matters."""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from importlib import import_module
from typing import Any, NoReturn

from jsonargparse import ArgumentParser
from typing_extensions import override

#: Lines of jsonargparse's messages that tell a user nothing.
_CLUTTER = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|Expected a <class 'NoneType'>|For more details|tip:|"
    r"Parser key|Problem with given class_path|Problem in dict_kwargs|Not a valid subclass of Callback|"
    r"Subclass types expect|a class path|a dict with"
)
_KEY = re.compile(r'Parser key "([^"]+)"')
_REJECTED = re.compile(
    r"class_path '([\w.]+)'(?!.*class_path ')[^\n]*\n\s*Option '([\w.]+)' is not accepted", re.DOTALL
)
_GIVEN = re.compile(r"(?:Given value|Got value): (?!Namespace|NestedArg)(.{1,60})$", re.MULTILINE)
_LIST = re.compile(r"Expected (?:an? )?<class 'list'>(?:\. Got value: .*)?")
_CHOICES = re.compile(r"Expected an? typing\.Literal\[(.*?)\]")
_NUMBERS = re.compile(r"[-+.\de]+(?:,\s*[-+.\de]+)*")
#: What the base class says, which is tried behind the class that was meant.
_BASE_CLASS = re.compile(
    r"\n\s*- Problem with given class_path 'pytorch_lightning\.Callback':\n\s*Option '[\w.]+' is not accepted"
)
_MAX_REASONS = 3


class ClearErrors:
    """Mixin for jsonargparse parsers: an error is a few lines, with a suggestion where a key is misspelt."""

    prog: str
    exit_on_error: bool
    _actions: list[argparse.Action]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what was wrong and exit with status 2; jsonargparse's inner parsers raise instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        name = self.prog.replace("[options] ", "")
        known = [option for action in self._actions for option in action.option_strings]
        print(f"{name}: error: {_condense(message, known)}", file=sys.stderr)
        raise SystemExit(2)


class Parser(ClearErrors, ArgumentParser):
    """Parser of the commands that do not train."""

    @override
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def _condense(message: str, options: list[str]) -> str:
    message = _BASE_CLASS.sub("", message)
    rejected = _REJECTED.search(message)
    if rejected:
        class_path, option = rejected.groups()
        return f"{class_path} has no option {option!r}.{_suggestion(option, _parameters(class_path))}"
    if message.startswith("unrecognized arguments: "):
        option = message.split()[2].partition("=")[0]
        return f"{message}.{_suggestion(option, options)}"
    if "are required: " in message and ".model" in message:
        return f"{message}. Name an experiment, such as --config segment_volumes."
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    reasons = list(dict.fromkeys(line[:300] for line in lines if not _CLUTTER.match(line))) or lines
    given = _GIVEN.findall(message)
    reasons = [_CHOICES.sub(_choices, _LIST.sub(_list_wanted(given), reason)) for reason in reasons]
    found = f"; found {given[-1]}" if given and not any("Got value" in reason for reason in reasons) else ""
    key = ".".join(_KEY.findall(message))
    return f"{key}: {'; '.join(reasons[:_MAX_REASONS])}{found}".removeprefix(": ")


def _list_wanted(given: list[str]) -> str:
    """Say how to write a list, with the value at hand where it is a number."""
    if given and _NUMBERS.fullmatch(given[-1]):
        return f"expected a list such as [{given[-1]}]"
    return "expected a list, in brackets and separated by commas"


def _choices(literal: re.Match[str]) -> str:
    """Say which values there are, as a user writes them."""
    values = [value.strip().strip("'\"") for value in literal[1].split(",")]
    return f"expected {' or '.join([', '.join(values[:-1]), values[-1]] if len(values) > 1 else values)}"


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError, TypeError):
        return []


def _suggestion(option: str, known: list[str]) -> str:
    close = difflib.get_close_matches(option, known, n=1)
    if close:
        return f" Did you mean {close[0]}?"
    return f" It has {', '.join(known)}." if 0 < len(known) <= 12 else " See --help."
