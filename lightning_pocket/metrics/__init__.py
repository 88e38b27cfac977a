"""How good predictions are."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .case_scores import column_name, score_case
from .classification import (
    CLASS_METRICS,
    Calibration,
    area_under_roc,
    calibration,
    calibration_error,
    confusion_matrix,
    roc_curve,
    score_classes,
)
from .surface import SurfaceDistances, surface_distances, volume_hd95
from .top_errors import top_error

if TYPE_CHECKING:
    from .dice import CaseDice, Dice, dice_per_class
    from .gathered_logits import GatheredLogits

__all__ = [
    "CLASS_METRICS",
    "Calibration",
    "CaseDice",
    "Dice",
    "GatheredLogits",
    "SurfaceDistances",
    "area_under_roc",
    "calibration",
    "calibration_error",
    "column_name",
    "confusion_matrix",
    "dice_per_class",
    "roc_curve",
    "score_case",
    "score_classes",
    "surface_distances",
    "top_error",
    "volume_hd95",
]

_NEEDS_TORCH = {
    "CaseDice": ".dice",
    "Dice": ".dice",
    "GatheredLogits": ".gathered_logits",
    "dice_per_class": ".dice",
}


def __getattr__(name: str) -> Any:
    """Import torch only for the metrics that need it: scoring files does not."""
    if name in _NEEDS_TORCH:
        return getattr(import_module(_NEEDS_TORCH[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
