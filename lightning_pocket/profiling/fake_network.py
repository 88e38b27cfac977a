"""Networks without memory: every tensor has a shape, a type and strides, and no values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

#: Lightning's names of precisions -> type of the weights, type that operations are cast to (None: they are not).
PRECISIONS: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "64-true": (torch.float64, None),
    "32-true": (torch.float32, None),
    "bf16-true": (torch.bfloat16, None),
    "16-true": (torch.float16, None),
    "bf16-mixed": (torch.float32, torch.bfloat16),
    "16-mixed": (torch.float32, torch.float16),
}
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def fake_tensors() -> Any:
    """Return a context in which tensors are made without memory.

    Raises:
        PocketError: If this version of torch has no such mode where we look for it.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise PocketError(
            f"torch {torch.__version__}: has no FakeTensorMode, so nothing can be predicted. Install one of the "
            "versions that lightning_pocket asks for."
        ) from error
    return FakeTensorMode(allow_non_fake_inputs=True)


def make_blank(make_network: Callable[[], nn.Module]) -> nn.Module:
    """Return a new network that takes no memory, whose shapes and strides can be copied.

    Args:
        make_network: What it makes is made on torch's ``meta`` device, unless it names another.
    """
    with torch.device("meta"):
        return make_network()


def without_memory(network: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Return a copy whose parameters and buffers are made anew, inside :func:`fake_tensors` without memory.

    Args:
        network: It is not changed; a compiled network is copied as it was before.
        dtype: Type of what was floating-point; None leaves it.
    """
    network = getattr(network, "_orig_mod", network)
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(_empty(parameter, dtype), requires_grad=parameter.requires_grad)
    for buffer in network.buffers():
        memo[id(buffer)] = _empty(buffer, dtype)
    return copy.deepcopy(network, memo)


def apply(network: Callable[[Tensor], Any], image: Tensor) -> Any:
    """Return what a task hands to its loss.

    Args:
        network: A network of ours, whose ``outputs`` are the logits of every head, or any module.
        image: ``(B, C, *S)``.

    Returns:
        Logits, or a list of them where the network has several heads (deep supervision).
    """
    outputs = getattr(network, "outputs", None)
    if outputs is None:
        return network(image)
    heads = outputs(image)
    return heads[0] if len(heads) == 1 else heads


def make_target(output: Any, num_classes: int) -> Tensor:
    """Return random labels of the kind that our data has.

    Args:
        output: What :func:`apply` returned.
        num_classes: Labels are smaller than this.

    Returns:
        ``(B, *S)`` uint8 for logits ``(B, K, *S)``, ``(B,)`` int64 for ``(B, K)``.

    Raises:
        PocketError: If there are not ``num_classes`` logits.
    """
    logits = output[0] if isinstance(output, list | tuple) else output
    if logits.shape[1] != num_classes:
        raise PocketError(f"num_classes: found {num_classes}, but the network gives {logits.shape[1]} logits.")
    size = (logits.shape[0], *logits.shape[2:])
    return torch.randint(num_classes, size, dtype=torch.uint8 if logits.ndim > 2 else torch.int64, device=logits.device)


def make_image(network: nn.Module, shape: Sequence[int], dtype: torch.dtype, device: str) -> Tensor:
    """Return a random image ``shape = (B, C, *S)``, with the channels where the network has them in its kernels."""
    image = torch.rand(tuple(shape), dtype=dtype, device=device)
    layout = _CHANNELS_LAST.get(len(shape))
    if layout is not None and any(
        parameter.ndim == len(shape) and parameter.is_contiguous(memory_format=layout) and not parameter.is_contiguous()
        for parameter in network.parameters()
    ):
        return image.to(memory_format=layout)
    return image


def parse_precision(precision: str) -> tuple[torch.dtype, torch.dtype | None]:
    """Return the type of the weights, and the type that operations are cast to, None where they are not.

    Raises:
        PocketError: If there is no such precision.
    """
    if str(precision) not in PRECISIONS:
        raise PocketError(f"precision: found {precision!r}; choose one of {', '.join(PRECISIONS)}.")
    return PRECISIONS[str(precision)]


def _empty(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=kept, device="cpu")
