"""From a checkpoint to label maps of new images."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_pocket.data.images import Volume, read_volume
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.preprocess import Geometry, Resolved, apply, restore, restore_probability
from lightning_pocket.data.resample import resampled_grid
from lightning_pocket.errors import PocketError
from lightning_pocket.inference import remove_islands, segment
from lightning_pocket.speed import Choice, Levers, Runner, WindowChooser, folded, inference_candidates, keep_memory
from lightning_pocket.speed.levers import has_float16
from lightning_pocket.tasks import SegmentationTask, load_task

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_MOST_VOXELS = 2**31  # of a prepared image; it would take 8 GiB a channel
_WORTH = 2  # times as many windows as the choice takes: fewer are done sooner than the choice pays
_UNUSUAL = 4  # times the voxel size of the training
#: Called with the number of windows of an image, and with how many more of them are done.
Progress = tuple[Callable[[int], None], Callable[[int], None]]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How images are segmented; null takes what the checkpoint's config says.

    Args:
        flips: Average over all flips of each window: 8 times the work for volumes.
        overlap: Fraction of a window that the next one repeats, in [0, 1).
        window_batch: Windows predicted at a time.
        largest_component: Keep only the largest connected component of each class; null for those that the
            checkpoint names.
        precision: Precision of the network; float16 and bfloat16 need half the memory on a GPU.
        speed: ``auto`` predicts the first windows in several ways that agree within rounding, and goes on with the
            fastest; ``plain`` predicts as a test of the run does.
    """

    flips: bool | None = None
    overlap: float | None = None
    window_batch: int | None = None
    largest_component: bool | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    speed: Literal["auto", "plain"] = "plain"


class Segmenter:
    """Segments images as the checkpoint's training prepared them.

    Of several checkpoints, such as those of a cross-validation, the logits of each window are averaged.

    Args:
        checkpoint: File that ``pocket fit`` wrote, or several.
        device: ``cpu``, ``cuda``, ``cuda:1`` and so on; ``auto`` takes a GPU where there is one.
        settings: How to segment.

    Attributes:
        channels: Names of the channels that an image must have.
        classes: Names of the classes, background first.

    Raises:
        PocketError: If a checkpoint cannot be read or does not segment volumes, several do not belong together, there
            is no such device, or it does not compute in this precision.
    """

    def __init__(
        self, checkpoint: Path | Sequence[Path], device: str = "auto", settings: Settings = Settings()
    ) -> None:
        checkpoints = [checkpoint] if isinstance(checkpoint, Path) else list(checkpoint)
        tasks = [_load(path) for path in checkpoints]
        for path, other in zip(checkpoints[1:], tasks[1:], strict=True):
            _check_agreement(checkpoints[0], tasks[0], path, other)
        task = tasks[0]
        self.device = _device(device)
        if settings.precision == "float16" and not has_float16(self.device):
            raise PocketError("precision: this CPU does not compute in float16; choose bfloat16 or float32.")
        self.settings = settings
        self.channels, self.classes = task.info.channels, task.info.classes
        self.resolved = Resolved.from_dict(task.info.preprocessing)
        self.patch_size = task.info.patch_size
        self.keep_largest = task.largest_component if settings.largest_component is None else settings.largest_component
        asked: dict[str, Any] = {
            "flips": settings.flips,
            "overlap": settings.overlap,
            "window_batch": settings.window_batch,
        }
        self.window = replace(task.inference, **{name: value for name, value in asked.items() if value is not None})
        self._networks = [member.network.to(self.device).eval() for member in tasks]
        own = Levers(channels_last=task.levers.channels_last)
        self._plain = self._predictor(own)
        self._chooser = WindowChooser(self._predictor, inference_candidates(self.device, own))

    @property
    def choice(self) -> Choice | None:
        """How windows are predicted fastest, once it is known."""
        return self._chooser.choice

    @choice.setter
    def choice(self, choice: Choice) -> None:
        self._chooser.use(choice)

    def count_windows(self, shape: Sequence[int]) -> int:
        """Return how often the network will be applied to an image of ``shape`` (D', H', W')."""
        return self.window.count(shape, self.patch_size) * (8 if self.window.flips else 1)

    def segment(self, images: Sequence[Path], progress: Progress | None = None, probabilities: bool = False) -> Result:
        """Segment one image.

        Args:
            images: One file (or DICOM folder) with all channels, or one for each channel.
            progress: See ``Progress``.
            probabilities: Keep the probabilities of the classes too, in a temporary file.

        Returns:
            The result on the grid of the image.

        Raises:
            PocketError: If an image cannot be read or has other channels.
        """
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
        del volume
        begin, advance = progress or (_ignore, _ignore)
        windows = self.count_windows(prepared.shape[1:])
        begin(windows)
        fast = self.settings.speed == "auto" and windows >= _WORTH * self._chooser.batches * self.window.window_batch
        run = self._chooser if fast else self._plain

        def predict(crops: Tensor) -> Tensor:
            with torch.autocast(self.device.type, PRECISIONS[self.settings.precision], self._autocast):
                logits = run(crops.to(self.device, non_blocking=True))
            advance(len(crops))
            return logits

        kept = _temporary((len(self.classes), *prepared.shape[1:])) if probabilities else None
        keep_memory(fast and self.choice is not None and self.choice.levers.keep_memory)
        try:
            label = segment(predict, torch.from_numpy(prepared), self.patch_size, self.window, kept)
        finally:
            keep_memory(False)  # what follows are few and large arrays
        del prepared
        label = remove_islands(label, self.keep_largest, self.classes)
        whole = restore(label, geometry)
        values = np.array(self.resolved.label_values, np.uint8)
        if not label.any():
            notes.append("nothing was found")
        return Result(replace(whole, array=values[whole.array]), geometry, kept, notes)

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

    def _predictor(self, levers: Levers) -> Callable[[Tensor], Tensor]:
        """Return what gives the mean of the logits of all networks."""
        networks = [folded(network) for network in self._networks] if levers.folded else self._networks
        first, *others = [Runner(network, levers) for network in networks]

        def logits(crops: Tensor) -> Tensor:
            mean = first(crops)
            if others:
                mean = mean.float()
                for network in others:
                    mean += network(crops)
                mean /= len(networks)
            return mean

        return logits

    @property
    def _autocast(self) -> bool:
        return self.settings.precision != "float32"


@dataclass(frozen=True)
class Result:
    """A segmented image.

    Args:
        label: Raw label values ``(D, H, W)`` uint8 on the grid of the image.
        geometry: How the prepared grid came from that of the image.
        prepared_probabilities: ``(K, D', H', W')`` float32 on the prepared grid; None where they were not asked for.
        notes: What makes the result doubtful, if anything.
    """

    label: Volume
    geometry: Geometry
    prepared_probabilities: np.ndarray | None
    notes: list[str] = field(default_factory=list)

    def probability(self, index: int) -> Volume:
        """Return the probability of one class ``(D, H, W)`` float32 on the grid of the image.

        Args:
            index: Number of the class; what was cropped away is background.

        Raises:
            PocketError: If probabilities were not asked for.
        """
        if self.prepared_probabilities is None:
            raise PocketError("probabilities: were not kept; ask `segment` for them.")
        return restore_probability(self.prepared_probabilities[index], self.geometry, outside=float(index == 0))


def _load(checkpoint: Path) -> SegmentationTask:
    task = load_task(checkpoint)
    if not isinstance(task, SegmentationTask):
        raise PocketError(f"{checkpoint}: holds a {type(task).__name__}; expected a SegmentationTask.")
    if task.network.spatial_dims != 3 or not task.info.preprocessing:
        raise PocketError(
            f"{checkpoint}: its network takes {task.network.spatial_dims}D images and "
            f"{'some' if task.info.preprocessing else 'no'} preprocessing is recorded; expected a network for "
            "volumes, trained on what `pocket prepare` wrote."
        )
    return task


def _check_agreement(path: Path, task: SegmentationTask, other_path: Path, other: SegmentationTask) -> None:
    """Refuse an ensemble of networks that see different images or answer different questions."""
    names = ("classes", "channels", "preprocessing", "patch_size")
    different = [name for name in names if getattr(task.info, name) != getattr(other.info, name)]
    different += [name for name in ("inference", "largest_component") if getattr(task, name) != getattr(other, name)]
    if different:
        raise PocketError(
            f"{other_path}: has another {', another '.join(different)} than {path}; expected the runs of one "
            "cross-validation. Continue it, or choose the post-processing anew with `pocket postprocess`."
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if name.partition(":")[0] not in _DEVICES:
            raise PocketError(f"device: {name} is not known; choose {', '.join(_DEVICES)} or auto.")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise PocketError(f"device: {name} cannot be used on this machine; choose cpu or auto.") from error
    return device


def _listed(spacing: Sequence[float]) -> str:
    return " x ".join(f"{size:g}" for size in spacing)


def _temporary(shape: Sequence[int]) -> np.ndarray:
    """Return float32 numbers in a file that vanishes with them."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


def _ignore(_: int) -> None:
    pass
