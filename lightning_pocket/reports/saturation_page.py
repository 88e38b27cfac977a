"""Test scores against the number of training cases: a table, a chart and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import write_csv
from lightning_pocket.types import CASE_METRICS

from .charts import line_chart
from .classified import read_classified
from .collect import read_run
from .page import NOT_KNOWN, Page
from .svg_file import write_svg

_COLUMNS = (
    "preset", "percent", "training_cases", "test_cases", "parameters", "metric", "mean", "std", "run",
)  # fmt: skip
#: Tells the axis of a chart from a few cases to many by powers of ten.
_WIDE = 10


@dataclass(frozen=True)
class SaturationPoint:
    """The test of one network trained on a part of the training cases.

    Args:
        preset: What the network is called.
        percent: Share of the training cases in percent.
        run: The run folder.
        training_cases: How many cases that is.
        test_cases: How many cases were tested.
        parameters: Trainable parameters.
        scores: Mean and standard deviation over the test cases by metric; None where a metric has one value for all
            cases together, such as the AUC.
    """

    preset: str
    percent: float
    run: Path
    training_cases: int
    test_cases: int
    parameters: int
    scores: dict[str, tuple[float, float | None]]


def read_point(preset: str, percent: float, run: Path) -> SaturationPoint:
    """Read a run that was trained and tested.

    Raises:
        PocketError: If it was not.
    """
    result = read_run(run)
    classified = read_classified(run / "test" / "cases.csv")
    if classified is not None:
        scores: dict[str, tuple[float, float | None]] = {
            name: (score, None) for name, score in classified.scores.items()
        }
    else:
        scores = {name: (result.mean(name), result.spread(name)) for name, values in result.scores.items() if values}
    if not scores:
        raise PocketError(f"{run}: was not tested (no test/cases.csv). Run `pocket test --run_dir {run}`.")
    split = result.manifest.get("data", {}).get("split", {})
    tested = len(classified.subjects) if classified is not None else len(result.subjects)
    return SaturationPoint(preset, percent, run, len(split.get("train", [])), tested, result.parameters, scores)


def write_saturation(
    folder: Path, points: Sequence[SaturationPoint], metric: str | None, notes: Sequence[str], commands: Sequence[str]
) -> Path:
    """Write ``saturation.csv``, ``saturation.svg`` and ``index.html``.

    Args:
        folder: Where to; made if it is missing.
        points: One per run.
        metric: What is drawn; None takes the Dice, or the AUC of classifiers.
        notes: Remarks for the page.
        commands: What made the runs, for the page.

    Returns:
        The page.

    Raises:
        PocketError: If there is no such metric, or nothing to draw.
    """
    shown = _metric(points, metric)
    rows = [row for point in points for row in _rows(point)]
    write_csv(folder / "saturation.csv", _COLUMNS, rows)
    presets = list(dict.fromkeys(point.preset for point in points))
    curves = {
        preset: sorted((float(p.training_cases), p.scores[shown][0]) for p in points if p.preset == preset)
        for preset in presets
    }
    spreads = {
        preset: {float(p.training_cases): p.scores[shown][1] or 0.0 for p in points if p.preset == preset}
        for preset in presets
    }
    counts = [point.training_cases for point in points]
    label = "AUC" if shown == "auc" else shown.replace("_", " ").replace("dice", "Dice")
    title = f"Test {label} by the number of training cases"
    wide = min(counts) > 0 and max(counts) / min(counts) >= _WIDE
    chart = line_chart(curves, "training cases", f"test {label}", title, spreads, log_x=wide)
    write_svg(folder / "saturation.svg", chart)
    page = Page(title)
    for note in notes:
        page.paragraph(note, "note")
    bars = "" if shown not in CASE_METRICS else " Bars are standard deviations over the test cases."
    page.charts([(chart, f"{title}.{bars}")])
    page.table(
        ["training cases", *presets],
        _table(points, presets, shown),
        f"Test {label}; percentages are of all training cases. The same cases validate and test everywhere.",
    )
    page.section("How it was made")
    page.code("\n".join(commands))
    page.write(folder / "index.html")
    return folder / "index.html"


def _metric(points: Sequence[SaturationPoint], metric: str | None) -> str:
    known = [name for name in points[0].scores if all(name in point.scores for point in points)]
    wanted = [metric] if metric is not None else ["dice", "auc"]
    found = next((name for name in wanted if name in known), None)
    if found is None:
        raise PocketError(f"--metric {' or '.join(wanted)}: was not measured; there are {', '.join(known) or 'none'}.")
    return found


def _rows(point: SaturationPoint) -> list[dict[str, object]]:
    return [
        {
            "preset": point.preset,
            "percent": point.percent,
            "training_cases": point.training_cases,
            "test_cases": point.test_cases,
            "parameters": point.parameters,
            "metric": metric,
            "mean": mean,
            "std": "" if std is None else std,
            "run": point.run.name,
        }
        for metric, (mean, std) in point.scores.items()
    ]


def _table(points: Sequence[SaturationPoint], presets: Sequence[str], metric: str) -> list[list[str]]:
    """Return a row per share, and a cell per preset."""
    rows = []
    for percent in sorted({point.percent for point in points}):
        here = {point.preset: point for point in points if point.percent == percent}
        count = next(iter(here.values())).training_cases
        rows.append([f"{count} ({percent:g} %)", *(_cell(here.get(preset), metric) for preset in presets)])
    return rows


def _cell(point: SaturationPoint | None, metric: str) -> str:
    if point is None:
        return NOT_KNOWN
    mean, std = point.scores[metric]
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"
