"""LightningModules: what is learned, and how it is judged."""

from .base import BaseTask
from .loading import load_task
from .segmentation import SegmentationTask

__all__ = ["BaseTask", "SegmentationTask", "load_task"]
