"""What the functions of torch do to channels; a companion of ``reading.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .activations import ACTIVATIONS
from .graph import Node
from .reading import CannotReduceError, Reading, adaptive_pool, average_pool, flatten, max_pool, shuffle, take, upsample


class Extent(int):
    """Length of an axis of a traced result, which remembers whose it is; arithmetic gives a plain number.

    Attributes:
        node: The result.
        axis: The axis.
    """

    node: Node
    axis: int

    @classmethod
    def of(cls, node: Node, axis: int) -> Extent:
        """Return the length of an axis."""
        extent = cls(node.shape[axis])
        extent.node, extent.axis = node, axis
        return extent


def read_function(name: str, arguments: Sequence[Any], options: dict[str, Any]) -> Reading | Node:
    """Return what a function, method or operator does.

    Args:
        name: Of the function.
        arguments: As given, results of other operations as nodes.
        options: The same by name.

    Returns:
        The operation, or its input where nothing is done.

    Raises:
        CannotReduceError: If it cannot be reduced exactly.
    """
    plain = name.rstrip("_") if name not in _FUNCTIONS else name
    if plain in ACTIVATIONS:
        return _activation(plain, *arguments, **options)
    if plain not in _FUNCTIONS:
        raise CannotReduceError(f"the operation {name} (it mixes channels, or is not known)")
    if plain not in _TAKE_SIZES and _sizes([*arguments, *options.values()]):
        raise CannotReduceError(f"the operation {name} with the size of an image as a number")
    try:
        return _FUNCTIONS[plain](*arguments, **options)
    except TypeError as error:
        raise CannotReduceError(f"the operation {name} with these arguments ({error})") from error


def _sizes(values: Any) -> bool:
    """Tell whether there is the length of a spatial axis, which is another one for other images."""
    if isinstance(values, list | tuple):
        return any(map(_sizes, values))
    return isinstance(values, Extent) and values.axis != 1


def _activation(name: str, source: Node, *given: Any, inplace: bool = False, **options: Any) -> Reading:
    del inplace
    keys = ACTIVATIONS[name][1]
    arguments = dict(zip(keys, given, strict=False)) | options
    if not set(arguments) <= set(keys):
        raise CannotReduceError(f"the operation {name} with the arguments {', '.join(arguments)}")
    return Reading("activation", (source,), {"kind": name, "arguments": arguments})


def _add(first: Any, second: Any, *, alpha: float = 1) -> Reading:
    if alpha != 1 or not isinstance(first, Node) or not isinstance(second, Node):
        raise CannotReduceError("an addition of a number, or with a factor")
    if first.shape[1:] != second.shape[1:]:
        raise CannotReduceError(f"an addition of shapes {first.shape} and {second.shape}")
    return Reading("add", (first, second))


def _mul(first: Any, second: Any) -> Reading:
    if isinstance(second, Node):
        first, second = second, first
    if not isinstance(first, Node) or not isinstance(second, int | float):
        raise CannotReduceError("a product of two results")
    return Reading("scale", (first,), {"factor": float(second)})


def _divide(first: Any, second: Any) -> Reading:
    if not isinstance(first, Node) or not isinstance(second, int | float):
        raise CannotReduceError("a quotient of two results")
    return Reading("scale", (first,), {"factor": 1 / float(second)})


def _concat(tensors: Sequence[Node], dim: int = 0) -> Reading:
    axes = len(tensors[0].shape)
    if dim % axes != 1:
        raise CannotReduceError(f"a concatenation along axis {dim}; expected the channels, 1")
    return Reading("concat", tuple(tensors))


def _max_pool(
    source: Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Reading:
    if return_indices:
        raise CannotReduceError("max_pool with return_indices")
    return max_pool(source, size=kernel_size, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)


def _average_pool(
    source: Node,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Reading:
    if divisor_override is not None:
        raise CannotReduceError("avg_pool with divisor_override")
    return average_pool(
        source,
        size=kernel_size,
        stride=stride,
        padding=padding,
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )


def _interpolate(
    source: Node,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Reading:
    if antialias or recompute_scale_factor:
        raise CannotReduceError("interpolate with antialias or recompute_scale_factor")
    if size is None:
        return upsample(source, scale=scale_factor, mode=mode, align_corners=align_corners)
    like = _whose(size, "interpolate")
    return Reading("resize_like", (source, like), {"mode": mode, "align_corners": align_corners})


def _expand(source: Node, *sizes: Any) -> Reading:
    given = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else list(sizes)
    same = [-1 if isinstance(g, Extent) and g.node is source else int(g) for g in given[:2]]
    if same != [-1, -1] or len(given) != len(source.shape) or set(source.shape[2:]) != {1}:
        raise CannotReduceError("an expansion of other axes than the spatial ones")
    return Reading("expand_like", (source, _whose(given[2:], "expand")))


def _whose(sizes: Any, name: str) -> Node:
    """Return the result whose spatial size is given."""
    extents = list(sizes) if isinstance(sizes, list | tuple) else [sizes]
    first = extents[0]
    if not isinstance(first, Extent) or [getattr(e, "axis", None) for e in extents] != list(
        range(2, len(first.node.shape))
    ):
        raise CannotReduceError(f"{name} to a fixed size; expected the spatial size of another result")
    if any(extent.node is not first.node for extent in extents):
        raise CannotReduceError(f"{name} to the sizes of several results")
    return first.node


def _reduce(how: str) -> Callable[..., Reading]:
    def read(source: Node, dim: Any = None, keepdim: bool = False) -> Reading:
        axes = len(source.shape)
        dims = [] if dim is None else [dim] if isinstance(dim, int) else list(dim)
        if sorted(axis % axes for axis in dims) != list(range(2, axes)):
            raise CannotReduceError(f"{how} over the axes {dims}; expected all spatial axes")
        return Reading("reduce", (source,), {"how": how, "keep": bool(keepdim)})

    return read


def _every_voxel(source: Node, places: Any) -> Reading | Node:
    """Return a slice of every n-th voxel along the spatial axes: max pooling of windows of one voxel."""
    given = list(places) if isinstance(places, tuple) else [places]
    given += [slice(None)] * (len(source.shape) - len(given))
    plain = all(isinstance(entry, slice) and entry.start in (None, 0) and entry.stop is None for entry in given)
    steps = [entry.step or 1 for entry in given] if plain else []
    if not plain or len(given) != len(source.shape) or steps[:2] != [1, 1] or min(steps) < 1:
        raise CannotReduceError("an index other than every n-th voxel of all channels")
    return max_pool(source, size=1, stride=steps[2:], padding=0, dilation=1, ceil_mode=False)


def _pad(source: Node, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Reading:
    spatial = 2 * (len(source.shape) - 2)
    if mode != "constant" or value or any(pad[:spatial]) or len(pad) != spatial + 2 or pad[spatial] or pad[-1] < 0:
        raise CannotReduceError("a padding of other axes than the channels, or not with zeros behind them")
    return Reading("extend", (source,))


def _narrow(source: Node, dim: int, start: int, length: int) -> Reading:
    if dim % len(source.shape) != 1:
        raise CannotReduceError(f"narrow along axis {dim}; expected the channels, 1")
    return take(source, range(source.channels)[start:][:length])


def _zeros_like(source: Node, **options: Any) -> Reading:
    if any(value is not None for value in options.values()):
        raise CannotReduceError("zeros_like of another type")
    return Reading("zeros", (source,))


def _flatten(source: Node, start_dim: int = 0, end_dim: int = -1) -> Reading:
    return flatten(source, start_dim, end_dim)


def _view(source: Node, *sizes: Any) -> Reading:
    given = list(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else list(sizes)
    owned = [extent.axis if isinstance(extent, Extent) and extent.node is source else None for extent in given[:-1]]
    if owned not in ([0], [0, 1]) or given[-1] != -1:
        raise CannotReduceError("a view other than (B, -1) or (B, C, -1)")
    return flatten(source, len(owned))


def _dropout(source: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> Reading:
    del training, inplace
    return Reading("dropout", (source,), {"p": p, "channels": False})


def _channel_dropout(source: Node, p: float = 0.5, training: bool = True, inplace: bool = False) -> Reading:
    del training, inplace
    return Reading("dropout", (source,), {"p": p, "channels": True})


def _same(source: Node, **_: Any) -> Node:
    return source


#: Functions that ask whose size they are given.
_TAKE_SIZES = ("interpolate", "expand", "view", "reshape")

_FUNCTIONS: dict[str, Callable[..., Reading | Node]] = {
    "add": _add,
    "add_": _add,
    "iadd": _add,
    "amax": _reduce("max"),
    "mean": _reduce("mean"),
    "mul": _mul,
    "imul": _mul,
    "truediv": _divide,
    "div": _divide,
    "cat": _concat,
    "concat": _concat,
    "concatenate": _concat,
    **{f"max_pool{dims}d": _max_pool for dims in (1, 2, 3)},
    **{f"avg_pool{dims}d": _average_pool for dims in (1, 2, 3)},
    **{f"adaptive_avg_pool{dims}d": lambda x, output_size: adaptive_pool(x, "mean", output_size) for dims in (1, 2, 3)},
    **{f"dropout{dims}d": _channel_dropout for dims in (1, 2, 3)},
    "dropout": _dropout,
    "interpolate": _interpolate,
    "getitem": _every_voxel,
    "pad": _pad,
    "expand": _expand,
    "narrow": _narrow,
    "channel_shuffle": shuffle,
    "native_channel_shuffle": shuffle,
    "zeros_like": _zeros_like,
    "flatten": _flatten,
    "view": _view,
    "reshape": _view,
    "contiguous": _same,
    "clone": _same,
}
