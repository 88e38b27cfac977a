"""How many bytes the tensors of a computation hold, from one operation to the next."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from typing_extensions import override

#: Why memory is held. What is only needed for a moment is ``workspace``.
CAUSES = ("weights", "gradients", "optimizer", "activations", "inputs", "workspace")

#: Bytes that an operation holds while it runs, its new tensors included: operation, arguments, new tensors -> bytes.
Transient = Callable[[Any, tuple[Any, ...], list[Tensor]], int]


class LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage from the operation that makes it until nothing refers to it any more.

    Nothing is read from the tensors, so they may be fake. Tensors that share a storage count once.

    Args:
        transient: What an operation needs while it runs.
        granularity: Bytes that the allocator rounds each storage up to.

    Attributes:
        cause: What new storages are for.
        in_backward: Whether a backward pass runs. What it makes is ``workspace``, but what it computes once more, for
            activation checkpointing, is ``cause``.
        held: Bytes held now, by cause.
        peak: Bytes held, by cause, when their sum was largest since :meth:`restart`.
        moments: ``(label, bytes)``: the most that was held while each label was set.
    """

    def __init__(self, transient: Transient, granularity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.transient = transient
        self.granularity = granularity
        self.cause = "weights"
        self.in_backward = False
        self.held = dict.fromkeys(CAUSES, 0)
        self.peak = dict(self.held)
        self.moments: list[tuple[str, int]] = []
        self._known: dict[int, tuple[weakref.ref[Any], int, str]] = {}

    def restart(self) -> None:
        """Forget the peak and the moments so far."""
        self.peak = dict(self.held)
        self.moments = []

    def label(self, text: str) -> None:
        """Name the moments from here on."""
        if not self.moments or self.moments[-1][0] != text:
            self.moments.append((text, sum(self.held.values())))

    def mark(self, tensor: Tensor, cause: str) -> None:
        """Say what a storage is for, whatever it was made as.

        Args:
            tensor: One that has the storage.
            cause: One of :data:`CAUSES`.
        """
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            self._add(storage, cause)
        reference, size, before = self._known[id(storage)]
        self._known[id(storage)] = (reference, size, cause)
        self.held[before] -= size
        self.held[cause] += size

    @override
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 1  # fake tensors have no values, and no size depends on one
        result = func(*args, **kwargs or {})
        fresh = list(self._fresh(result))
        need = sum(self.held.values()) + self.transient(func, args, fresh)
        temporary = self.in_backward and not torch.is_grad_enabled()
        for tensor in fresh:
            self._add(tensor.untyped_storage(), "workspace" if temporary else self.cause)
        self._note(need - sum(self.held.values()))
        return result

    def _fresh(self, result: Any) -> Iterator[Tensor]:
        """Yield one tensor of each storage that is new."""
        seen = set()
        for tensor in tree_iter(result):
            if not isinstance(tensor, Tensor):
                continue
            key = id(tensor.untyped_storage())
            if key not in self._known and key not in seen:
                seen.add(key)
                yield tensor

    def _add(self, storage: Any, cause: str) -> None:
        size = -(-storage.nbytes() // self.granularity) * self.granularity
        key = id(storage)

        def forget(_: Any) -> None:
            _, size, cause = self._known.pop(key)
            self.held[cause] -= size

        self._known[key] = (weakref.ref(storage, forget), size, cause)
        self.held[cause] += size

    def _note(self, extra: int) -> None:
        """Compare what is held now, and ``extra`` for this moment alone, with the most so far."""
        extra = max(extra, 0)
        total = sum(self.held.values()) + extra
        if total >= sum(self.peak.values()):  # of equal moments the last: a gradient has been recognised by then
            self.peak = {**self.held, "workspace": self.held["workspace"] + extra}
        if self.moments:
            label, most = self.moments[-1]
            self.moments[-1] = (label, max(most, total))
