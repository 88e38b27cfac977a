"""From the files of a new case to what a network sees, and from its prediction to files: volumes and 2D images."""

from __future__ import annotations

from lightning_pocket.types import DatasetInfo

from .base import Reader, Result
from .images import ImageReader
from .volumes import VolumeReader

__all__ = ["Reader", "Result", "make_reader"]


def make_reader(info: DatasetInfo, spatial_dims: int) -> Reader | None:
    """Return what reads cases for a network, None where its training did not prepare such images.

    Args:
        info: What the checkpoint of the training knows of its data.
        spatial_dims: 2 for a network of images, 3 for one of volumes.
    """
    preprocessing = info.preprocessing
    if not preprocessing:
        return None
    images = preprocessing.get("kind") == "images"
    if images and spatial_dims == 2 and "masks" in preprocessing:
        return ImageReader(preprocessing, info.classes)
    return VolumeReader(preprocessing, info.channels) if not images and spatial_dims == 3 else None
