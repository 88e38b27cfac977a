"""The trials of a study as tables: all of them, those beside published numbers, and the best."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_pocket.reports.collect import metric_of
from lightning_pocket.reports.comparison_tables import METRICS
from lightning_pocket.reports.statistics_tables import metric_name
from lightning_pocket.reports.table_files import Table, write_tables
from lightning_pocket.storage import write_csv
from lightning_pocket.studies.table import PARAMETERS

from .definition import STATE, WHEN, Published, Sweep
from .measures import Measured
from .outcome import Outcome, best
from .runs import TrialRuns
from .shrunk import PREFIX
from .space import show_value

_NAMES = {"parameters": "parameters", "macs": "MACs", "train_mib": "training (MiB)", "infer_mib": "inference (MiB)",
          "step_ms": "step (ms)", "train_s": "training (s)", "macs_formula": "MACs (10)",
          "time_ratio": "time, share of before"}  # fmt: skip
_COUNTS = ("parameters", "macs", "macs_formula")


@dataclass(frozen=True)
class SweepReport:
    """A study and what its trials came to.

    Args:
        sweep: The study.
        outcomes: The trials, in the order of their numbers.
        folder: Folder of the study.
        more: Options of ``pocket fit`` from the command line.
    """

    sweep: Sweep
    outcomes: Sequence[Outcome]
    folder: Path
    more: tuple[str, ...] = ()

    def trials(self) -> Table:
        """Return a table of all trials."""
        keys, metrics = list(self.sweep.space.parameters), self.sweep.measured
        header = [
            *STATE,
            *(self.sweep.space.short[key] for key in keys),
            *map(metric_title, metrics),
            "time",
            "remark",
        ]
        rows = [self._row(outcome, keys, metrics) for outcome in self.outcomes]
        return Table(self.sweep.title, header, rows)

    def published(self) -> Table | None:
        """Return a table with a row for each published point and the best trial there; None without any."""
        if not self.sweep.published:
            return None
        metrics = [m for m in self.sweep.measured if m != "parameters"]
        header = ["", "trial", "chosen", "parameters (M)", "published (M)"]
        header += [title for metric in metrics for title in (metric_title(metric), f"{metric_title(metric)} published")]
        rows = [self._published_row(row, metrics) for row in self.sweep.published]
        return Table(f"{self.sweep.title}: beside the published numbers", header, rows).filled()

    @property
    def spread_note(self) -> str:
        """What stands behind the ± of the tables."""
        runs = len(self.sweep.places())
        if runs > 1:
            return f"± is the standard deviation over the {runs} runs of a trial."
        return "± is the standard deviation over the test cases; a value without it is one number for the run."

    def best(self) -> list[Outcome]:
        """Return the best trial, or of several objectives the front: no other is as good in all and better in one."""
        return best(self.sweep, self.outcomes)

    def repeated(self, outcome: Outcome) -> list[str]:
        """Return the lines that train and test a trial again, in folders of their own."""
        runs = TrialRuns(self.sweep, self.folder, outcome.slot, outcome.point, self.more)
        return runs.repeated(self.folder / "again")

    def write(self) -> list[Path]:
        """Write ``trials.csv``, ``table.md`` and ``table.tex``, and with published numbers ``table.csv``.

        Returns:
            The files.
        """
        known = [table.filled() for table in (self.published(), self.trials()) if table is not None]
        tables = [replace(table, title=f"{table.title}. {self.spread_note}") for table in known]
        files = [self.folder / name for name in ("trials.csv", "table.csv", "table.md", "table.tex")]
        write_csv(files[0], self._columns(), [self._record(outcome) for outcome in self.outcomes])
        for file in files[2:]:
            write_tables(file, tables)
        if not self.sweep.published:
            return [files[0], *files[2:]]
        records = [self._published_record(row) for row in self.sweep.published]
        write_csv(files[1], list(records[0]), records)
        return files

    def of_published(self, row: Published) -> Outcome | None:
        """Return the best trial at a published point by the first objective; None where none is done."""
        here = [o for o in self.outcomes if o.values is not None and row.matches(o.point)]
        sign = 1 if self.sweep.primary.direction == "maximize" else -1
        return max(here, key=lambda outcome: (sign * (outcome.values or [0.0])[0], -outcome.slot), default=None)

    def _row(self, outcome: Outcome, keys: Sequence[str], metrics: Sequence[str]) -> list[str]:
        point = outcome.point
        shown = [show_value(point[key]) if key in point else "" for key in keys]
        values = [show_measured(outcome.results.get(metric), metric) for metric in metrics]
        took = "" if outcome.seconds is None or outcome.same_as is not None else f"{outcome.seconds:.0f} s"
        return [str(outcome.slot), outcome.state, *shown, *values, took, outcome.remark]

    def _published_row(self, row: Published, metrics: Sequence[str]) -> list[str]:
        outcome = self.of_published(row)
        found = {} if outcome is None else outcome.results
        size = found.get("parameters")
        cells = [row.label or self.sweep.space.show(row.point), *self._chosen(row, outcome)]
        cells += ["" if size is None else f"{size.mean / 1e6:.3g}", str(row.values.get(PARAMETERS, ""))]
        for metric in metrics:
            cells += [show_measured(found.get(metric), metric), row.row.score(metric)]
        return cells

    def _chosen(self, row: Published, outcome: Outcome | None) -> list[str]:
        """Return which trial stands for a row, and the values that were chosen for it."""
        if outcome is None:
            return ["not done", ""]
        twin = "" if outcome.same_as is None else f" (same as {outcome.same_as})"
        free = {key: value for key, value in outcome.point.items() if key not in row.point}
        return [f"{outcome.slot}{twin}", self.sweep.space.show(free)]

    def _columns(self) -> list[str]:
        metrics = self.sweep.measured
        spread = [name for metric in metrics for name in (metric, f"{metric}_std", f"{metric}_runs")]
        return [*STATE, *self.sweep.space.parameters, *spread, *WHEN]

    def _record(self, outcome: Outcome) -> dict[str, Any]:
        record: dict[str, Any] = {"trial": outcome.slot, "state": outcome.state, **outcome.point}
        for metric, measured in outcome.results.items():
            record |= _measured_record(metric, measured)
        made = outcome.trial.user_attrs.get("commands", [])
        same = "" if outcome.same_as is None else outcome.same_as
        return {
            **record,
            **outcome.record(),
            "same_as": same,
            "remark": outcome.remark,
            "commands": " && ".join(map(shlex.join, made)),
        }

    def _published_record(self, row: Published) -> dict[str, Any]:
        outcome = self.of_published(row)
        record: dict[str, Any] = {"label": row.label or self.sweep.space.show(row.point)}
        record |= {"trial": "" if outcome is None else outcome.slot}
        record |= {key: "" if outcome is None else outcome.point.get(key, "") for key in self.sweep.space.parameters}
        record |= {"published_params_M": row.values.get(PARAMETERS, "")}
        for metric in self.sweep.measured:
            measured = None if outcome is None else outcome.results.get(metric)
            published = {} if metric == "parameters" else {f"published_{metric}": row.row.score(metric)}
            record |= _measured_record(metric, measured) | published
        return record


def show_measured(measured: Measured | None, metric: str) -> str:
    """Return a metric of a trial for people: mean ± standard deviation, over runs, or over the cases of one."""
    if measured is None:
        return ""
    metric = metric.removeprefix(PREFIX)
    if metric in _COUNTS:
        return f"{measured.mean:,.0f}"
    form = METRICS.get(metric_of(metric) or metric, ("", ".4g"))[1]
    spread = measured.spread
    return f"{measured.mean:{form}}" if spread is None else f"{measured.mean:{form}} ± {spread:{form}}"


def _measured_record(metric: str, measured: Measured | None) -> dict[str, Any]:
    if measured is None:
        return {metric: "", f"{metric}_std": "", f"{metric}_runs": ""}
    values = " ".join(str(value) for value in measured.values)
    return {metric: measured.mean, f"{metric}_std": measured.spread, f"{metric}_runs": values}


def metric_title(metric: str) -> str:
    """Return what readers call a metric, such as ``training (MiB)``."""
    own = metric.removeprefix(PREFIX)
    return f"{_NAMES.get(own) or metric_name(own)}{', shrunk' if own != metric else ''}"
