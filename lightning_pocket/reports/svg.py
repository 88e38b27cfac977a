"""Parts of inline SVG charts: scales, ticks, axes, and marks that differ by more than their colour.

Colours are CSS variables of the page (``--series-0`` and so on), so that a chart follows light and dark; without the
page they fall back to the text's colour.

For ``charts.js``, which lets people point at marks and zoom, a chart says what it is made of: ``data-area``,
``data-x`` and ``data-y`` of a plot are its edges and scales, ``data-at`` is the middle of a mark, and ``data-values``
of a line are the values of its corners. Without the script they mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from html import escape

from lightning_pocket.errors import PocketError

WIDTH, HEIGHT = 440, 300
FONT_SIZE = 14
#: Room around the plot for tick labels and axis names, in pixels.
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 12, 50
_CHARACTER = 0.56 * FONT_SIZE  # mean width of a letter
_COLOURS = 6
_DASHES = ("", "7 4", "2 3", "10 3 2 3", "4 6", "1 5")
_LEGEND_LINE = 22
_LONGEST = 36  # letters of a name in the legend
_HUGE = 1e12  # such as a loss that runs away


@dataclass(frozen=True)
class Scale:
    """Maps values to pixels, linearly or by their logarithm.

    Args:
        low: Value at ``start``.
        high: Value at ``end``; must differ from ``low``.
        start: Pixel of ``low``.
        end: Pixel of ``high``.
        log: Logarithmic; both values must be positive.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round numbers, 1, 2 or 5 times a power of ten apart, from ``low`` or below to ``high``.

    Args:
        low: Lowest value to be covered.
        high: Highest value to be covered.
        count: Number of intervals to aim at.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # the same but for rounding
        low, high = low - (abs(low) or 1) / 10, high + (abs(high) or 1) / 10
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = 1 - math.floor(math.log10(step))
    return [round(index * step, digits) for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten from ``low`` or below to ``high`` or above; powers alone where it is far.

    Args:
        low: Lowest value to be covered, positive.
        high: Highest value to be covered.
    """
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    first = max(index for index, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    last = min(index for index, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[first : max(last, first + 1) + 1]


def number(value: float) -> str:
    """Return a tick's label: 0.9, 25, 200k, 3M."""
    if abs(value) >= _HUGE:
        return f"{value:.0e}".replace("e+", "e")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (abs(value) >= size and value % (size / 10) == 0):
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def marker(index: int, x: float, y: float, title: str, size: float = 4.0) -> str:
    """Return the mark of a point: circle, square, triangle, diamond, cross or ring, by the index of its series.

    Args:
        index: Of the series.
        x: Pixels from the left.
        y: Pixels from the top.
        title: Shown when the pointer rests on the point.
        size: Half the width in pixels.
    """
    top = size * 1.2
    shape = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>',
        f'<path d="M{x - size:.1f} {y - size:.1f}h{2 * size:g}v{2 * size:g}h{-2 * size:g}z"/>',
        f'<path d="M{x:.1f} {y - top:.1f}l{top:g} {2 * top:g}h{-2 * top:g}z"/>',
        f'<path d="M{x:.1f} {y - top:.1f}l{top:g} {top:g}l{-top:g} {top:g}l{-top:g} {-top:g}z"/>',
        f'<path class="open" d="M{x - size:.1f} {y - size:.1f}l{2 * size:g} {2 * size:g}m0 {-2 * size:g}'
        f'l{-2 * size:g} {2 * size:g}"/>',
        f'<circle class="open" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>',
    )[_style(index)]
    return f'<g class="mark s{index % _COLOURS}"{at(x, y)}><title>{escape(title)}</title>{shape}</g>'


def at(x: float, y: float) -> str:
    """Return the attribute that says where the middle of a mark is, in pixels."""
    return f' data-at="{x:.2f} {y:.2f}"'


def plot(
    area: tuple[float, float, float, float],
    body: str,
    x: Scale | None = None,
    y: Scale | None = None,
    x_label: str = "",
    whole: bool = False,
) -> str:
    """Return axes and marks as one group that says how it is to be zoomed.

    Args:
        area: Left, top, right and bottom edge of what is zoomed, in pixels.
        body: Axes and marks.
        x: Scale of the horizontal axis; None where it has names, and is not zoomed.
        y: The same of the vertical axis.
        x_label: Name of the horizontal axis, for the values of lines.
        whole: Whether only whole numbers make sense on the horizontal axis.
    """
    scales = "".join(_scale_data(name, scale) for name, scale in (("x", x), ("y", y)) if scale is not None)
    label = f' data-x-label="{escape(x_label)}"' if x_label else ""
    kind = ' data-whole=""' if whole else ""
    edges = " ".join(f"{edge:.1f}" for edge in area)
    return f'<g class="plot" data-area="{edges}"{scales}{label}{kind}>{body}</g>'


def _scale_data(name: str, scale: Scale) -> str:
    ends = f"{scale.low:.10g} {scale.high:.10g} {scale.start:.2f} {scale.end:.2f}"
    return f' data-{name}="{ends} {"log" if scale.log else "linear"}"'


def line(index: int, points: Iterable[tuple[float, float]], solid: bool = False, values: str = "") -> str:
    """Return a line through points in pixels, dashed by the index of its series unless it is to be solid.

    Args:
        index: Of the series.
        points: Pixels from the left and from the top.
        solid: Not dashed.
        values: Attributes that :func:`line_values` returned, where a reader may ask for the values of its corners.
    """
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = "" if solid else _DASHES[_style(index)]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline class="line s{index % _COLOURS}"{dashes}{values} points="{path}"/>'


def line_values(name: str, points: Iterable[tuple[float, float]]) -> str:
    """Return attributes of a line with its name and the values of its corners."""
    values = " ".join(f"{x:g}:{y:.4g}" for x, y in points)
    return f' data-name="{escape(name)}" data-values="{values}"'


def _style(index: int) -> int:
    """Return which mark and dashes a series has: other ones each time that the colours begin anew."""
    return (index + index // _COLOURS) % len(_DASHES)


def text(x: float, y: float, content: str, anchor: str = "middle", rotate: bool = False, css: str = "") -> str:
    """Return a line of text; ``anchor`` says which part of it lies at ``x``."""
    turned = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if rotate else ""
    kind = f' class="{css}"' if css else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{turned}{kind}>{escape(content)}</text>'


def x_axis(scale: Scale, ticks: Sequence[float], label: str, y: float, top: float) -> str:
    """Return ticks with grid lines from ``y`` up to ``top``, and the name of the axis below."""
    parts = [
        f'<line class="grid" x1="{scale(tick):.1f}" x2="{scale(tick):.1f}" y1="{top:.1f}" y2="{y:.1f}"/>'
        + text(scale(tick), y + 18, number(tick), css="tick")
        for tick in ticks
    ]
    return tick_group("x", parts) + text((scale.start + scale.end) / 2, y + 40, label)


def y_axis(scale: Scale, ticks: Sequence[float], label: str, left: float, right: float) -> str:
    """Return ticks with grid lines from ``left`` to ``right``, and the name of the axis at the left."""
    parts = [
        f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{scale(tick):.1f}" y2="{scale(tick):.1f}"/>'
        + text(left - 8, scale(tick) + 5, number(tick), "end", css="tick")
        for tick in ticks
    ]
    return tick_group("y", parts) + text(14, (scale.start + scale.end) / 2, label, rotate=True)


def tick_group(axis: str, parts: Iterable[str]) -> str:
    """Return the ticks of an axis, ``x`` or ``y``, as the group that is drawn anew where the plot is zoomed."""
    return f'<g class="ticks {axis}">{"".join(parts)}</g>'


def indices(names: Sequence[str], order: Sequence[str] = ()) -> list[int]:
    """Return by which index each series has its mark and its colour, so that they mean the same in all charts.

    Args:
        names: Of the series of a chart.
        order: Names of all series of the page; those of the chart in their own order without any.
    """
    places = {name: index for index, name in enumerate(order)}
    return [places.get(name, index) for index, name in enumerate(names)]


def shorten(name: str, limit: int) -> str:
    """Return a name with at most ``limit`` letters; its end stays, which often tells it from others."""
    if len(name) <= limit:
        return name
    end = (limit - 1) // 2
    return f"{name[: limit - 1 - end]}…{name[len(name) - end :]}"


def legend(
    names: Sequence[str], sample: Callable[[int, float, float], str], places: Sequence[int] | None = None
) -> tuple[str, int]:
    """Return the names of the series with their marks, wrapped to the width, and the height that they take.

    Args:
        names: Of the series.
        sample: Draws the mark of a series at ``(index, x, y)``, 28 pixels wide.
        places: Index of each series, as :func:`indices` returns it; by default its place.
    """
    parts, x, y = [], float(LEFT), _LEGEND_LINE // 2 + 2
    for index, name in zip(places or range(len(names)), names, strict=True):
        shown = shorten(name, _LONGEST)
        needed = 36 + len(shown) * _CHARACTER + 16
        if x > LEFT and x + needed > WIDTH:
            x, y = float(LEFT), y + _LEGEND_LINE
        parts.append(sample(index, x, y) + text(x + 36, y + 5, shown, "start"))
        x += needed
    return "".join(parts), (y + _LEGEND_LINE // 2 + 2 if names else 0)


def document(title: str, description: str, height: float, body: str) -> str:
    """Return a whole inline SVG that a screen reader reads as one picture with a description."""
    return (
        f'<svg class="chart" role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height:g}" '
        f'font-size="{FONT_SIZE}"><title>{escape(title)}</title>'
        f"<desc>{escape(description)}</desc>{body}</svg>"
    )


def need(results: Sized, title: str) -> None:
    """Refuse to draw nothing.

    Args:
        results: What is to be drawn.
        title: Title of the chart.

    Raises:
        PocketError: If there is no result.
    """
    if not results:
        raise PocketError(f"chart {title!r}: there is no result to draw.")
