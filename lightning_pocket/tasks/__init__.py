"""LightningModules: what is learned, and how it is judged."""

from .base import BaseTask
from .classification import ClassificationTask
from .distillation import Distillation
from .distillation_methods import Hint, SimilarityTransfer, SoftTargets
from .loading import load_task
from .segmentation import SegmentationTask
from .start import Start, start_from

__all__ = [
    "BaseTask",
    "ClassificationTask",
    "Distillation",
    "Hint",
    "SegmentationTask",
    "SimilarityTransfer",
    "SoftTargets",
    "Start",
    "load_task",
    "start_from",
]
