"""Read ImageNet weights of a backbone or a classifier from a file that the user has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import as_plain
from lightning_pocket.storage import DAMAGED

from .base import Backbone

_COUNTER = ".num_batches_tracked"  # files of old versions of torchvision lack it
_MOST_NAMES = 3


def load_backbone(backbone: Backbone, path: str | Path) -> str:
    """Copy the weights in a file into a backbone, all of them or none.

    Every tensor of the backbone must be in the file with its own shape. Those of the file's classifier are left out by
    name; any other that the backbone lacks is an error. A backbone for images of one channel takes the sum of the
    first convolution's RGB kernels, which answers a grey image as the file's network answers three equal channels.

    Args:
        backbone: Changed in place. Its expanded layers hold the weights as their product.
        path: State dict in torchvision's layout that ``torch.save`` wrote, such as ``resnet101-63fe2227.pth``. Only
            tensors are read from it, never code.

    Returns:
        One line that says what was read.

    Raises:
        PocketError: If the file cannot be read, or does not fit.
    """
    layout = WeightsLayout("network.backbone_weights", backbone.first_weight, backbone.unused, named=backbone.layout)
    return f"backbone {load_weights(backbone, path, layout)}"


@dataclass(frozen=True)
class WeightsLayout:
    """What is known of a file of weights.

    Args:
        key: The setting that names the file, for messages.
        first_weight: Name of the first convolution's weights.
        unused: Beginnings of names in the file that are not read.
        head: Beginning of the names of the last layer, which is not read where it tells other classes apart; empty
            where there is none.
        named: Whose names the state dict has, for messages.
    """

    key: str
    first_weight: str
    unused: tuple[str, ...] = ()
    head: str = ""
    named: str = "torchvision"


def load_weights(module: nn.Module, path: str | Path, layout: WeightsLayout) -> str:
    """Copy the weights in a file into a module, all of them or none; see :func:`load_backbone`.

    Args:
        module: Changed in place.
        path: State dict that ``torch.save`` wrote.
        layout: What is known of it.

    Returns:
        One line that says what was read.

    Raises:
        PocketError: If the file cannot be read, or does not fit.
    """
    file = Path(path)
    with as_plain(module):
        saved = {n: tensor for n, tensor in _read(file, layout.key).items() if not n.startswith(layout.unused)}
        current = module.state_dict()
        read = _sum_of_colours(saved, current, layout.first_weight)
        other = _without_head(saved, current, layout.head)
        _check(type(module).__name__, file, saved, current, layout)
        module.load_state_dict(saved, strict=False)
    tensors = sum(not name.endswith(_COUNTER) for name in current)
    return f"{type(module).__name__}: {tensors} tensors from {file}{read}{other}"


def _read(file: Path, key: str) -> dict[str, Tensor]:
    if not file.is_file():
        raise PocketError(f"{key}: {file}: no such file. Give a state dict in torchvision's layout, or null.")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise PocketError(
            f"{key}: {file}: not a file of weights, or a damaged one ({type(error).__name__}). Expected a state dict "
            "that torch.save wrote."
        ) from error
    if isinstance(content, Mapping) and content and all(isinstance(tensor, Tensor) for tensor in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    raise PocketError(
        f"{key}: {file}: holds {_described(content)}, expected a state dict: names and tensors, nothing around them."
    )


def _without_head(saved: dict[str, Tensor], current: dict[str, Tensor], head: str) -> str:
    """Leave out the last layer of both, in place, where the file's tells another number of classes apart."""
    name = f"{head}weight"
    if not head or name not in saved or name not in current or len(saved[name]) == len(current[name]):
        return ""
    classes = len(saved[name]), len(current[name])
    for tensors in (saved, current):
        for own in [own for own in tensors if own.startswith(head)]:
            del tensors[own]
    return f", all but its last layer for {classes[0]} classes instead of {classes[1]}"


def _sum_of_colours(saved: dict[str, Tensor], current: Mapping[str, Tensor], name: str) -> str:
    """Turn a first kernel for RGB into one for grey images, in place, where the backbone takes those."""
    kernel, own = saved.get(name), current.get(name)
    if kernel is None or own is None or kernel.ndim != own.ndim or (kernel.shape[1], own.shape[1]) != (3, 1):
        return ""
    saved[name] = kernel.sum(dim=1, keepdim=True)
    return ", its first kernels summed over RGB for one channel"


def _check(
    name: str, file: Path, saved: Mapping[str, Tensor], current: Mapping[str, Tensor], layout: WeightsLayout
) -> None:
    missing = [own for own in current if own not in saved and not own.endswith(_COUNTER)]
    unknown = [own for own in saved if own not in current]
    misshaped = [
        f"{own} {_shape(saved[own])} instead of {_shape(tensor)}"
        for own, tensor in current.items()
        if own in saved and saved[own].shape != tensor.shape
    ]
    numbers = [
        own
        for own, tensor in saved.items()
        if own in current and current[own].is_floating_point() and not _holds_numbers(tensor)
    ]
    found = {
        "lacks": missing,
        "has an unknown": unknown,
        "has a wrong shape in": misshaped,
        "has NaN, infinity or integers in": numbers,
    }
    problems = [f"{what} {_listed(names)}" for what, names in found.items() if names]
    if problems:
        raise PocketError(
            f"{layout.key}: {file}: does not fit {name}: it {'; it '.join(problems)}. Expected "
            f"{layout.named}'s names and this network's widths, kinds of convolution and number of channels (or RGB "
            "for one channel)."
        )


def _holds_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def _listed(names: Iterable[str]) -> str:
    first = list(names)
    more = len(first) - _MOST_NAMES
    return ", ".join(first[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a mapping of {_listed(map(str, content)) or 'nothing'}"
    return f"a {type(content).__name__}"
