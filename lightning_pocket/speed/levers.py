"""What makes the same network faster, as switches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from .heap import can_keep_memory


@dataclass(frozen=True)
class Levers:
    """How a network is run; all off is plain eager computation on contiguous tensors.

    All but ``bfloat16`` change a result by no more than the rounding of its precision.

    Args:
        channels_last: Weights and images are laid out with the channels of a voxel side by side.
        folded: Batch norms are part of the convolutions before them, see :func:`.fold.folded`; for evaluation only.
        keep_memory: Freed memory stays with the process, see :func:`.heap.keep_memory`; for CPUs.
        benchmark: cuDNN tries its algorithms for each size and keeps the fastest; for CUDA.
        compiled: ``torch.compile``, see :class:`.compiled.Compiled`.
        bfloat16: Autocast to bfloat16: 8 bits of precision instead of 24.
    """

    channels_last: bool = False
    folded: bool = False
    keep_memory: bool = False
    benchmark: bool = False
    compiled: bool = False
    bfloat16: bool = False

    def __str__(self) -> str:
        return " + ".join(self.names) or "plain"

    @property
    def names(self) -> list[str]:
        """Names of the levers that are on."""
        return [field.name for field in fields(self) if getattr(self, field.name)]

    def __or__(self, other: Levers) -> Levers:
        """Return what is on in either of the two."""
        return Levers.of(*self.names, *other.names)

    @classmethod
    def of(cls, *names: str) -> Levers:
        """Return those levers on, and no others.

        Raises:
            TypeError: If there is no lever of such a name.
        """
        return cls(**dict.fromkeys(names, True))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Levers:
        """Return the levers that a choice in a file or a checkpoint names, as far as this machine has them."""
        known = {field.name for field in fields(cls)}
        return cls.of(*(name for name in record.get("chosen", []) if name in known))


def training_candidates(device: torch.device, bfloat16: bool = False, compiled: bool = False) -> list[Levers]:
    """Return the combinations that are worth a try for training on a device, plain first.

    Args:
        device: Where the network is trained.
        bfloat16: Whether lower precision is allowed; it is tried only where the device computes it itself.
        compiled: Whether ``torch.compile`` may be tried, which takes a minute or more before the first step.
    """
    own = Levers(keep_memory=can_keep_memory()) if device.type == "cpu" else Levers(benchmark=device.type == "cuda")
    channels_last = Levers(channels_last=True)
    found = [Levers(), own, channels_last, channels_last | own]
    if compiled:
        found += [own | Levers(compiled=True), channels_last | own | Levers(compiled=True)]
    if bfloat16 and has_fast_bfloat16(device):
        found += [levers | Levers(bfloat16=True) for levers in found[1:]]
    return list(dict.fromkeys(found))


def inference_candidates(device: torch.device, own: Levers) -> list[Levers]:
    """Return the combinations that are worth a try for inference, plain first.

    Args:
        device: Where the network predicts.
        own: What stays on in all of them.
    """
    fast = Levers(folded=True, keep_memory=device.type == "cpu" and can_keep_memory())
    return [own, *(own | levers for levers in (fast, fast | Levers(channels_last=True)) if own | levers != own)]


def has_fast_bfloat16(device: torch.device) -> bool:
    """Tell whether a device computes in bfloat16 rather than imitating it."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(test() for test in (_has_avx512_bf16, _has_amx))


def has_float16(device: torch.device) -> bool:
    """Tell whether a device computes in float16: CPUs that do not take 50 times as long as in float32."""
    if device.type != "cpu":
        return True
    test = getattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", None)  # no public question yet
    return bool(test and test())


def _has_avx512_bf16() -> bool:
    test = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # no public question yet
    return bool(test and test())


def _has_amx() -> bool:
    test = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(test and test())
