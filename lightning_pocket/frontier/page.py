"""The page of a frontier, its figures and its tables as files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_pocket.reports.page import Page
from lightning_pocket.reports.statistics_tables import metric_name
from lightning_pocket.reports.svg_file import write_svg
from lightning_pocket.storage import write_csv

from .figures import Figure, correlations, frontiers, kernels, sizes, widths
from .kernels import correlation_curve
from .study import COSTS, Frontier, Result

PAGE, FIGURES = "index.html", "figures"


def write_frontier(study: Frontier, folder: Path, margin: float, notes: Sequence[str], command: str) -> list[Path]:
    """Write ``index.html``, ``frontier.csv``, ``layers.csv``, ``correlation.csv`` and a file for each figure.

    Args:
        study: The networks.
        folder: Where to write; missing folders are made.
        margin: Loss of the score that would not matter, for the verdict.
        notes: What was left out, and how times were measured.
        command: That made the page.

    Returns:
        The files.
    """
    sections = {
        "Scores and costs": frontiers(study),
        "Widths": widths(study),
        "Sizes of kernels": sizes(study),
        "Correlation of kernels": correlations(study),
        "Kernels": kernels(study),
    }
    score = metric_name(study.metric)
    page = Page(f"{score[:1].upper()}{score[1:]} against complexity")
    page.paragraph(verdict(study, margin), "lead")
    for heading, figures in sections.items():
        if figures:
            page.section(heading)
            page.charts([(figure.svg, figure.caption) for figure in figures])
    page.section("Networks")
    page.table(*_table(study))
    page.section("How it was made")
    for note in notes:
        page.paragraph(note, "note")
    page.code(command)
    page.write(folder / PAGE)
    files = _write_tables(study, folder)
    return [folder / PAGE, *files, *_write_figures([f for own in sections.values() for f in own], folder / FIGURES)]


def verdict(study: Frontier, margin: float) -> str:
    """Return what a reader wants to know first.

    Args:
        study: The networks.
        margin: Loss of the score that would not matter.
    """
    good = [
        result for result, is_good in zip(study.results, study.is_efficient("macs_formula"), strict=True) if is_good
    ]
    learned = sum(result.network.penalty is not None for result in good)
    said = (
        f"{len(study.results)} networks, of which {len(good)} are on the efficient frontier: {learned} learned and "
        f"{len(good) - learned} chosen. "
    )
    found = study.cheapest(margin)
    if found is None:
        return f"{said}No learned network that saves anything is within {margin:g} of the one that it was made of."
    result, base = found
    saved = 1 - result.costs.macs / base.costs.macs
    time = _time_share(result, base)
    return (
        f"{said}Cheapest within {margin:g} of what it was made of: {result.network.name}, with {saved:.0%} fewer "
        f"multiply-accumulates{time}; {metric_name(study.metric)} {result.score:.3f}, before {base.score:.3f}."
    )


def _time_share(result: Result, base: Result) -> str:
    if result.costs.milliseconds is None or base.costs.milliseconds is None:
        return ""
    return f" and {result.costs.milliseconds / base.costs.milliseconds:.0%} of the time"


def _table(study: Frontier) -> tuple[list[str], list[list[str]], str]:
    header = ["network", metric_name(study.metric), *COSTS.values(), "MACs, share", "time, share", "efficient"]
    rows = []
    for record in study.records():
        costs = ["" if record[cost] is None else f"{record[cost]:,.4g}" for cost in COSTS]
        costs = [
            f"{record[cost]:,.0f}" if cost != "milliseconds" else text for cost, text in zip(COSTS, costs, strict=True)
        ]
        shares = [f"{record[key]:.2f}" if record[key] != "" else "" for key in ("macs_ratio", "time_ratio")]
        name = f"{record['kind']} {record['label']}".strip()
        rows.append([name, f"{record[study.metric]:.3f}", *costs, *shares, "yes" if record["efficient"] else ""])
    return (
        header,
        rows,
        "Every network; shares are of the network that a learned one was made of. frontier.csv has all digits.",
    )


def _write_tables(study: Frontier, folder: Path) -> list[Path]:
    records = study.records()
    files = [folder / name for name in ("frontier.csv", "layers.csv", "correlation.csv")]
    write_csv(files[0], list(records[0]), records)
    write_csv(files[1], ["kind", "alpha", "layer", "before", "left", "size", "count"], _layer_rows(study))
    write_csv(files[2], ["kind", "alpha", "epoch", "correlation"], _correlation_rows(study))
    return files


def _layer_rows(study: Frontier) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "alpha": label,
            "layer": name,
            "before": shape.kernels[0],
            "left": shape.kernels[1],
            "size": size,
            "count": count,
        }
        for kind in study.learned
        for label, shapes in study.shapes(kind)
        for name, shape in shapes.items()
        for size, count in shape.by_extent().items()
    ]


def _correlation_rows(study: Frontier) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "alpha": result.network.label, "epoch": epoch, "correlation": value}
        for kind, results in study.learned.items()
        for result in results
        for epoch, value in correlation_curve(result.network.runs[0])
    ]


def _write_figures(figures: Sequence[Figure], folder: Path) -> list[Path]:
    files = []
    for figure in figures:
        files.append(folder / f"{re.sub(r'[^a-z0-9]+', '_', figure.name.lower()).strip('_')}.svg")
        write_svg(files[-1], figure.svg)
    return files
