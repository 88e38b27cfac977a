"""How long something takes, in words."""

from __future__ import annotations

_DAY_MIN = 24 * 60
#: Minutes below which seconds still matter to a reader.
_FEW_MIN = 10


def show_duration(seconds: float) -> str:
    """Return a duration for people: ``45 s``, ``3 min 20 s``, ``12 min``, ``2 h 10 min`` or ``3 d 4 h``.

    Args:
        seconds: The duration in seconds.
    """
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 60 * _FEW_MIN:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < _DAY_MIN:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"
