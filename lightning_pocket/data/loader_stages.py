"""The stages a batch goes through on its way to the network, each of which can be timed on its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_pocket.errors import PocketError

from .images2d.dataset import TrainingImages, collate
from .on_device.apply import augment
from .on_device.draw import RecipeDrawer
from .patches import PatchDataset, TorchSeed, as_is, empty

_MORE_WORKERS = "Raise data.init_args.num_workers as far as cores go."
_SLOW_DISK = "Put the cache on a local disk, or give the machine the memory to keep it in."
#: Bytes of the pieces in which an operating system reads files.
_PAGE = 4096


@dataclass(frozen=True)
class LoaderStage:
    """Something that is done to items.

    Args:
        name: What it is called in a table.
        place: Who does it: ``loader`` (the workers, or the training process without any), ``transfer`` or ``device``.
        items: Items per call.
        mib: Size of the items of a call in MiB.
        work: What is timed; takes what ``prepare`` returns.
        prepare: Makes the input of a call from its number, which counts from 0; it is not timed.
        probability: Share of the items it is done to.
        remedy: What to do where it limits loading.
    """

    name: str
    place: str
    items: int
    mib: float
    work: Callable[[Any], object]
    prepare: Callable[[int], Any] = int
    probability: float = 1.0
    remedy: str = _MORE_WORKERS


def patch_stages(dataset: PatchDataset, batch_size: int) -> list[LoaderStage]:
    """Return the stages of the loader of patches, up to a finished batch.

    Args:
        dataset: What the loader reads.
        batch_size: Patches per batch.

    Returns:
        The stages in their order.
    """
    plain = copy.copy(dataset)
    plain.transform, plain.drawer = None, None
    first = plain.__getitems__([(0, index) for index in range(batch_size)])
    mib = _mib(first) / batch_size
    spacing = dataset.cases[0].spacing

    def read(index: int) -> float:
        """Touch each row of the patch once: the cache's pages come in, and nothing is copied."""
        voxels, _, start, _, _ = plain.locate((0, index))
        d, h, w = (slice(max(low, 0), max(low, 0) + size) for low, size in zip(start, plain.patch_size, strict=True))
        return float(voxels[:, d, h, w][..., :: _PAGE // voxels.itemsize].sum())

    def cut(index: int) -> object:
        return plain.__getitems__([(0, batch_size * index + item) for item in range(batch_size)])

    def subject(_: int) -> tio.Subject:
        label = tio.LabelMap(tensor=first["label"][:1], affine=np.diag([*spacing, 1.0]))
        image = tio.ScalarImage(tensor=first["image"][0].clone(), affine=np.diag([*spacing, 1.0]))
        return tio.Subject(image=image, label=label)

    return [
        LoaderStage("read the memory map", "loader", 1, mib, read, remedy=_SLOW_DISK),
        LoaderStage("cut patches", "loader", batch_size, batch_size * mib, cut),
        *transform_stages(dataset.transform, subject, mib),
        *_draw_stages(dataset.drawer, spacing, dataset.channels),
    ]


def image_stages(dataset: TrainingImages, batch_size: int) -> list[LoaderStage]:
    """Return the stages of the loader of 2D images, up to a finished batch.

    Args:
        dataset: What the loader reads.
        batch_size: Images per batch.

    Returns:
        The stages in their order.
    """
    plain = copy.copy(dataset)
    plain.transform, plain.drawer = None, None
    item = plain[0, 0]
    mib = item["image"].nbytes / 2**20

    def subject(_: int) -> tio.Subject:
        return tio.Subject(image=tio.ScalarImage(tensor=item["image"][:, None].clone()))

    return [
        LoaderStage("read the memory map", "loader", 1, mib, lambda index: plain[0, index], remedy=_SLOW_DISK),
        *transform_stages(dataset.transform, subject, mib),
        *_draw_stages(dataset.drawer, (1.0, 1.0, 1.0), len(item["image"])),
        LoaderStage("stack", "loader", batch_size, batch_size * mib, lambda _: collate([item] * batch_size)),
    ]


def transform_stages(
    transform: tio.Compose | None, subject: Callable[[int], tio.Subject], mib: float
) -> list[LoaderStage]:
    """Return one stage for each TorchIO transform; it is timed applied, and counted by its probability.

    Args:
        transform: The transforms, or None.
        subject: Makes something to transform.
        mib: Size of that in MiB.

    Returns:
        The stages in their order.
    """
    stages = []
    for each in transform.transforms if transform is not None else []:
        certain = copy.copy(each)
        certain.probability = 1.0
        remedy = _MORE_WORKERS
        if _fits_device(each):
            remedy = f"Have it done on the device, with --config augment_on_device. {remedy}"

        def work(item: tio.Subject, certain: tio.Transform = certain) -> object:
            with TorchSeed(0):
                return certain(item)

        stages.append(LoaderStage(type(each).__name__, "loader", 1, mib, work, subject, each.probability, remedy))
    return stages


def delivery_stages(
    batch: dict[str, Any], workers: int, device: torch.device, drawer: RecipeDrawer | None
) -> list[LoaderStage]:
    """Return the stages from a finished batch to the network.

    Args:
        batch: With ``image`` ``(B, C, D, H, W)`` and perhaps ``label`` ``(B, D, H, W)``.
        workers: Processes that prepare batches.
        device: Where the network is.
        drawer: Draws what the device does to a batch; None where it does nothing.

    Returns:
        The stages in their order.
    """
    tensors = [value for value in batch.values() if isinstance(value, Tensor)]
    size, mib = len(batch["image"]), _mib(batch)
    stages = []
    if workers:
        batches = _handed_over(tensors)
        remedy = "Take fewer or smaller batches; without workers (data.init_args.num_workers=0) nothing is handed over."
        stages.append(
            LoaderStage("hand over to training", "transfer", size, mib, lambda _: next(batches), remedy=remedy)
        )
    if device.type == "cuda":

        def send(pinned: list[Tensor]) -> None:
            for tensor in pinned:
                tensor.to(device, non_blocking=True)
            torch.cuda.synchronize(device)

        pinned = [tensor.pin_memory() for tensor in tensors]
        remedy = "Memory is pinned already; only smaller patches or batches help."
        stages.append(LoaderStage("copy to the device", "transfer", size, mib, send, lambda _: pinned, remedy=remedy))
    if drawer is not None:
        stages.append(_device_stage(batch, device, drawer, size, mib))
    return stages


def _device_stage(
    batch: dict[str, Any], device: torch.device, drawer: RecipeDrawer, size: int, mib: float
) -> LoaderStage:
    fresh, label = batch["image"].to(device), batch.get("label")
    classes = None if label is None else label.to(device)
    channels = fresh.shape[1]

    def prepare(index: int) -> tuple[Any, ...]:
        with TorchSeed(index):
            recipes = [drawer.draw((1.0, 1.0, 1.0), channels) for _ in range(size)]
        return fresh.clone(), None if classes is None else classes.clone(), recipes

    def work(given: tuple[Any, ...]) -> None:
        augment(*given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    remedy = "Let workers do it: data.init_args.augment_on=loader with more data.init_args.num_workers."
    return LoaderStage("augment on the device", "device", size, mib, work, prepare, remedy=remedy)


def _draw_stages(drawer: RecipeDrawer | None, spacing: Sequence[float], channels: int) -> list[LoaderStage]:
    if drawer is None:
        return []

    def draw(index: int) -> object:
        with TorchSeed(index):
            return drawer.draw(spacing, channels)

    return [LoaderStage("draw augmentation", "loader", 1, 0.0, draw)]


class _Endless(IterableDataset[list[Tensor]]):
    """Copies of a batch, made in a worker where another process can read them."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def __iter__(self) -> Iterator[list[Tensor]]:
        while True:
            yield [empty(tensor.shape, tensor.dtype).copy_(tensor) for tensor in self.tensors]


def _handed_over(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Yield batches that one worker makes in no time but that of writing them."""
    options: dict[str, Any] = {"batch_size": None, "num_workers": 1, "prefetch_factor": 1, "collate_fn": as_is}
    loader = DataLoader(_Endless(tensors), **options, generator=torch.Generator())  # the global one stays as it is
    yield from loader


def _fits_device(transform: tio.Transform) -> bool:
    try:
        RecipeDrawer([transform])
    except PocketError:
        return False
    return True


def _mib(batch: Any) -> float:
    return sum(value.nbytes for value in batch.values() if isinstance(value, Tensor)) / 2**20
