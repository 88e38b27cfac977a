"""Figures of the trials of a study beside the published numbers."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_pocket.reports.axes import Axis
from lightning_pocket.reports.panel_chart import Panels, Spot, row_panels, size_panels
from lightning_pocket.studies.table import PARAMETERS

from .definition import Published
from .figures import Figure
from .report import SweepReport, metric_title, show_measured
from .space import show_value

_DOUBLINGS = "widths.doublings"
_MILLION = 1e6


def published_figures(report: SweepReport) -> list[Figure]:
    """Return two figures for each metric with published numbers: by row, and against the number of parameters.

    Args:
        report: The study and its trials.
    """
    rows = report.sweep.published
    found = []
    for metric in report.sweep.measured:
        if not any(row.row.mean(metric) is not None for row in rows):
            continue
        label, names = row_names(report)
        panels = {"ours": _ours(report, names, metric), "published": _published(rows, names, metric)}
        name = metric_title(metric)
        title = f"{name}, ours and published" + (f", against {label}" if label else "")
        axis = Axis(label, levels=tuple(names))
        found.append(Figure(f"published_{metric}", row_panels(panels, axis, name, title), _caption(report, title)))
        found += _by_size(panels, name, metric)
    return found


def row_names(report: SweepReport) -> tuple[str, list[str]]:
    """Return what is varied from one published row to the next, and what figures call each row.

    Rows that differ in one parameter are called by its value, others by their label. Where doubling stops is what tells
    a full network from a pocket one.

    Args:
        report: The study and its trials.
    """
    rows, space = report.sweep.published, report.sweep.space
    keys = {tuple(row.point) for row in rows}
    (key,) = next(iter(keys)) if len(keys) == 1 and len(next(iter(keys))) == 1 else ("",)
    values = [row.point.get(key) for row in rows]
    if key and len(set(map(str, values))) == len(values):
        names = [show_value(value) for value in values]
        return space.short[key], _with_ends(names, values) if key.endswith(_DOUBLINGS) else names
    names = [row.label or space.show(row.point) for row in rows]
    return "", names if len(set(names)) == len(names) else [f"{n}. {name}" for n, name in enumerate(names, 1)]


def _with_ends(names: Sequence[str], values: Sequence[object]) -> list[str]:
    """Return numbers of doublings, the network without any named as pocket, and the one with most as full."""
    numbers = [value for value in values if isinstance(value, int) and value > 0]
    full = "all" if "all" in values else max(numbers, default=None)
    said = {value: "full" if value == full else "pocket" if value == 0 else "" for value in [*numbers, 0, "all"]}
    return [f"{name} ({said[value]})" if said.get(value) else name for name, value in zip(names, values, strict=True)]


def _ours(report: SweepReport, names: Sequence[str], metric: str) -> list[Spot]:
    """Return the best trial at each published point."""
    found = []
    for name, row in zip(names, report.sweep.published, strict=True):
        outcome = report.of_published(row)
        measured = None if outcome is None else outcome.results.get(metric)
        if outcome is None or measured is None:
            continue
        size = outcome.results.get("parameters")
        shown = show_measured(measured, metric)
        same = "" if outcome.same_as is None else f", the same network and settings as trial {outcome.same_as}"
        parameters = "" if size is None else f", {size.mean:,.0f} parameters"
        said = f"ours, {name}: {metric_title(metric)} {shown}{parameters} (trial {outcome.slot}{same})"
        found.append(
            Spot(name, measured.mean, _mean(shown), measured.spread or 0.0, None if size is None else size.mean, said)
        )
    return found


def _published(rows: Sequence[Published], names: Sequence[str], metric: str) -> list[Spot]:
    """Return what the paper prints."""
    found = []
    for name, row in zip(names, rows, strict=True):
        mean, size = row.row.mean(metric), row.row.mean(PARAMETERS)
        if mean is None:
            continue
        printed = str(row.values[metric])
        error = printed.partition("±")[2].strip()
        parameters = "" if size is None else f", {size:g} million parameters"
        said = f"published, {name}: {metric_title(metric)} {row.row.score(metric)}{parameters}"
        size = None if size is None else size * _MILLION
        found.append(Spot(name, mean, _mean(printed), float(error) if error else 0.0, size, said))
    return found


def _by_size(panels: Panels, name: str, metric: str) -> list[Figure]:
    if not any(spot.size for spots in panels.values() for spot in spots):
        return []
    title = f"{name} against the number of parameters, ours and published"
    chart = size_panels(panels, "parameters (log scale)", name, title)
    caption = f"{title}, with the names of the rows where there is room. The scales of the panels may differ."
    return [Figure(f"published_{metric}_parameters", chart, caption)]


def _caption(report: SweepReport, title: str) -> str:
    runs = len(report.sweep.places())
    over = "the test cases" if runs == 1 else f"the {runs} runs"
    return (
        f"{title}, in the order of the rows. The panels have a scale each, as data and training may differ. Bars are "
        f"standard deviations, ours over {over}."
    )


def _mean(score: str) -> str:
    """Return the mean of a score such as ``0.92 ± 0.1`` as it is printed."""
    return score.partition("±")[0].strip()
