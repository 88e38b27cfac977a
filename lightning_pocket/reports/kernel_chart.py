"""The kernels of a layer as pictures: how strong each of their taps is, and which are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from . import svg
from .svg import TOP, WIDTH

_TAP, _GAP = 7, 8  # pixels of a tap, and between kernels
_TITLE = 24  # pixels of the name of a layer

#: Norm of each tap over the input channels, as rows of columns.
Taps = Sequence[Sequence[float]]


def kernel_chart(layers: Mapping[str, Sequence[Taps]], title: str) -> str:
    """Draw each kernel as a square of its taps: the darker, the stronger; a tap that is zero is an empty frame.

    Args:
        layers: The kernels of each layer, by its name.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element, higher the more kernels there are. Strengths are compared within a layer.

    Raises:
        PocketError: If there is no kernel.
    """
    svg.need(layers, title)
    body, y = "", float(TOP)
    for name, kernels in layers.items():
        svg.need(kernels, title)
        most = max(value for kernel in kernels for row in kernel for value in row) or 1.0
        wide, high = len(kernels[0][0]) * _TAP, len(kernels[0]) * _TAP
        in_row = max(1, (WIDTH - 4) // (wide + _GAP))
        body += svg.text(2, y + 14, name, "start", css="group")
        y += _TITLE
        for place, kernel in enumerate(kernels):
            x = 2 + place % in_row * (wide + _GAP)
            body += _kernel(kernel, x, y + place // in_row * (high + _GAP), most, f"{name}, kernel {place + 1}")
        y += -(-len(kernels) // in_row) * (high + _GAP) + _GAP
    gone = {name: sum(not any(map(any, kernel)) for kernel in kernels) for name, kernels in layers.items()}
    said = "; ".join(f"{name}: {gone[name]} of {len(kernels)} kernels are zero" for name, kernels in layers.items())
    return svg.document(title, f"{said}.", y, body)


def _kernel(kernel: Taps, x: float, y: float, most: float, name: str) -> str:
    taps = "".join(
        f'<rect x="{x + column * _TAP}" y="{y + row * _TAP}" width="{_TAP}" height="{_TAP}" '
        + ('fill="none"/>' if value == 0 else f'fill-opacity="{0.08 + 0.92 * value / most:.3f}"/>')
        for row, values in enumerate(kernel)
        for column, value in enumerate(values)
    )
    alive = sum(value != 0 for row in kernel for value in row)
    said = f"{name}: {alive} of {sum(map(len, kernel))} taps are not zero"
    return f'<g fill="currentColor" stroke="currentColor" stroke-opacity="0.25"><title>{escape(said)}</title>{taps}</g>'
