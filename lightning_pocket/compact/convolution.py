"""Convolutions whose kernels differ in size, read different channels, or answer to channels that are gone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from .border_bias import BorderBias
from .padding import pad

CONVS: dict[int, type[Any]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[Any]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Convolution(nn.Module):
    """Several convolutions of one input, side by side.

    Args:
        settings: Of a node ``conv`` of an architecture file.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__()
        self.mode = str(settings["mode"])
        self.parts = nn.ModuleList(_part(settings, part) for part in settings["parts"])
        self.pads = [_pads(part["padding"], self.mode) for part in settings["parts"]]
        self._selected = [part["select"] is not None for part in settings["parts"]]
        for index, part in enumerate(settings["parts"]):
            if part["select"] is not None:
                self.register_buffer(f"select_{index}", torch.tensor(part["select"]), persistent=False)
        self.border = _border(settings) if settings["border"] else None
        self.free = int(settings["free"])

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, O, *S')`` of ``(B, C, *S)``."""
        pieces = [self._piece(index, part, x) for index, part in enumerate(self.parts)]
        if self.border is None:
            return torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        border = self.border(x).expand(len(x), -1, *[-1] * (x.ndim - 2))
        if not pieces:
            return border.clone()  # what comes next may work in place, and the map is kept
        y = torch.cat(pieces, dim=1) if len(pieces) > 1 else pieces[0]
        border = border.to(y.dtype)
        if not self.free:
            return y + border
        return torch.cat([y + border[:, : -self.free], border[:, -self.free :]], dim=1)

    def with_norm(self, norm: nn.Module) -> Convolution:
        """Return a copy that also does what a batch norm behind it does in evaluation.

        Args:
            norm: Of the channels of this convolution, with running statistics.
        """
        found: Any = norm
        scale = (found.running_var + found.eps).rsqrt()
        if found.weight is not None:
            scale = scale * found.weight
        shift = -found.running_mean * scale
        if found.bias is not None:
            shift = shift + found.bias
        copied = copy.deepcopy(self)
        first = 0
        for part in copied.parts:
            own = slice(first, first + _outputs(part))
            _fold(part, scale[own], None if self.border is not None else shift[own])
            first = own.stop
        if copied.border is not None:
            _fold(copied.border.conv, scale, shift)
        return copied

    def _piece(self, index: int, part: nn.Module, x: Tensor) -> Tensor:
        if self._selected[index]:
            x = x.index_select(1, getattr(self, f"select_{index}"))
        pads = self.pads[index]
        y: Tensor = part(x if pads is None else pad(x, pads, self.mode))
        return y


def _outputs(conv: Any) -> int:
    return int(conv.out_channels)


@torch.no_grad()
def _fold(conv: Any, scale: Tensor, shift: Tensor | None) -> None:
    """Multiply what a convolution gives, and add to it, in place."""
    rows = scale.reshape(-1, *[1] * (conv.weight.ndim - 1))
    if conv.transposed:  # stored as (I, O / groups, *k)
        rows = scale.reshape(conv.groups, 1, -1, *[1] * (conv.weight.ndim - 2))
        rows = rows.expand(-1, len(conv.weight) // conv.groups, *[-1] * (conv.weight.ndim - 1)).flatten(0, 1)
    conv.weight = nn.Parameter(conv.weight * rows)
    before = 0 if conv.bias is None else conv.bias * scale
    if shift is not None or conv.bias is not None:
        conv.bias = nn.Parameter(before + (torch.zeros_like(scale) if shift is None else shift))


def is_plain(settings: dict[str, Any]) -> bool:
    """Tell whether a layer of torch does what a node ``conv`` asks for."""
    parts = settings["parts"]
    if len(parts) != 1 or settings["border"] or settings["free"] or parts[0]["select"] is not None:
        return False
    return _pads(parts[0]["padding"], settings["mode"]) is None


def make_convolution(settings: dict[str, Any]) -> nn.Module:
    """Return the module of a node ``conv`` of an architecture file."""
    return _part(settings, settings["parts"][0]) if is_plain(settings) else Convolution(settings)


def _pads(padding: Sequence[Sequence[int]], mode: str) -> list[list[int]] | None:
    """Return what must be padded before a convolution; None where the layer of torch does it itself."""
    if mode == "zeros" and all(before == after >= 0 for before, after in padding):
        return None
    return None if all(before == after == 0 for before, after in padding) else [list(axis) for axis in padding]


def _part(settings: dict[str, Any], part: dict[str, Any]) -> nn.Module:
    bias = bool(settings["bias"]) and not settings["border"]
    return _make(settings, part["in"], part["out"], part["kernel"], part["padding"], part["groups"], bias)


def _border(settings: dict[str, Any]) -> BorderBias:
    geometry, outputs = settings["border"], settings["free"] + sum(part["out"] for part in settings["parts"])
    conv = _make(settings, 1, outputs, geometry["kernel"], geometry["padding"], 1, bool(settings["bias"]))
    return BorderBias(conv, _pads(geometry["padding"], "zeros"))


def _make(
    settings: dict[str, Any],
    inputs: int,
    outputs: int,
    kernel: Sequence[int],
    padding: Sequence[Sequence[int]],
    groups: int,
    bias: bool,
) -> nn.Module:
    dims = len(kernel)
    inside = _pads(padding, settings["mode"]) is None
    shared = {
        "stride": tuple(settings["stride"]),
        "padding": tuple(before for before, _ in padding) if inside else 0,
        "dilation": tuple(settings["dilation"]),
        "groups": groups,
        "bias": bias,
    }
    if settings["output_padding"] is None:
        conv: nn.Module = CONVS[dims](inputs, outputs, tuple(kernel), **shared)
    else:
        output_padding = tuple(settings["output_padding"])
        conv = TRANSPOSED[dims](inputs, outputs, tuple(kernel), output_padding=output_padding, **shared)
    return conv
