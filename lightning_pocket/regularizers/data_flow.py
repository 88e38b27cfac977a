"""What follows what in a network, found by running it once on tensors without values."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .kernels import CONVOLUTIONS

#: Layers that learn a new set of channels from their input.
LEARNED = (*CONVOLUTIONS, nn.Linear)
#: Norms with a mean and variance of each channel, which undo the size of the kernels before them.
CHANNEL_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
#: Both a kernel and its norm keep their meaning with one of these in between.
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


@dataclass
class DataFlow:
    """Connections of a network's layers, by their names in it.

    Attributes:
        sources: Learned layer -> those whose channels it reads; none where it reads the image.
        partners: Convolution -> norm that alone reads its output.
        sizes: Learned layer -> spatial size of its output in voxels.
    """

    sources: dict[str, set[str]] = field(default_factory=dict)
    partners: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def stems(self) -> set[str]:
        """Layers that read the image."""
        return {name for name, sources in self.sources.items() if not sources}

    @property
    def heads(self) -> set[str]:
        """Layers that no learned layer reads: they make the outputs."""
        return set(self.sources) - set().union(*self.sources.values())


def trace(network: nn.Module, shape: Sequence[int]) -> DataFlow:
    """Follow the data through a network, from an image to every output.

    A copy of the network without memory runs in evaluation mode: no value, statistic or random number is touched. Every
    operation of torch is seen, whatever module calls it, so a norm is found wherever it is defined, and it is a partner
    only if nothing else reads the convolution.

    Args:
        network: Its method ``outputs`` is called, where it has one.
        shape: Of the image, ``(B, C, *S)``.

    Returns:
        What was found; layers that were not called are missing.

    Raises:
        PocketError: If the network cannot run without values.
    """
    shadow = _without_values(network)
    run = cast("Callable[[Tensor], Any]", getattr(shadow, "outputs", shadow))
    recorder = _Recorder()
    with ExitStack() as stack:
        for name, module in shadow.named_modules():
            if isinstance(module, LEARNED):
                hook = module.register_forward_hook(partial(recorder.learned, name))
                stack.callback(hook.remove)
            elif isinstance(module, CHANNEL_NORMS):
                stack.callback(module.register_forward_pre_hook(partial(recorder.normalized, name)).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder)
        try:
            recorder.returned(run(torch.zeros(tuple(shape), device="meta")))
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise PocketError(
                f"{type(network).__name__}: its layers cannot be followed, because it does not run without values "
                f"({str(error).splitlines()[0]}). Structured sparsity needs a network whose path does not depend on "
                "what it sees."
            ) from error
    return recorder.found()


class _Recorder(TorchFunctionMode):
    """Remembers where the channels of each tensor come from, and how often each was read."""

    def __init__(self) -> None:
        super().__init__()
        self._origins: MutableMapping[Tensor, set[str]] = WeakIdKeyDictionary()
        self._reads: MutableMapping[Tensor, int] = WeakIdKeyDictionary()
        self._makers: MutableMapping[Tensor, str] = WeakIdKeyDictionary()
        self._flow = DataFlow()
        self._candidates: dict[str, tuple[str, Tensor]] = {}
        self._called: list[str] = []

    @override
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _DROPOUTS:  # in evaluation, its result is its input
            return result
        made = list(_tensors(result))
        if made:
            read = list(_tensors((args, kwargs)))
            origins = set().union(*(self._origins.get(tensor, set()) for tensor in read))
            for tensor in read:
                self._reads[tensor] = self._reads.get(tensor, 0) + 1
            for tensor in made:
                self._origins[tensor] = origins
        return result

    def learned(self, name: str, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Note that a layer was called; from here on the channels are its own."""
        sources = set().union(*(self._origins.get(tensor, set()) for tensor in _tensors(inputs)))
        self._flow.sources.setdefault(name, set()).update(sources)
        self._flow.sizes[name] = tuple(output.shape[2:])
        self._called.append(name)
        self._origins[output] = {name}
        self._makers[output] = name

    def normalized(self, name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note which layer a norm reads."""
        self._called.append(name)
        maker = self._makers.get(inputs[0])
        if maker is not None:
            self._candidates[maker] = (name, inputs[0])

    def returned(self, outputs: Any) -> None:
        """Note what the network returns: whoever gets it reads it."""
        for tensor in _tensors(outputs):
            self._reads[tensor] = self._reads.get(tensor, 0) + 1

    def found(self) -> DataFlow:
        """Return what was recorded; pairs of which one is called or read more than once are no partners."""
        for conv, (norm, tensor) in self._candidates.items():
            if self._reads.get(tensor) == 1 and self._called.count(conv) == self._called.count(norm) == 1:
                self._flow.partners[conv] = norm
        return self._flow


def _tensors(values: Any) -> Iterable[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)


def _without_values(network: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode whose parameters and buffers have a shape and no memory."""
    network = getattr(network, "_orig_mod", network)
    memo: dict[int, Any] = {}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    for buffer in network.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(network, memo).eval()
