"""Prediction of whole images by networks that see patches."""

from .components import keep_largest
from .importance import gaussian_importance
from .segment import segment
from .sliding_window import SlidingWindow, window_starts

__all__ = ["SlidingWindow", "gaussian_importance", "keep_largest", "segment", "window_starts"]
