"""LightningModules: what is learned, and how it is judged."""

from .base import BaseTask
from .classification import ClassificationTask
from .loading import load_task
from .segmentation import SegmentationTask
from .start import Start, start_from

__all__ = ["BaseTask", "ClassificationTask", "SegmentationTask", "Start", "load_task", "start_from"]
