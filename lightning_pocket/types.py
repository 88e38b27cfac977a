"""Contracts between data and tasks.

Letters used in shapes: B batch, C channels, K classes, S all spatial axes, D H W the three spatial axes of a volume
(D runs from inferior to superior, H from anterior to posterior, W from right to left), N cases.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, NotRequired, Protocol, TypedDict

if TYPE_CHECKING:  # preparing data must not wait for torch
    from pathlib import Path

    import numpy as np
    from torch import Tensor

#: Metric of a segmented case -> whether more is better. The names are the columns of tables with one row per case.
#: Distances are in mm, or in pixels where a data set does not tell the size of its pixels: never both in one table.
CASE_METRICS: dict[str, bool] = {
    "dice": True,
    "hd95_mm": False,
    "asd_mm": False,
    "hd95_px": False,
    "asd_px": False,
    "surface_dice": True,
}


class Batch(TypedDict):
    """What a data loader gives to a task.

    Attributes:
        image: ``(B, C, *S)`` float32, preprocessed intensities.
        label: ``(B, *S)`` integers, class of each voxel, 0 is background, ``DatasetInfo.ignore_index`` does not count.
        subject: Case identifiers, one per item; an empty one marks an item that is repeated only to keep processes
            in step, and is not counted.
        spacing: Voxel size of each item in mm along each spatial axis, or in pixels of the original of an image of
            which that is not known; whole cases have it.
    """

    image: Tensor
    label: Tensor
    subject: list[str]
    spacing: NotRequired[list[tuple[float, ...]]]


class ImageBatch(TypedDict):
    """What a data loader gives to a task that classifies whole images.

    Attributes:
        image: ``(B, C, H, W)`` float32, preprocessed intensities; in a test of ten crops ``(B, 10, C, H, W)``, the
            middle first.
        target: ``(B,)`` int64, index of each image's class.
        subject: Identifiers, one per item; an empty one marks an item that is repeated only to keep processes in
            step, and is not counted.
    """

    image: Tensor
    target: Tensor
    subject: list[str]


class Original(Protocol):
    """One case on the grid of its own files, for scores that compare with those of other tools."""

    @property
    def suffix(self) -> str:
        """Suffix of the files that :meth:`write` writes."""

    @property
    def spacing(self) -> tuple[float, ...] | None:
        """Voxel size in mm along each spatial axis; None where distances are counted in pixels."""

    def label(self) -> np.ndarray:
        """Return the class index of each voxel of the original grid."""

    def restore(self, predicted: np.ndarray) -> np.ndarray:
        """Bring predicted class indices from the prepared to the original grid."""

    def write(self, predicted: np.ndarray, path: Path) -> None:
        """Write predicted class indices of the prepared grid as a file: original grid, original label values."""


class CaseBatch(Batch):
    """Whole cases to be tested.

    Attributes:
        original: One per item.
    """

    original: list[Original]


@dataclass(frozen=True)
class DatasetInfo:
    """What a task must know of its data, and what a checkpoint carries along.

    Args:
        channels: Names of the image channels (modalities).
        classes: Names of the classes; the first is background.
        patch_size: Voxels of a training patch along each spatial axis.
        spacing: Voxel size of the prepared images in mm along each spatial axis.
        preprocessing: Settings and statistics that turn a raw image into a prepared one.
        ignore_index: Label of the voxels that do not count; None where all of them count.
        regions: Class indices of named parts that are scored together, and may overlap.
    """

    channels: list[str]
    classes: list[str]
    patch_size: list[int]
    spacing: list[float] | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)
    ignore_index: int | None = None
    regions: dict[str, list[int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for a checkpoint or JSON."""
        return asdict(self)
