"""Gradient confusion of runs: the smallest cosine of each epoch, the density at the end, a table and a page."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_csv

from .charts import line_chart
from .page import Page
from .svg_file import write_svg

FILE = "gradient_confusion.csv"
#: Cosines at which a density is drawn.
_GRID = np.linspace(-1.0, 1.0, 201)
_EXPLAINED = (
    "Gradients of expanded networks live in two spaces: that of the factors, which are trained, and that of the "
    "contracted kernels, which plain networks have too. Compare networks in the latter."
)


@dataclass(frozen=True)
class Confusion:
    """Cosines between the gradients of pairs of batches.

    Args:
        name: Of the run, or of the runs that differ in their seed alone.
        epochs: Space -> epoch, counted from 1 -> the cosines of each run.
        settings: How they were measured.
    """

    name: str
    epochs: Mapping[str, Mapping[int, list[list[float]]]]
    settings: Mapping[str, object]

    def least(self, space: str) -> list[tuple[float, float]]:
        """Return epoch and smallest cosine, the mean over the runs."""
        return [(float(epoch), fmean(map(min, runs))) for epoch, runs in sorted(self.epochs[space].items())]

    def last(self, space: str) -> list[float]:
        """Return the cosines of the last epoch, of all runs together."""
        return [value for run in self.epochs[space][max(self.epochs[space])] for value in run]

    def density(self, space: str) -> list[tuple[float, float]]:
        """Return cosine and density at the last epoch (``scipy.stats.gaussian_kde``); empty where all are the same."""
        from scipy.stats import gaussian_kde

        values = self.last(space)
        if len(set(values)) < 2:
            return []
        return list(zip(_GRID.tolist(), gaussian_kde(values)(_GRID).tolist(), strict=True))


def read_confusion(runs: Sequence[Path]) -> list[Confusion]:
    """Read what ``GradientConfusion`` has written; runs ``NAME/seed_N`` are pooled as ``NAME``.

    Args:
        runs: Run folders.

    Raises:
        PocketError: If one has no cosines, or they were measured otherwise than those of another run.
    """
    found: dict[str, dict[str, dict[int, list[list[float]]]]] = {}
    settings: dict[str, dict[str, object]] = {}
    for run in runs:
        if not (run / FILE).is_file():
            raise PocketError(f"{run}: no {FILE}. Train with --config gradient_confusion.")
        name = run.resolve().parent.name if run.name.startswith("seed_") else run.resolve().name
        how = {key: value for key, value in read_json(run / "gradient_confusion.json").items() if key != "seed"}
        if settings.setdefault(name, how) != how or how["norms"] != next(iter(settings.values()))["norms"]:
            raise PocketError(f"{run}: its cosines were measured otherwise ({how}) than those of {runs[0]}.")
        for (space, epoch), values in _read(run / FILE).items():
            found.setdefault(name, {}).setdefault(space, {}).setdefault(epoch, []).append(values)
    return [Confusion(name, spaces, settings[name]) for name, spaces in found.items()]


def write_confusion(folder: Path, results: Sequence[Confusion], command: str) -> Path:
    """Write ``confusion.csv``, ``density.csv``, a chart of each for each space, and ``index.html``.

    Args:
        folder: Where to; made if it is missing.
        results: What was read.
        command: What made them, for the page.

    Returns:
        The page.
    """
    spaces = list(dict.fromkeys(space for result in results for space in result.epochs))
    curves = {s: {r.name: r.least(s) for r in results if s in r.epochs} for s in spaces}
    densities = {s: {r.name: made for r in results if s in r.epochs and (made := r.density(s))} for s in spaces}
    write_csv(folder / "confusion.csv", ("space", "run", "epoch", "min_cosine"), _rows(curves, "epoch", "min_cosine"))
    write_csv(folder / "density.csv", ("space", "run", "cosine", "density"), _rows(densities, "cosine", "density"))
    page = Page("Gradient confusion")
    page.paragraph(
        "Cosines between the gradients of two batches each: the more the smallest lies below zero, the more batches "
        "undo what others have learned (ExpandNets, figure 3)."
    )
    page.paragraph(_EXPLAINED, "note")
    page.paragraph(f"Measured with {_said(results[0].settings)}.", "note")
    order = [result.name for result in results]
    for space in spaces:
        page.section(f"Gradients of {space}" if space == "factors" else "Gradients of contracted kernels")
        least = line_chart(curves[space], "epoch", "smallest cosine", f"Smallest cosine, {space}", order=order)
        write_svg(folder / f"confusion_{space}.svg", least)
        charts = [(least, "Smallest cosine of each epoch, the mean over seeds.")]
        if densities[space]:
            drawn = line_chart(densities[space], "cosine", "density", f"Density at the end, {space}", order=order)
            write_svg(folder / f"density_{space}.svg", drawn)
            charts.append((drawn, "Density of the cosines after the last epoch, of all seeds together."))
        page.charts(charts)
        page.table(["", "epochs", "smallest at the end", "mean at the end"], _table(results, space), "")
    page.section("How it was made")
    page.code(command)
    page.write(folder / "index.html")
    return folder / "index.html"


def _said(settings: Mapping[str, object]) -> str:
    norms = "the statistics of each batch" if settings["norms"] == "train" else "running statistics"
    return f"{settings['pairs']} pairs of {settings['batches']} batches after each epoch, and norms with {norms}"


def _table(results: Sequence[Confusion], space: str) -> list[list[str]]:
    return [
        [r.name, str(max(r.epochs[space])), f"{r.least(space)[-1][1]:.3f}", f"{fmean(r.last(space)):.3f}"]
        for r in results
        if space in r.epochs
    ]


def _rows(
    series: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], x: str, y: str
) -> list[dict[str, str | float]]:
    return [
        {"space": space, "run": name, x: at, y: value}
        for space, curves in series.items()
        for name, curve in curves.items()
        for at, value in curve
    ]


def _read(file: Path) -> dict[tuple[str, int], list[float]]:
    """Return the cosines of each space and epoch, counted from 1."""
    found: dict[tuple[str, int], list[float]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            try:
                value, epoch = float(row["cosine"]), int(row["epoch"]) + 1
            except (KeyError, TypeError, ValueError) as error:
                raise PocketError(f"{file}: cannot be read ({error}). Train again with gradient_confusion.") from error
            if math.isfinite(value):
                found.setdefault((row["space"], epoch), []).append(value)
    if not found:
        raise PocketError(f"{file}: holds no cosine. Train again with --config gradient_confusion.")
    return found
