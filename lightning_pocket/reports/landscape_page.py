"""Losses around the weights of runs: charts and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from .charts import line_chart
from .page import Page
from .surface_chart import surface_chart
from .svg_file import write_svg

#: Loss by space, first and second coordinate.
Losses = Mapping[tuple[str, float, float], float]
_SAME = "shades and contours, logarithmic, mean the same in all charts of this section"
_SAID = {
    "contracted": "Weights of the compact network, in which plain and expanded networks can be compared.",
    "factors": "Weights of the factors, which are trained; a step of 1 means another thing than in the other space.",
}


def write_landscapes(folder: Path, results: Mapping[str, Losses], command: str) -> Path:
    """Write a chart for each run and space, or for each space where there is one direction, and ``index.html``.

    Args:
        folder: Where to; made if it is missing.
        results: Losses by run.
        command: What made them, for the page.

    Returns:
        The page.
    """
    page = Page("Loss around the weights")
    page.paragraph(
        "The mean loss of some training batches where all filters are moved along random directions, drawn with the "
        "norm of each filter (Li et al., NeurIPS 2018). Biases and norms do not move; norms use running statistics."
    )
    page.paragraph(
        "Filters of factors have other norms than those of contracted kernels: the two spaces show the same network in "
        "other units.",
        "note",
    )
    spaces = dict.fromkeys(space for losses in results.values() for space, _, _ in losses)
    order = list(results)
    for space in spaces:
        page.section("Factors" if space == "factors" else "Contracted kernels")
        page.paragraph(_SAID[space])
        planes = {name: _plane(losses, space) for name, losses in results.items()}
        planes = {name: plane for name, plane in planes.items() if plane}
        if all(y == 0 for plane in planes.values() for _, y in plane):
            curves = {name: sorted((x, loss) for (x, _), loss in plane.items()) for name, plane in planes.items()}
            charts = {"": line_chart(curves, "direction", "loss", f"Loss along one direction, {space}", order=order)}
        else:
            shown = [loss for plane in planes.values() for loss in plane.values() if math.isfinite(loss)]
            limits = (min(shown), max(shown)) if shown else None
            charts = {name: surface_chart(plane, f"Loss of {name}, {space}", limits) for name, plane in planes.items()}
        for name, chart in charts.items():
            write_svg(folder / f"{'_'.join(filter(None, [name.replace('/', '_'), space]))}.svg", chart)
        page.charts(
            [(chart, f"{name}: the darker, the higher; {_SAME}." if name else "") for name, chart in charts.items()]
        )
        header = ["", "loss at the centre", "smallest", "largest"]
        page.table(header, [_row(name, plane) for name, plane in planes.items()], "")
    page.section("How it was made")
    page.code(command)
    page.write(folder / "index.html")
    return folder / "index.html"


def _plane(losses: Losses, space: str) -> dict[tuple[float, float], float]:
    return {(x, y): loss for (found, x, y), loss in losses.items() if found == space}


def _row(name: str, plane: Mapping[tuple[float, float], float]) -> list[str]:
    return [name, f"{plane[0.0, 0.0]:.4g}", f"{min(plane.values()):.4g}", f"{max(plane.values()):.4g}"]
