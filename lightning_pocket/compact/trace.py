"""Follow an image through a network with ``torch.fx``, and write down what is done to its channels.

fx alone knows no shapes, so that a forward that looks at them cannot be followed. Here every intermediate result also
knows its shape for one image; lengths of axes that are handed to an operation keep whose they are, so that the traced
network holds for images of any size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.profiling.fake_network import fake_tensors

from .architecture import step_name
from .functions import Extent, read_function
from .graph import IMAGE, Graph, Node
from .reading import SAME_SHAPE, CannotReduceError, Reading, read_module

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def trace(network: nn.Module, size: Sequence[int]) -> Graph:
    """Return what a network does to the channels of an image, in evaluation.

    Args:
        network: Takes one tensor; of one with ``outputs`` those are followed, so that the heads of deep supervision are
            there too. It is not changed.
        size: ``(C, *S)`` of an image that the network takes. Nothing is computed with it but shapes.

    Returns:
        The operations in order. Tensors are those of the network, not copies.

    Raises:
        PocketError: If something is done that cannot be reduced exactly; the message says what and where.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    tracer = _Tracer(_first_dtype(network), (2, *size))
    try:
        with torch.no_grad():
            tracer.trace(_Heads(network))
    except PocketError:
        raise
    except CannotReduceError as error:
        raise _refusal(tracer.place or type(network).__name__, error) from error
    except Exception as error:  # a forward may do anything with what it is given
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PocketError(
            f"{tracer.place or type(network).__name__}: its forward cannot be followed ({reason}). Networks that "
            "decide by the values of an image cannot be reduced."
        ) from error
    finally:
        for module in training:
            module.training = True
    return tracer.found


class _Heads(nn.Module):
    """What is traced: every output of a network, in a list."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, x: Tensor) -> Any:
        outputs = getattr(self.network, "outputs", None)
        return self.network(x) if outputs is None else outputs(x)


class _Result(fx.Proxy):
    """A result whose shape is known."""

    @property
    def _value(self) -> Tensor:
        value: Tensor = self.node.meta["value"]
        return value

    @property
    def shape(self) -> tuple[Extent, ...]:
        node = self.node.meta["node"]
        return tuple(Extent.of(node, axis) for axis in range(len(node.shape)))

    @property
    def ndim(self) -> int:
        return self._value.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self._value.dtype

    @property
    def device(self) -> torch.device:
        return self._value.device

    def dim(self) -> int:
        return self._value.ndim

    def size(self, axis: int | None = None) -> Any:
        return self.shape if axis is None else self.shape[axis]

    @override
    def __len__(self) -> int:
        return len(self._value)


class _Tracer(fx.Tracer):
    """Reads every operation as it is recorded.

    Attributes:
        found: The operations so far.
        place: Path of the module that is being called.
    """

    def __init__(self, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.found = Graph()
        self.place = ""
        self._dtype, self._shape = dtype, shape
        self._names: set[str] = set()
        self._paths: set[str] = set()
        self._fake = fake_tensors()

    @override
    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._paths = {name.removeprefix("network.") for name, _ in root.named_modules()}
        graph = super().trace(root, concrete_args)
        result = next(node for node in graph.nodes if node.op == "output").args[0]
        heads = (
            result.values() if isinstance(result, dict) else result if isinstance(result, list | tuple) else [result]
        )
        for head in heads:
            if not isinstance(head, fx.Node) or "node" not in head.meta:
                raise PocketError("the network returns something other than tensors that it computed from its image.")
            self.found.outputs.append(head.meta["node"])
        return graph

    @override
    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Result(node, self)

    @override
    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # weights are read where they are used, with their layer

    @override
    def to_bool(self, obj: fx.Proxy) -> bool:
        raise CannotReduceError("a decision that depends on the values of the image")

    @override
    def iter(self, obj: fx.Proxy) -> Any:
        raise CannotReduceError("a loop over the values of the image")

    @override
    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self._path(m)
        outer = self.place
        self.place = outer if path is None else path
        try:
            if not type(m).__module__.startswith("torch.nn") or isinstance(m, _CONTAINERS):
                return forward(*args, **kwargs)
            return self._layer(m, path, args, kwargs)
        except CannotReduceError as error:
            raise _refusal(self.place or type(m).__name__, error) from error
        finally:
            self.place = outer

    @override
    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **names: Any) -> Any:
        if kind == "placeholder":
            node = Node(IMAGE, "input", (), self._shape)
            with self._fake:
                value = torch.empty(self._shape, dtype=self._dtype)
            return self._record(super().create_proxy(kind, target, args, kwargs, *more, **names), node, value)
        if kind not in ("call_function", "call_method"):
            raise CannotReduceError(f"the operation {target}")
        name = str(getattr(target, "__name__", target))
        if name in ("chunk", "split", "tensor_split"):
            return self._parts(name, target, args, kwargs)
        reading = read_function(name, _nodes(args), _nodes(kwargs))
        if isinstance(reading, Node):
            return args[0]
        value = self._compute(getattr(torch.Tensor, target) if kind == "call_method" else target, args, kwargs)
        recorded = super().create_proxy(kind, target, args, kwargs, *more, **names)
        own = name.rstrip("_") if target is not operator.iadd else "add"
        return self._record(recorded, self._node(f"{self.place}.{own}".lstrip("."), reading, value), value)

    def _parts(self, name: str, target: Any, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """Record a division into parts, each as a range of channels."""
        value = self._compute(getattr(torch.Tensor, target) if isinstance(target, str) else target, args, kwargs)
        axis = kwargs.get("dim", args[2] if len(args) > 2 else 0)
        if axis % args[0].ndim != 1 or sum(part.shape[1] for part in value) != args[0].shape[1]:
            raise CannotReduceError(f"{name} along axis {axis}; expected the channels, 1")
        ends = list(accumulate(part.shape[1] for part in value))
        starts = [0, *ends[:-1]]
        return tuple(
            self.create_proxy("call_function", torch.narrow, (args[0], 1, start, end - start), {})
            for start, end in zip(starts, ends, strict=True)
        )

    def _layer(self, m: nn.Module, path: str | None, args: Any, kwargs: Any) -> Any:
        inputs = _nodes([*args, *kwargs.values()])
        if len(inputs) != 1 or not isinstance(inputs[0], Node):
            raise CannotReduceError(f"{type(m).__name__} with other arguments than one tensor")
        reading = read_module(m, inputs[0])
        if isinstance(reading, Node):
            return args[0] if args else next(iter(kwargs.values()))
        same = reading.op in SAME_SHAPE and args
        value = _values(args[0]) if same else self._compute(m.forward, args, kwargs)
        name = f"{self.place}.{type(m).__name__.lower()}".lstrip(".") if path is None else path
        recorded = super().create_proxy("call_module", name, args, kwargs)
        return self._record(recorded, self._node(name, reading, value, own=path is not None), value)

    def _compute(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Tensor:
        with self._fake, torch.no_grad():
            value: Tensor = function(*_values(args), **_values(kwargs))
        return value

    def _node(self, name: str, reading: Reading, value: Tensor, own: bool = False) -> Node:
        """Return a new node; ``own`` tells that the name is the path of its module."""
        name, number = step_name(name), 1
        unique = name
        while unique in self._names or (unique in self._paths and not (own and number == 1)):
            number += 1
            unique = f"{name}_{number}"
        return Node(
            unique, reading.op, reading.inputs, tuple(value.shape), reading.settings, reading.tensors, self.place
        )

    def _record(self, proxy: fx.Proxy, node: Node, value: Tensor) -> fx.Proxy:
        self._names.add(node.name)
        self.found.nodes.append(node)
        proxy.node.meta.update(node=node, value=value)
        return proxy

    def _path(self, m: nn.Module) -> str | None:
        """Return the path in the network, None for a module that a forward made for itself."""
        path = (self.submodule_paths or {}).get(m)
        return None if path is None else path.removeprefix("network").removeprefix(".")


def _refusal(place: str, error: CannotReduceError) -> PocketError:
    return PocketError(f"{place}: {error} cannot be reduced exactly. Nothing was changed.")


def _nodes(value: Any) -> Any:
    return _replace(value, lambda proxy: proxy.node.meta["node"])


def _values(value: Any) -> Any:
    return _replace(value, lambda proxy: proxy.node.meta["value"])


def _replace(value: Any, change: Callable[[fx.Proxy], Any]) -> Any:
    if isinstance(value, _Result):
        return change(value)
    if isinstance(value, fx.Proxy):
        raise CannotReduceError(f"the operation {getattr(value, 'attr', value)}")
    if isinstance(value, list | tuple):
        return type(value)(_replace(entry, change) for entry in value)
    if isinstance(value, dict):
        return {key: _replace(entry, change) for key, entry in value.items()}
    return value


def _first_dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.get_default_dtype())
