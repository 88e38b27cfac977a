"""One HTML page of a study: the verdict, figures, tables, and how it was made."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_pocket.reports.durations import show_duration
from lightning_pocket.reports.failures import Failure
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.run_parts import add_failures
from lightning_pocket.reports.svg_file import write_svg
from lightning_pocket.reports.table_files import Table

from .figures import Figure, Figures
from .outcome import trained
from .published_figures import published_figures
from .read import read_sweep
from .record import COPY, read_record
from .report import SweepReport
from .study import SweepStudy
from .verdict import add_table, add_verdict

PAGE, FOLDER = "index.html", "figures"


def write_page(study: SweepStudy, report: SweepReport) -> list[Path]:
    """Write ``index.html``, and each figure as a file in ``figures``, into the folder of a study.

    A study that still runs has a page too, which says so.

    Args:
        study: The study, which has begun.
        report: Its trials.

    Returns:
        The page, and the figures.

    Raises:
        PocketError: If the storage holds no such study.
    """
    page = Page(report.sweep.title)
    drawn = add_study(page, study, report)
    files = _written(study.folder / FOLDER, drawn)
    page.write(study.folder / PAGE)
    return [study.folder / PAGE, *files]


def add_study(
    page: Page, study: SweepStudy, report: SweepReport, failures: Mapping[str, Failure] | None = None
) -> list[Figure]:
    """Add the verdict, figures and tables of a study, and how it was made.

    Args:
        page: Where they are added.
        study: The study, which has begun.
        report: Its trials.
        failures: Why trials ended before their time, by their name.

    Returns:
        The figures, in their order.

    Raises:
        PocketError: If the storage holds no such study.
    """
    figures = Figures(report)
    add_verdict(page, study, figures)
    if failures:
        add_failures(page, failures)
    drawn: list[Figure] = []
    for heading, shown, notes in _sections(study, figures):
        if not shown and not notes:
            continue
        page.section(heading)
        if shown:
            page.charts([(figure.svg, figure.caption) for figure in shown])
        for note in notes:
            page.paragraph(note, "note")
        drawn += shown
    _add_tables(page, report)
    _add_origin(page, report, study.slots)
    return drawn


def _sections(study: SweepStudy, figures: Figures) -> list[tuple[str, list[Figure], list[str]]]:
    """Return the figures under their headings, and remarks on those that are left out."""
    published = published_figures(figures.report)
    important, reasons = figures.importance(study.study) if figures.done else ([], [])
    parallel = figures.parallel()
    if figures.done and not parallel:
        reasons.append("There is one parameter: its figure below shows what parallel coordinates would.")
    return [
        ("Beside the published numbers", published, _notes(figures.report) if published else []),
        ("Objectives against each other", figures.fronts(), []),
        ("How the search went", figures.history(), []),
        ("Which parameters matter", [*important, *parallel], reasons),
        ("One parameter at a time", figures.slices(), []),
    ]


def _notes(report: SweepReport) -> list[str]:
    """Return what a reader must know to compare ours with the published numbers."""
    source = [f"Source: {report.sweep.source.rstrip('.')}."] if report.sweep.source else []
    return [*source, *report.sweep.notes]


def _add_tables(page: Page, report: SweepReport) -> None:
    page.section("Tables")
    published = report.published()
    if published is not None:
        add_table(page, published)
    trials = report.trials().filled()
    caption = "Every trial; trials.csv beside this page has each run and all digits."
    add_table(page, Table(caption, trials.header, trials.rows))
    page.paragraph(report.spread_note, "note")


def _add_origin(page: Page, report: SweepReport, slots: int) -> None:
    page.section("How it was made")
    if not report.sweep.published:
        for note in _notes(report):
            page.paragraph(note, "note")
    page.paragraph(_took(report))
    command = ["pocket", "sweep", str(report.folder / COPY), f"--output={report.folder}", *_given(report, slots)]
    page.code(shlex.join([*command, *(["--", *report.more] if report.more else [])]))
    copy = report.folder / COPY
    if copy.is_file():
        page.details("The file of the study", copy.read_text(encoding="utf-8"))


def _given(report: SweepReport, slots: int) -> list[str]:
    """Return what the command was told besides the file: how many trials, and the storage, without its password."""
    copy, storage = report.folder / COPY, read_record(report.folder).get("storage")
    told = [f"--trials={slots}"] if copy.is_file() and read_sweep(copy, is_record=True).count != slots else []
    return [*told, *([f"--storage={storage}"] if storage else [])]


def _took(report: SweepReport) -> str:
    """Return how long the trials took, and how long the file says that they do."""
    known = trained(report.outcomes)
    said = f" The file says: {report.sweep.takes}" if report.sweep.takes else ""
    if not known:
        return f"No trial has been trained yet.{said}"
    total = sum(outcome.seconds or 0.0 for outcome in known)
    began = min(o.trial.datetime_start for o in known if o.trial.datetime_start)
    ended = max(o.trial.datetime_complete for o in known if o.trial.datetime_complete)
    each = show_duration(total / len(known))
    return (
        f"{len(known)} trainings took {show_duration(total)} in all, {each} each, between {began:%Y-%m-%d %H:%M} and "
        f"{ended:%Y-%m-%d %H:%M}.{said}"
    )


def _written(folder: Path, figures: Sequence[Figure]) -> list[Path]:
    """Write figures as files, each by a name of its own."""
    found: list[Path] = []
    for figure in figures:
        stem = re.sub(r"[^\w-]+", "_", figure.name).strip("_")
        names = [f"{stem}.svg", *(f"{stem}_{number}.svg" for number in range(2, len(found) + 3))]
        path = next(folder / name for name in names if folder / name not in found)
        write_svg(path, figure.svg)
        found.append(path)
    return found
