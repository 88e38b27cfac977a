"""Checks of the values in an architecture file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

#: Raises ``Misfit`` where a value is not what it should be.
Check = Callable[[Any], None]

MOST = 2**22
_MOST_LENGTH = MOST


class Misfit(ValueError):  # noqa: N818 (a finding, which the reader of the file turns into an error)
    """What was found and what was expected, in one line without the place."""


def integer(low: int, high: int = MOST) -> Check:
    """Return a check for whole numbers from ``low`` to ``high``."""

    def check(value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Misfit(f"found {shown(value)}, expected a whole number from {low} to {high}")

    return check


def number(value: Any) -> None:
    """Accept finite numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e30 < value < 1e30:
        raise Misfit(f"found {shown(value)}, expected a number")


def flag(value: Any) -> None:
    """Accept true and false."""
    if not isinstance(value, bool):
        raise Misfit(f"found {shown(value)}, expected true or false")


def one_of(*choices: str) -> Check:
    """Return a check for some words."""

    def check(value: Any) -> None:
        if value not in choices:
            raise Misfit(f"found {shown(value)}, expected one of {', '.join(choices)}")

    return check


def nullable(inner: Check) -> Check:
    """Return a check that accepts null too."""

    def check(value: Any) -> None:
        if value is not None:
            inner(value)

    return check


def list_of(inner: Check, least: int = 0, most: int = _MOST_LENGTH) -> Check:
    """Return a check for lists."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise Misfit(f"found {shown(value)}, expected a list of {least} to {most} entries")
        for entry in value:
            inner(entry)

    return check


def axes(inner: Check) -> Check:
    """Return a check for one entry per spatial axis."""
    return list_of(inner, 1, 3)


#: Voxels before and after, which may be negative.
PADDING = axes(list_of(integer(-MOST), 2, 2))


def indices(channels: int) -> Check:
    """Return a check for numbers of different channels."""
    every = list_of(integer(0, max(channels - 1, 0)), 0, channels)

    def check(value: Any) -> None:
        every(value)
        if len(set(value)) != len(value):
            raise Misfit("names a channel twice")

    return check


def record(fields: Mapping[str, Check]) -> Check:
    """Return a check for a mapping with exactly these keys."""

    def check(value: Any) -> None:
        check_keys(value, fields)
        for key, inner in fields.items():
            try:
                inner(value[key])
            except Misfit as misfit:
                raise Misfit(f"{key}: {misfit}") from misfit

    return check


def check_keys(value: Any, keys: Mapping[str, Any] | Sequence[str]) -> None:
    """Raise an error unless a value is a mapping with exactly these keys.

    Raises:
        Misfit: If it is not.
    """
    if not isinstance(value, dict):
        raise Misfit(f"found {shown(value)}, expected a mapping")
    missing = [key for key in keys if key not in value]
    unknown = [key for key in value if key not in keys]
    if missing or unknown:
        found = [f"lacks {', '.join(missing)}"] * bool(missing)
        found += [f"has an unknown {', '.join(map(str, unknown[:3]))}"] * bool(unknown)
        raise Misfit(" and ".join(found))


def shown(value: Any) -> str:
    """Return a value as text, shortened."""
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
