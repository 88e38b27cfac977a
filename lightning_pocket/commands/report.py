"""Write a report: one HTML file for runs, cross-validations, tables and studies."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import check_writable

if TYPE_CHECKING:
    from lightning_pocket.reports.comparison import Criteria
    from lightning_pocket.reports.page import Page

_FILE = "report.html"


def report(
    paths: list[str],
    output: str | None = None,
    margin: float = 0.01,
    margin_mm: float | None = None,
    per_class: bool = False,
    volumes: int = 2,
) -> None:
    """Write one page with verdict, curves, scores, statistics, costs, cases, failures, settings and commands.

    The page needs no server and no network; charts can be pointed at and zoomed. What a folder is, is told by the
    files in it. Runs and cross-validations are set side by side; the first is what the others are compared with.

    Args:
        paths: Folders of runs, cross-validations, tables (`pocket table`) or studies (`pocket sweep`).
        output: HTML file to write; by default report.html in the folder, or here where several are given.
        margin: Difference of Dice, surface Dice, AUC or accuracy that would not matter, for the verdict "no worse".
        margin_mm: The same for distances in mm; without it there is no verdict on them.
        per_class: Compare each class too, not only the mean over the classes.
        volumes: Cases of each run in the viewer of volumes, where the test has left label maps; 0 for no viewer.

    Raises:
        PocketError: If a folder holds nothing to report, or the file cannot be written.
    """
    from lightning_pocket.reports.comparison import Criteria
    from lightning_pocket.reports.page import Page
    from lightning_pocket.reports.report_kinds import folder_of, kind_of

    if volumes < 0:
        raise PocketError(f"--volumes {volumes}: expected 0 or more.")
    criteria = Criteria(per_class=per_class, margin=margin, margin_mm=margin_mm)
    kinds = {folder_of(Path(path)): kind_of(Path(path)) for path in paths}
    file = _file(list(kinds), output)
    runs = [folder for folder, kind in kinds.items() if kind == "run"]
    others = [folder for folder in kinds if folder not in runs]
    check_writable("--output", file, _FILE)
    several = len(others) + bool(runs) > 1
    command = _command(paths, output, criteria, volumes)
    page = Page(_title(list(kinds)))
    page.interactive()
    if several or not runs:
        page.contents()
    if runs:
        if several:
            page.part("Runs" if len(runs) > 1 else f"Run {runs[0].name}")
        _add_runs(page, runs, file, criteria, volumes, command)
    for folder in others:
        if several:
            page.part(f"{kinds[folder].capitalize()} {folder.name}")
        (_add_study if kinds[folder] == "study" else _add_table)(page, folder, command)
    try:
        page.write(file)
    except OSError as error:
        raise PocketError(f"--output {file}: cannot be written ({error.strerror}). Name another file.") from error
    print(f"report: {file}")


def _file(folders: Sequence[Path], output: str | None) -> Path:
    return Path(output) if output is not None else folders[0] / _FILE if len(folders) == 1 else Path(_FILE)


def _add_runs(page: Page, folders: Sequence[Path], file: Path, criteria: Criteria, volumes: int, command: str) -> None:
    from lightning_pocket.reports.collect import read_runs
    from lightning_pocket.reports.report_runs import ReportedRuns, add_runs

    add_runs(page, ReportedRuns(read_runs(folders), criteria, file, volumes, command))


def _add_table(page: Page, folder: Path, command: str) -> None:
    from lightning_pocket.reports.report_table import add_experiments

    add_experiments(page, folder, command)


def _add_study(page: Page, folder: Path, command: str) -> None:
    from lightning_pocket.reports.failures import failures_of
    from lightning_pocket.reports.report_table import add_run_charts, read_experiments
    from lightning_pocket.sweeps.outcome import outcomes
    from lightning_pocket.sweeps.page import add_study
    from lightning_pocket.sweeps.report import SweepReport
    from lightning_pocket.sweeps.start import open_study
    from lightning_pocket.sweeps.study_storage import check_installed, storage_url

    check_installed()
    study, more = open_study(folder, storage_url(None))
    runs, failures = read_experiments(folder)
    failures = {name: failure for run in runs for name, failure in failures_of(run).items()} | failures
    add_study(page, study, SweepReport(study.sweep, outcomes(study), folder, more), failures)
    add_run_charts(page, runs)
    page.section("This report")
    page.code(command)


def _title(folders: Sequence[Path]) -> str:
    names = [folder.resolve().name for folder in folders]
    return f"Report of {' and '.join(names)}" if len(names) < 4 else f"Report of {len(names)} folders"


def _command(paths: Sequence[str], output: str | None, criteria: Criteria, volumes: int) -> str:
    """Return the command that writes the page again, with the options that are not the usual ones."""
    given = {"output": (output, None), "margin": (criteria.margin, 0.01), "margin_mm": (criteria.margin_mm, None)}
    given |= {"per_class": (criteria.per_class, False), "volumes": (volumes, 2)}
    changed = [f"--{name}={value}" for name, (value, usual) in given.items() if value != usual]
    return shlex.join(["pocket", "report", *paths, *changed])
