"""A chart as a file of its own, for papers and slides."""

from __future__ import annotations

import re
from pathlib import Path

from lightning_pocket.storage import write_text

_STYLE = Path(__file__).with_name("page.css")
_VARIABLE = re.compile(r"--([\w-]+): ([^;]+);")
_CHART_RULE = re.compile(r"(?:svg|\.s\d)[^{}]*\{[^{}]*\}")


def write_svg(path: Path, chart: str) -> None:
    """Write a chart of ``reports.charts`` as an SVG file that needs nothing else, in the page's light colours.

    Programs that edit or print SVG seldom know CSS variables; so the file holds the colours themselves.

    Args:
        path: File to write; missing folders are made.
        chart: The ``<svg>`` element.
    """
    css = re.sub(r"@media[^{]*\{(?:[^{}]|\{[^{}]*\})*\}", "", _STYLE.read_text(encoding="utf-8"))
    colours = dict(_VARIABLE.findall(css))
    rules = "\n".join(_CHART_RULE.findall(css))
    rules = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], rules)
    named, marks = chart.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).split("</desc>", 1)
    background = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
    write_text(path, f"{named}</desc><style>{rules}</style>{background}{marks}\n")
