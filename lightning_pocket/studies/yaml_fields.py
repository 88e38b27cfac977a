"""Mappings of a YAML file that become dataclasses: names and types checked, with errors that name file and key."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from lightning_pocket.errors import PocketError


def checked_fields(content: Any, kind: type[Any], where: str) -> dict[str, Any]:
    """Return the entries of a mapping after checking their names and types.

    Args:
        content: What the file holds.
        kind: Dataclass that it is for.
        where: Names the file, and the place in it, in errors.

    Raises:
        PocketError: If it is no mapping, or a key is unknown, missing or of another type.
    """
    known = {entry.name: entry for entry in fields(kind)}
    if not isinstance(content, Mapping):
        raise PocketError(f"{where}: found {type(content).__name__}, expected keys such as {next(iter(known))}.")
    hints = get_type_hints(kind)
    for key, value in content.items():
        if key not in known:
            raise PocketError(f"{where}: there is no key {key!r}.{suggest(str(key), list(known))}")
        expected = _types(hints[key])
        if type(value) not in expected:  # True is no number here
            names = " or ".join("nothing" if part is NoneType else part.__name__ for part in expected)
            raise PocketError(f"{where}: {key} is {value!r}, expected {names}.")
        if get_args(hints[key]) == (str,) and not all(isinstance(part, str) for part in value):
            raise PocketError(f"{where}: {key} is {value!r}, expected a list of names.")
    for name, entry in known.items():
        if entry.default is MISSING and entry.default_factory is MISSING and name not in content:
            raise PocketError(f"{where}: has no {name}.")
    return dict(content)


def suggest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error about a name that is not known: the nearest one, or all."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def _types(hint: Any) -> tuple[type, ...]:
    """Return the types that YAML may give a field."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return tuple(part for option in get_args(hint) for part in _types(option))
    return (str,) if origin is Literal else (origin or hint,)
