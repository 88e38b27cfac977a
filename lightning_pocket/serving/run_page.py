"""The page of one run: its figures, its curves while they grow, and what lies in its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.charts import line_chart
from lightning_pocket.reports.collect import RunResult
from lightning_pocket.reports.comparison_tables import origin_rows, result_rows, scores_caption
from lightning_pocket.reports.failures import failures_of
from lightning_pocket.reports.page import Page

from .folder import ServedFolder
from .markup import HEAD, address, link, links
from .runs import ShownRun

#: Files that are linked where a run or a cross-validation has them.
_FILES = ("report.html", "config.yaml", "manifest.json", "metrics.csv", "crossval.json", "cases.csv", "test/cases.csv")
#: Charts that come first, by the name of their metric.
_FIRST = ("loss", "dice", "auc", "accuracy")
_MOST_CHARTS = 8
_MOST_PICTURES = 12


def run_page(folder: ServedFolder, run: ShownRun, folds: Sequence[str]) -> str:
    """Return the page of a run.

    Args:
        folder: What is shown.
        run: The run.
        folds: Names of the runs of its folds, where it is a cross-validation.
    """
    page = Page(run.name if run.name != "." else folder.path.name)
    page.markup(HEAD)
    page.markup(f"<p>{link('/', 'All runs')}</p>")
    page.markup(f'<div data-live="{escape(address("curves", run.name))}">{live_part(run)}</div>')
    if run.result is not None:
        _add_figures(page, run.result)
    if folds:
        page.section("Folds")
        page.markup(links([(address("run", name), name) for name in folds]))
    left_out = folder.left_out(run.path)
    if left_out:
        page.paragraph(f"Not read, since these links lead outside the folder: {', '.join(left_out)}.", "note")
    _add_files(page, folder, run)
    return page.html()


def live_part(run: ShownRun) -> str:
    """Return what changes while a run goes on: its state, and the curves of training and validation.

    Args:
        run: The run.
    """
    epochs = run.result.manifest.get("epochs") if run.result else None
    done = (
        "" if epochs is None else f" after {epochs} epochs" if run.state != "training" else f", epoch {int(epochs) + 1}"
    )
    parts = [f'<p class="lead">State: <span class="state {run.state}">{run.state}</span>{escape(done)}.</p>']
    if run.error:
        parts.append(f'<p class="note">{escape(run.error)}</p>')
    charts = _charts(run.result.curves) if run.result else []
    figures = (f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" for svg, caption in charts)
    if charts:
        parts.append(f'<h2>Curves</h2><div class="side-by-side">{"".join(figures)}</div>')
    else:
        parts.append('<p class="note">No curves yet: nothing has been logged.</p>')
    return "".join(parts)


def _charts(curves: Mapping[str, Sequence[tuple[float, float]]]) -> list[tuple[str, str]]:
    """Return a chart for each metric, training and validation in one."""
    grouped: dict[str, dict[str, Sequence[tuple[float, float]]]] = {}
    for name, points in curves.items():
        split, _, metric = name.partition("/")
        if any(math.isfinite(value) for _, value in points):
            grouped.setdefault(metric, {})[{"train": "training", "val": "validation"}[split]] = points
    order = [*(m for m in _FIRST if m in grouped), *sorted(m for m in grouped if m not in _FIRST)]
    charts = []
    for metric in order[:_MOST_CHARTS]:
        title = f"{metric} by epoch"
        charts.append((line_chart(grouped[metric], "epoch", metric, title), f"{title}."))
    return charts


def _add_figures(page: Page, result: RunResult) -> None:
    try:
        failures = failures_of(result)
    except (PocketError, LookupError) as error:
        page.paragraph(str(error), "note")
        failures = {}
    for name, failure in failures.items():
        if failure.frames or failure.log:
            page.paragraph(f"{name} ended {failure.where}: {failure.why}", "note")
    page.section("Figures")
    page.table(["", result.name], result_rows([result]), scores_caption([result]))
    page.table(["", result.name], origin_rows([result]), "What the run recorded.")
    if result.manifest.get("command"):
        page.code(str(result.manifest["command"]))


def _add_files(page: Page, folder: ServedFolder, run: ShownRun) -> None:
    prefix = "" if run.name == "." else f"{run.name}/"
    there = [prefix + name for name in _FILES if folder.find(prefix + name)]
    there += [folder.name(path) for path in sorted(run.path.glob("*.html")) if prefix + path.name not in there]
    if there:
        page.section("Files")
        page.markup(links([(address("files", name), name.removeprefix(prefix)) for name in there]))
    tested = sorted((run.path / "test" / "pictures").glob("*.png"))
    pictures = [path for path in tested or sorted((run.path / "pictures").glob("**/*.png")) if path.is_file()]
    if pictures:
        page.section("Pictures")
        figures = "".join(_figure(folder.name(path)) for path in pictures[:_MOST_PICTURES])
        page.markup(f'<div class="side-by-side">{figures}</div>')
        if len(pictures) > _MOST_PICTURES:
            page.paragraph(f"The first {_MOST_PICTURES} of {len(pictures)} pictures.", "note")


def _figure(name: str) -> str:
    case = name.rpartition("/")[2].removesuffix(".png")
    source, text = escape(address("files", name)), escape(f"Image, ground truth and prediction of {case}")
    return f'<figure><img src="{source}" alt="{text}" loading="lazy"><figcaption>{escape(case)}</figcaption></figure>'
