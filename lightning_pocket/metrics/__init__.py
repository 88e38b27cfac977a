"""How good predictions are."""

from typing import TYPE_CHECKING, Any

from .case_scores import column_name, score_case
from .surface import SurfaceDistances, surface_distances, volume_hd95

if TYPE_CHECKING:
    from .dice import CaseDice, Dice, dice_per_class

__all__ = [
    "CaseDice",
    "Dice",
    "SurfaceDistances",
    "column_name",
    "dice_per_class",
    "score_case",
    "surface_distances",
    "volume_hd95",
]


def __getattr__(name: str) -> Any:
    """Import torch only for the metrics that need it: scoring files does not."""
    if name in __all__:
        from . import dice

        return getattr(dice, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
