"""The default patch source: reads only the voxels of a patch from the memory-mapped cache."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info

from lightning_pocket.types import Batch

from .augment import to_subject
from .cache import CachedCase
from .on_device.draw import RecipeDrawer
from .on_device.steps import Recipe
from .original import CachedOriginal
from .sampling import PatchSampler, cut, patch_start

Key = tuple[int, int]
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, label, foreground voxels


class Item(TypedDict):
    """One patch or volume: ``image`` (C, D, H, W) float32, ``label`` (D, H, W) uint8, and the case it is from.

    A volume has its spacing too, in mm along (D, H, W).
    """

    image: Tensor
    label: Tensor
    subject: str
    spacing: NotRequired[tuple[float, ...]]
    original: NotRequired[CachedOriginal]


class PatchBatch(Batch):
    """Patches, and where their augmentation is left to the device, what was drawn for each of them."""

    recipes: NotRequired[list[Recipe]]


class KeySampler(Sampler[Key]):
    """Yields ``(epoch, index)`` keys, this process's share of them.

    The key travels with each item to whichever worker makes it. So a patch depends on the seed, the epoch and the
    index alone: not on the number of workers, nor on whether the run was interrupted.

    Args:
        length: Items per epoch over all processes.
        epoch: Epoch to begin with; Lightning calls :meth:`set_epoch` afterwards.
        rank: This process.
        world_size: Number of processes. What does not divide evenly is left out, so that all take equal steps.
    """

    def __init__(self, length: int, epoch: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.length = length
        self.epoch = epoch
        self.rank = rank
        self.world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Begin another epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        for index in range(len(self)):
            yield self.epoch, index * self.world_size + self.rank

    def __len__(self) -> int:
        return self.length // self.world_size


class PatchDataset(Dataset[Item]):
    """Patches of the cached cases, each case visited equally often.

    Args:
        cases: Cases to draw from.
        patch_size: Voxels of a patch along D, H, W.
        sampler: Chooses where patches are cut.
        transform: TorchIO transform of each patch.
        seed: Together with epoch and index, decides everything random.
        stream: Keeps the random numbers of training and validation apart.
        drawer: Draws what the device is to do with each patch, instead of ``transform``, which does it here.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        patch_size: Sequence[int],
        sampler: PatchSampler,
        transform: tio.Transform | None = None,
        seed: int = 0,
        stream: int = 0,
        drawer: RecipeDrawer | None = None,
    ) -> None:
        self.cases = cases
        self.patch_size = list(patch_size)
        self.sampler = sampler
        self.transform = transform
        self.seed = seed
        self.stream = stream
        self.drawer = drawer
        self.channels = cases[0].image().shape[0]
        self._open: dict[int, Arrays] = {}

    def __getitem__(self, key: Key) -> Item:
        """Return the patch of ``(epoch, index)``, without what is left to the device."""
        batch = self.__getitems__([key])
        return {"image": batch["image"][0], "label": batch["label"][0], "subject": batch["subject"][0]}

    def __getitems__(self, keys: Sequence[Key]) -> PatchBatch:
        """Return the batch of several keys.

        Loaders call this where it exists. Patches are cut straight into the batch: at 4 x 128^3 voxels, copying them
        once more would take longer than reading them.
        """
        image = empty((len(keys), self.channels, *self.patch_size), torch.float32)
        label = empty((len(keys), *self.patch_size), torch.uint8)
        filled = [self._fill(key, image[item], label[item]) for item, key in enumerate(keys)]
        batch: PatchBatch = {"image": image, "label": label, "subject": [subject for subject, _ in filled]}
        if self.drawer is not None:
            batch["recipes"] = [recipe for _, recipe in filled if recipe is not None]
        return batch

    def _fill(self, key: Key, image: Tensor, label: Tensor) -> tuple[str, Recipe | None]:
        """Write the patch of a key into the tensors; return its subject, and what is left to the device."""
        voxels, classes, start, rng, case = self.locate(key)
        cut(voxels, start, image.numpy())
        cut(classes, start, label.numpy())
        recipe = None
        if self.drawer is not None:
            with TorchSeed(int(rng.integers(2**63))):
                recipe = self.drawer.draw(case.spacing, self.channels)
        elif self.transform is not None:
            with TorchSeed(int(rng.integers(2**63))):
                item = from_subject(self.transform(to_subject(image, label, case.spacing, case.subject)))
            image.copy_(item["image"])
            label.copy_(item["label"])
        return case.subject, recipe

    def locate(self, key: Key) -> tuple[np.ndarray, np.ndarray, list[int], np.random.Generator, CachedCase]:
        """Return the image and the label that a patch is cut from, its first voxel, what draws more, and the case."""
        epoch, index = key
        number = self._case_index(epoch, index)
        case = self.cases[number]
        voxels, classes, foreground = self._arrays(number)
        rng = np.random.default_rng([self.seed, self.stream, epoch, index])
        start = patch_start(self.sampler.centre(case.shape, foreground, rng), case.shape, self.patch_size)
        return voxels, classes, start, rng, case

    def _arrays(self, number: int) -> Arrays:
        """Return the memory maps of a case, opened once per process: mapping a file anew costs page faults."""
        if number not in self._open:
            case = self.cases[number]
            self._open[number] = (case.image(), case.label(), np.array(case.foreground()))
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory maps behind: pickled, they would be copies of the arrays."""
        return self.__dict__ | {"_open": {}}

    def _case_index(self, epoch: int, index: int) -> int:
        block, place = divmod(index, len(self.cases))
        order = np.random.default_rng([self.seed, self.stream, epoch, block, 1]).permutation(len(self.cases))
        return int(order[place])


class VolumeDataset(Dataset[Item]):
    """Whole cached volumes: this process's share, in order.

    Processes must take equally many steps, or they wait for each other for ever. Where the cases do not divide
    evenly, a process repeats one under an empty identifier, which tells the task not to count it.

    Args:
        cases: Cases of all processes; at least one.
        rank: This process.
        world_size: Number of processes.
        original: Give each case's original grid too, for tests.
    """

    def __init__(self, cases: Sequence[CachedCase], rank: int = 0, world_size: int = 1, original: bool = False) -> None:
        self.original = original
        self.share = list(cases[rank::world_size])
        self.filler = cases[0]
        self.length = -(-len(cases) // world_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        """Return volume number ``index`` of the share."""
        counted = index < len(self.share)
        case = self.share[index] if counted else self.filler
        image, label = torch.from_numpy(np.array(case.image())), torch.from_numpy(np.array(case.label()))
        subject = case.subject if counted else ""
        item: Item = {"image": image, "label": label, "subject": subject, "spacing": tuple(case.spacing)}
        if self.original:
            item["original"] = CachedOriginal(case)
        return item


def one_case(items: list[Item]) -> dict[str, Any]:
    """Collate the one case of a batch: add the batch axis to tensors, and make a list of anything else."""
    return {name: value[None] if isinstance(value, Tensor) else [value] for name, value in items[0].items()}


def as_is(batch: Any) -> Any:
    """Collate nothing: a :class:`PatchDataset` makes whole batches."""
    return batch


def from_subject(subject: tio.Subject) -> Item:
    """Return the tensors of a TorchIO subject made by :func:`to_subject`."""
    image, label = subject["image"].data, subject["label"].data
    return {"image": image.float(), "label": label[0].to(torch.uint8), "subject": subject["subject"]}


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an empty tensor for a batch: in a loader's worker one that need not be copied to be handed over."""
    if get_worker_info() is not None:
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)  # type: ignore[no-untyped-call]
        return torch.empty(0, dtype=dtype).set_(storage).view(tuple(shape))
    # numpy asks the kernel for huge pages, torch does not: page faults would take most of the time.
    return torch.from_numpy(np.empty(tuple(shape), str(dtype).removeprefix("torch.")))


class TorchSeed:
    """Seeds torch's CPU generator, which TorchIO draws from, and puts it back afterwards.

    ``torch.manual_seed`` would also reset the generators of every GPU.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> None:
        self.state = torch.default_generator.get_state()
        torch.default_generator.manual_seed(self.seed)

    def __exit__(self, *_: object) -> None:
        torch.default_generator.set_state(self.state)
