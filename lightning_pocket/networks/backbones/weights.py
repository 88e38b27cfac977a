"""Read ImageNet weights of a backbone from a file that the user has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import as_plain
from lightning_pocket.storage import DAMAGED

from .base import Backbone

_KEY = "network.backbone_weights"
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
    file = Path(path)
    with as_plain(backbone):
        saved = {name: tensor for name, tensor in _read(file).items() if not name.startswith(backbone.unused)}
        current = backbone.state_dict()
        read = _sum_of_colours(saved, current, backbone.first_weight)
        _check(backbone, file, saved, current)
        backbone.load_state_dict(saved, strict=False)
    tensors = sum(not name.endswith(_COUNTER) for name in current)
    return f"backbone {type(backbone).__name__}: {tensors} tensors from {file}{read}"


def _read(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise PocketError(f"{_KEY}: {file}: no such file. Give a state dict in torchvision's layout, or null.")
    try:
        content: Any = torch.load(file, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        raise PocketError(
            f"{_KEY}: {file}: not a file of weights, or a damaged one ({type(error).__name__}). Expected a state dict "
            "that torch.save wrote."
        ) from error
    if isinstance(content, Mapping) and content and all(isinstance(tensor, Tensor) for tensor in content.values()):
        return {str(name): tensor for name, tensor in content.items()}
    raise PocketError(
        f"{_KEY}: {file}: holds {_described(content)}, expected a state dict: names and tensors, nothing around them."
    )


def _sum_of_colours(saved: dict[str, Tensor], current: Mapping[str, Tensor], name: str) -> str:
    """Turn a first kernel for RGB into one for grey images, in place, where the backbone takes those."""
    kernel, own = saved.get(name), current.get(name)
    if kernel is None or own is None or kernel.ndim != own.ndim or (kernel.shape[1], own.shape[1]) != (3, 1):
        return ""
    saved[name] = kernel.sum(dim=1, keepdim=True)
    return ", its first kernels summed over RGB for one channel"


def _check(backbone: Backbone, file: Path, saved: Mapping[str, Tensor], current: Mapping[str, Tensor]) -> None:
    missing = [name for name in current if name not in saved and not name.endswith(_COUNTER)]
    unknown = [name for name in saved if name not in current]
    misshaped = [
        f"{name} {_shape(saved[name])} instead of {_shape(tensor)}"
        for name, tensor in current.items()
        if name in saved and saved[name].shape != tensor.shape
    ]
    numbers = [
        name
        for name, tensor in saved.items()
        if name in current and current[name].is_floating_point() and not _holds_numbers(tensor)
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
            f"{_KEY}: {file}: does not fit {type(backbone).__name__}: it {'; it '.join(problems)}. Expected "
            f"{backbone.layout}'s names and this network's widths, kinds of convolution and number of channels (or RGB "
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
