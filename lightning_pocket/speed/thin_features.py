"""A combination of hardware and precision that computes wrong gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import ExpandedConv


@contextlib.contextmanager
def refuse_thin_features(network: nn.Module, x: Tensor) -> Iterator[None]:
    """Refuse to train with gradients that would be wrong.

    On CPUs with AVX-512, torch 2.13 returns garbage for the gradient of a 3D kernel in bfloat16 where its input has
    fewer planes than the kernel, such as 2 planes and a kernel of 3: numbers around 1e30, or NaN. AVX2 is right.

    Args:
        network: Is called once inside.
        x: What it is called with.

    Raises:
        PocketError: If it has such features here.
    """
    if x.device.type != "cpu" or not _computes_in_bfloat16() or not torch.is_grad_enabled():
        yield
        return
    handles = [m.register_forward_pre_hook(_refuse) for m in network.modules() if _convolves_volumes(m)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _convolves_volumes(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv3d) or (isinstance(module, ExpandedConv) and module.kind is nn.Conv3d)


def _computes_in_bfloat16() -> bool:
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return half and torch.backends.cpu.get_cpu_capability() == "AVX512"


def _refuse(conv: nn.Module, inputs: tuple[Any, ...]) -> None:
    planes, kernel = inputs[0].shape[2], conv.kernel_size[0]  # type: ignore[index]
    if 1 < planes < kernel:
        raise PocketError(
            f"bfloat16: a convolution sees features of {planes} planes with a kernel of {kernel}, for which torch "
            "computes wrong gradients on this CPU. Double the first axis of data.init_args.patch_size, lower the "
            "network's depth, or train with trainer.precision 32-true."
        )
