"""New volumes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_pocket.data.images import Volume, read_volume
from lightning_pocket.data.inputs import find_inputs
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.label_files import result_suffix, write_like
from lightning_pocket.data.layouts import Case
from lightning_pocket.data.preprocess import Geometry, Resolved, apply, restore, restore_probability
from lightning_pocket.data.resample import resampled_grid

from .base import Loaded, Reader, Result

_MOST_VOXELS = 2**31  # of a prepared image; it would take 8 GiB a channel
_UNUSUAL = 4  # times the voxel size of the training


class VolumeReader(Reader):
    """Reads volumes.

    Args:
        preprocessing: Of the training.
        channels: Names of the channels.
    """

    def __init__(self, preprocessing: Mapping[str, Any], channels: Sequence[str]) -> None:
        self.resolved = Resolved.from_dict(preprocessing)
        self.channels = channels
        self.values = [str(value) for value in self.resolved.label_values]
        self.needs = f"the network needs {', '.join(channels)}, a file each or one 4D file"

    @override
    def find(self, paths: Sequence[str]) -> list[Case]:
        return find_inputs(paths, self.channels)

    @override
    def suffix(self, image: Path) -> str:
        return result_suffix(image)

    @override
    def load(self, images: Sequence[Path]) -> tuple[np.ndarray, LoadedVolume]:
        names = ", ".join(self.channels)
        if len(images) not in (1, len(self.channels)):
            raise ImageError(
                images[0],
                f"is one of {len(images)} files of its case, but the network needs {len(self.channels)} channels "
                f"({names})",
                "give a file per channel, or one 4D file",
            )
        volume = read_volume(list(images), len(self.channels))
        notes = self._unlike_training(volume, images[0])
        prepared, _, geometry = apply(volume, None, self.resolved)
        return prepared, LoadedVolume(notes, geometry, self.resolved, images[0])

    def _unlike_training(self, volume: Volume, image: Path) -> list[str]:
        """Return remarks on an image for which the network was hardly made.

        Raises:
            ImageError: If its voxels are so large that resampling would need absurd amounts of memory.
        """
        if self.resolved.spacing is None:
            return []
        found, wanted = _listed(volume.spacing), _listed(self.resolved.spacing)
        if math.prod(resampled_grid(volume.grid, self.resolved.spacing).shape) > _MOST_VOXELS:
            raise ImageError(
                image,
                f"its voxels of {found} mm would become billions of {wanted} mm, those of the training",
                "mend the spacing or the units in its header",
            )
        ratios = [one / other for one, other in zip(volume.spacing, self.resolved.spacing, strict=True)]
        if max(ratios) > _UNUSUAL or min(ratios) < 1 / _UNUSUAL:
            return [f"its voxels are {found} mm, those of the training {wanted} mm: do not trust the result"]
        return []


@dataclass
class LoadedVolume(Loaded):
    """A volume that was read; see ``Loaded``."""

    notes: list[str]
    geometry: Geometry
    resolved: Resolved
    image: Path

    @override
    def finish(self, found: np.ndarray, probabilities: np.ndarray | None) -> VolumeResult:
        whole = restore(found, self.geometry)
        values = np.array(self.resolved.label_values, np.uint8)
        label = Volume(values[whole.array], whole.grid)
        return VolumeResult(found, probabilities, self.notes, label, self.geometry, self.resolved, self.image)


@dataclass(frozen=True)
class VolumeResult(Result):
    """A segmented volume.

    Args:
        label: Raw label values ``(D, H, W)`` uint8 on the grid of the image.
        geometry: How the prepared grid came from that of the image.
        resolved: How the image was prepared.
        image: The first file of the case, whose header the results take over.
    """

    label: Volume
    geometry: Geometry
    resolved: Resolved
    image: Path

    @override
    def write(self, path: Path) -> None:
        write_like(path, self.label, self.image)

    @override
    def write_probability(self, index: int, path: Path) -> None:
        write_like(path, self.probability(index), self.image)

    @override
    def sizes(self) -> list[str]:
        millilitres = self.label.grid.voxel_mm3 / 1000
        counts = [(self.label.array == value).sum() for value in self.resolved.label_values]
        return [f"{count * millilitres:.1f} ml" for count in counts]

    def probability(self, index: int) -> Volume:
        """Return the probability of one class ``(D, H, W)`` float32 on the grid of the image.

        Args:
            index: Number of the class; what was cropped away is background.

        Raises:
            PocketError: If probabilities were not asked for.
        """
        return restore_probability(self._probability(index), self.geometry, outside=float(index == 0))


def _listed(spacing: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in spacing)
