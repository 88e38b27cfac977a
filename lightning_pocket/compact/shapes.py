"""Whether the sizes of a network's results go together: found out by running it on an image without values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

from .architecture import Architecture
from .body import Unit, build_body, schedule
from .graph import IMAGE

#: Least sides of the images that are tried in turn: kernels without padding may need large ones.
_SIDES = (16, 64, 256)
#: More numbers than any result of a network has for an image of so few voxels.
_MOST_NUMBERS = 2**40


def check_shapes(architecture: Architecture, source: str) -> None:
    """Refuse an architecture whose operations each suit their settings, but not each other.

    Every operation is called on tensors that have a shape and nothing else, which takes neither memory nor arithmetic.

    Args:
        architecture: What was read.
        source: Where it is from, for the message.

    Raises:
        PocketError: If it computes no image of any of three sizes; the message names the operation.
    """
    with torch.device("meta"):
        body, units = build_body(architecture)
    body.eval()
    scheduled = schedule(units, architecture.outputs)
    kinds = {step.name: step.op for step in architecture.steps}
    problem = ""
    for least in _SIDES:
        size = [step * -(-least // step) for step in architecture.divisor]
        found = _first_problem(scheduled, torch.zeros(1, architecture.in_channels, *size, device="meta"), kinds)
        if found is None:
            return
        problem = f"{found} for images of {'x'.join(map(str, size))}"
    raise PocketError(f"{source}: {problem}. It must be an architecture file that `pocket shrink` wrote, unchanged.")


def _first_problem(units: Sequence[Unit], image: Tensor, kinds: Mapping[str, str]) -> str | None:
    results = {IMAGE: image}
    with torch.no_grad():
        for unit in units:
            try:
                result = unit.module(*[results[name] for name in unit.inputs])
            except NotImplementedError:  # an operation that torch cannot do without values: nothing is known
                return None
            except (RuntimeError, ValueError, IndexError, OverflowError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:150].rstrip(".")
                return f"{unit.name} ({kinds[unit.name]}): cannot be computed ({reason})"
            if result.numel() > _MOST_NUMBERS:
                return f"{unit.name} ({kinds[unit.name]}): gives {result.numel():.2g} numbers"
            results[unit.name] = result
            for name in unit.last:
                del results[name]
    return None
