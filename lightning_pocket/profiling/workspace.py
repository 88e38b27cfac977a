"""What operations take for themselves while they run, beyond the tensors that they are given.

Most operations need no more than their outputs. Convolutions do: their libraries want other memory layouts than
torch's, and copy image, kernel and result to them and back, one after the other.

oneDNN, on a CPU (read off the log of version 3.12, ``torch.backends.mkldnn.verbose``, on AVX-512):

- Features are copied to blocks of 16 channels, the last one padded; a result is made in blocks, then copied back, when
  the copies of the arguments are already gone. An image of fewer than 16 channels is read as it is.
- Results of transposed and depthwise convolutions, and gradients of strided ones, come with the channels last, and are
  then copied once more.
- The backward pass does the same twice: for the input's gradient, which is then kept, and for the kernel's.
- Kernels are copied too, which counts where they are large.
- Nothing is copied of features whose channels lie next to each other (``channels_last``).
- With one thread torch runs pointwise convolutions in float32 without oneDNN. Its own backward pass takes a buffer as
  large as the columns of the input.

cuDNN, on a GPU, turns features to channels-last for its tensor cores, channels padded to multiples of 16 bytes, and
holds argument, result and both copies at the same time.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten
_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def bytes_of(tensors: list[Tensor]) -> int:
    """Return the bytes of new tensors: all that most operations take."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class OneDNN:
    """Transient memory on a CPU.

    Args:
        threads: Threads that compute.
    """

    block = 16

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def __call__(self, func: Any, args: tuple[Any, ...], fresh: list[Tensor]) -> int:
        """Return the most bytes that an operation holds at once, its new tensors included.

        Args:
            func: Operation of ``torch.ops.aten``.
            args: Its arguments.
            fresh: Tensors that it made.
        """
        made = bytes_of(fresh)
        if func is _aten.convolution.default and fresh:
            again = args[6] or args[8] == args[0].shape[1] > 1  # transposed, depthwise
            return self._forward(args[0], args[1], fresh[0], stride=args[3], again=again)
        if func is _aten.convolution_backward.default:
            again = not args[7] and max(args[4]) > 1  # strided
            return self._backward(args[0], args[1], args[2], stride=args[4], wants_input=args[-1][0], again=again)
        if func is _aten.native_batch_norm_backward.default:
            return 2 * made  # the gradient of the input is allocated twice
        return made

    def _forward(self, source: Tensor, kernel: Tensor, result: Tensor, stride: list[int], again: bool) -> int:
        if self._is_native(source, kernel, stride):
            return _bytes(result)
        if _is_channels_last(source, kernel):
            return _bytes(result) + _bytes(kernel)
        copied = self._blocked(result)
        return max(self._read(source) + _bytes(kernel) + copied, copied + (2 if again else 1) * _bytes(result))

    def _backward(
        self, gradient: Tensor, source: Tensor, kernel: Tensor, stride: list[int], wants_input: bool, again: bool
    ) -> int:
        grad_source = _bytes(source) if wants_input else 0
        made = grad_source + _bytes(kernel)
        dense = 0 if is_dense(gradient) else _bytes(gradient)
        if self._is_native(source, kernel, stride):
            return dense + made + grad_source * prod(kernel.shape[2:])
        if _is_channels_last(source, kernel):
            return dense + made + _bytes(kernel)
        copied = self._blocked(gradient)
        back = (2 if again else 1) * grad_source
        for_source = self._blocked(source) + max(copied + _bytes(kernel), back) if wants_input else 0
        for_kernel = grad_source + _bytes(kernel) + max(copied + self._read(source), _bytes(kernel))
        return dense + max(for_source, for_kernel)

    def _is_native(self, source: Tensor, kernel: Tensor, stride: list[int]) -> bool:
        """Whether torch computes this convolution itself; see ``ConvParams::use_mkldnn``."""
        pointwise = prod(kernel.shape[2:]) == 1 and set(stride) == {1}
        return pointwise and self.threads == 1 and source.dtype == torch.float32 and len(source) < 16

    def _read(self, source: Tensor) -> int:
        """Bytes of the copy that a kernel is applied to; few channels are read as they are."""
        return 0 if source.shape[1] < self.block else self._blocked(source)

    def _blocked(self, features: Tensor) -> int:
        channels = -(-features.shape[1] // self.block) * self.block
        return _bytes(features) // features.shape[1] * channels


class CuDNN:
    """Transient memory on a GPU."""

    alignment = 16  # bytes of channels that a tensor core reads at once

    def __call__(self, func: Any, args: tuple[Any, ...], fresh: list[Tensor]) -> int:
        """Return the most bytes that an operation holds at once; see :meth:`OneDNN.__call__`."""
        made = bytes_of(fresh)
        if func is _aten.convolution.default and fresh:
            return made + self._copies(args[0], args[1], fresh[0], groups=args[8])
        if func is _aten.convolution_backward.default:
            gradient, source, kernel = args[:3]
            dense = 0 if is_dense(gradient) else _bytes(gradient)
            return dense + made + self._copies(source, kernel, gradient, groups=args[9])
        return made

    def _copies(self, source: Tensor, kernel: Tensor, result: Tensor, groups: int) -> int:
        if _is_channels_last(source, kernel) or groups == source.shape[1] > 1:  # torch's own depthwise kernels
            return 0
        return self._aligned(source) + _bytes(kernel) + self._aligned(result)

    def _aligned(self, features: Tensor) -> int:
        step = max(1, self.alignment // features.element_size())
        return _bytes(features) // features.shape[1] * (-(-features.shape[1] // step) * step)


def is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps, in whatever order of its axes."""
    size = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length != 1 and stride != size:
            return False
        size *= length
    return True


def _is_channels_last(source: Tensor, kernel: Tensor) -> bool:
    layout = _CHANNELS_LAST.get(source.ndim)
    return layout is not None and any(
        tensor.is_contiguous(memory_format=layout) and not tensor.is_contiguous() for tensor in (source, kernel)
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
