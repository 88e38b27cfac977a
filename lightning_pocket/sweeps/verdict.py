"""What a study came to, in words: the beginning of its page."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_pocket.reports.page import Page
from lightning_pocket.reports.table_files import Table

from .definition import Sweep
from .figures import Figures, better
from .outcome import Outcome, Tally, tally
from .parameters import Parameter
from .report import SweepReport, metric_title, show_measured
from .space import show_value
from .study import SweepStudy

_MANY = 20  # values of a parameter that are listed


def add_verdict(page: Page, study: SweepStudy, figures: Figures) -> None:
    """Say what was searched, how far it is, and what is best, with the commands that repeat it.

    Args:
        page: Where it is said.
        study: The study.
        figures: Its trials.
    """
    report, count = figures.report, tally(study)
    page.paragraph(_searched(report.sweep, study.slots), "lead")
    page.paragraph(_progress(report, count), "lead")
    if not count.is_over:
        waiting = count.total - count.ended - count.running
        page.paragraph(
            f"The study is not over: {count.running} trials run and {waiting} wait. This page shows what was there "
            "when it was written.",
            "note",
        )
    found = report.best()
    if not found:
        page.paragraph("No trial is done yet, so there are no figures.", "note")
        return
    if len(report.sweep.objectives) > 1:
        _add_front(page, report, found)
        return
    page.paragraph(f"The best is {figures.said(found[0])}. To train and test it again:", "lead")
    page.code("\n".join(report.repeated(found[0])))


def _add_front(page: Page, report: SweepReport, found: Sequence[Outcome]) -> None:
    """Add the trials of the front as a table, and the commands that repeat each."""
    which = "1 trial is" if len(found) == 1 else f"{len(found)} trials are"
    page.paragraph(f"{which} on the front: no other one is as good in every objective and better in one.", "lead")
    keys, metrics = list(report.sweep.space.parameters), [o.metric for o in report.sweep.objectives]
    header = ["trial", *(report.sweep.space.short[key] for key in keys), *map(metric_title, metrics)]
    rows = [
        [
            str(outcome.slot),
            *(show_value(outcome.point[key]) if key in outcome.point else "" for key in keys),
            *(show_measured(outcome.results.get(metric), metric) for metric in metrics),
        ]
        for outcome in found
    ]
    add_table(page, Table("The trials of the front.", header, rows))
    lines = [line for outcome in found for line in (f"# trial {outcome.slot}", *report.repeated(outcome))]
    page.details("Commands that train and test them again", "\n".join(lines))


def add_table(page: Page, table: Table) -> None:
    """Add a table whose short cells are not broken."""
    shown = table.unbroken()
    page.table(shown.header, shown.rows, table.title)


def _searched(sweep: Sweep, slots: int) -> str:
    """Return what was searched, how, and for what."""
    names = sweep.space.short
    ranges = ", ".join(f"{names[key]} ({_range(entry)})" for key, entry in sweep.space.parameters.items())
    aims = ", ".join(f"{metric_title(o.metric)} ({better(o)})" for o in sweep.objectives)
    how = "every combination" if sweep.sampler.is_grid else f"combinations drawn by {sweep.sampler.name}"
    if sweep.sampler.is_grid and slots < len(sweep.points()):
        how = f"the first {slots} combinations"
    runs = len(sweep.places())
    each = f" Each trial is {runs} runs, and its values are means over them." if runs > 1 else ""
    return f"Searched: {how} of {ranges}, for {aims}.{each}"


def _range(parameter: Parameter) -> str:
    if parameter.choices:
        values = [show_value(value) for value in parameter.values()]
        return ", ".join(values if len(values) <= _MANY else [*values[:_MANY], "…"])
    low, high = map(show_value, parameter.ends())
    step = "" if parameter.step is None else f" in steps of {parameter.step}"
    return f"{low} to {high}{step}{', by its logarithm' if parameter.log else ''}"


def _progress(report: SweepReport, count: Tally) -> str:
    """Return how many trials there are of each kind."""
    states = [outcome.state for outcome in report.outcomes]
    done = states.count("done")
    twins = sum(outcome.state == "done" and outcome.same_as is not None for outcome in report.outcomes)
    kinds = [f"{done} done" + (f" ({twins} of them without training, as they come to the same)" if twins else "")]
    numbers = {state: states.count(state) for state in ("pruned", "infeasible")} | {"failed": count.failed}
    kinds += [f"{number} {state}" for state, number in numbers.items() if number]
    return f"{count.ended} of {count.total} trials have ended: {', '.join(kinds)}."
