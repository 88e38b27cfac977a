"""From a checkpoint to label maps of new images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.inference import remove_islands, segment
from lightning_pocket.layers import contract_for_use
from lightning_pocket.readers import Reader, Result, make_reader
from lightning_pocket.speed import Choice, Levers, Runner, WindowChooser, folded, inference_candidates, keep_memory
from lightning_pocket.speed.levers import has_float16
from lightning_pocket.tasks import SegmentationTask, load_task

_DEVICES = ("cpu", "cuda", "mps", "xpu")
_WORTH = 2  # times as many windows as the choice takes: fewer are done sooner than the choice pays
#: Called with the number of windows of an image, and with how many more of them are done.
Progress = tuple[Callable[[int], None], Callable[[int], None]]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """How images are segmented; null takes what the checkpoint's config says.

    Args:
        flips: Average over all flips of each window: 8 times the work for volumes, 4 times for 2D images.
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
        reader: Reads cases as the training prepared them.
        contracted: Number of expanded layers that were contracted.

    Raises:
        PocketError: If a checkpoint cannot be read or does not segment, several do not belong together, there
            is no such device, or it does not compute in this precision.
    """

    def __init__(
        self, checkpoint: Path | Sequence[Path], device: str = "auto", settings: Settings = Settings()
    ) -> None:
        checkpoints = [checkpoint] if isinstance(checkpoint, Path) else list(checkpoint)
        loaded = [_load(path) for path in checkpoints]
        tasks = [task for task, _ in loaded]
        for path, other in zip(checkpoints[1:], tasks[1:], strict=True):
            _check_agreement(checkpoints[0], tasks[0], path, other)
        task = tasks[0]
        self.device = _device(device)
        if settings.precision == "float16" and not has_float16(self.device):
            raise PocketError("precision: this CPU does not compute in float16; choose bfloat16 or float32.")
        self.settings = settings
        self.channels, self.classes = task.info.channels, task.info.classes
        self.reader = loaded[0][1]
        self.patch_size = task.info.patch_size
        self.keep_largest = task.largest_component if settings.largest_component is None else settings.largest_component
        asked: dict[str, Any] = {
            "flips": settings.flips,
            "overlap": settings.overlap,
            "window_batch": settings.window_batch,
        }
        self.window = replace(task.inference, **{name: value for name, value in asked.items() if value is not None})
        self.contracted = sum(contract_for_use(member.network) for member in tasks)
        self._networks = [member.network.to(self.device).eval() for member in tasks]
        own = Levers(channels_last=task.levers.channels_last)
        self._plain = self._predictor(own)
        self._chooser = WindowChooser(self._predictor, inference_candidates(self.device, own))

    @property
    def description(self) -> str:
        """The network's class and size, and how many of them are averaged."""
        network, several = self._networks[0], len(self._networks)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return f"{type(network).__name__}, {parameters:,} parameters" + (f", {several} of them" if several > 1 else "")

    @property
    def choice(self) -> Choice | None:
        """How windows are predicted fastest, once it is known."""
        return self._chooser.choice

    @choice.setter
    def choice(self, choice: Choice) -> None:
        self._chooser.use(choice)

    def count_windows(self, shape: Sequence[int]) -> int:
        """Return how often the network will be applied to an image of ``shape`` (D', H', W') or (H', W')."""
        return self.window.count(shape, self.patch_size) * (2 ** len(shape) if self.window.flips else 1)

    def segment(self, images: Sequence[Path], progress: Progress | None = None, probabilities: bool = False) -> Result:
        """Segment one image.

        Args:
            images: One file (or DICOM folder) with all channels, or one for each channel; one file of a 2D image.
            progress: See ``Progress``.
            probabilities: Keep the probabilities of the classes too, in a temporary file.

        Returns:
            The result on the grid of the image.

        Raises:
            PocketError: If an image cannot be read or has other channels.
        """
        prepared, case = self.reader.load(images)
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
        if not label.any():
            case.notes.append("nothing was found")
        return case.finish(label, kept)

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


def _load(checkpoint: Path) -> tuple[SegmentationTask, Reader]:
    task = load_task(checkpoint)
    if not isinstance(task, SegmentationTask):
        raise PocketError(f"{checkpoint}: holds a {type(task).__name__}; expected a SegmentationTask.")
    dims = task.network.spatial_dims
    reader = make_reader(task.info, dims)
    if reader is None:
        raise PocketError(
            f"{checkpoint}: its network takes {dims}D images and {'other' if task.info.preprocessing else 'no'} "
            "preprocessing is recorded; expected a network trained on what `pocket prepare` wrote."
        )
    return task, reader


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


def _temporary(shape: Sequence[int]) -> np.ndarray:
    """Return float32 numbers in a file that vanishes with them."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


def _ignore(_: int) -> None:
    pass
