"""Prediction of whole images by networks that see patches."""

from .components import check_names, keep_largest, remove_islands
from .importance import gaussian_importance
from .segment import segment
from .sliding_window import SlidingWindow, window_starts

__all__ = [
    "SlidingWindow",
    "check_names",
    "gaussian_importance",
    "keep_largest",
    "remove_islands",
    "segment",
    "window_starts",
]
