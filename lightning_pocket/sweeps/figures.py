"""The figures of a study: what its trials came to, drawn by the charts of reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from lightning_pocket.reports.axes import Axis, Value
from lightning_pocket.reports.front_chart import Aim, Pair, front_chart
from lightning_pocket.reports.parallel_chart import Course, parallel_chart
from lightning_pocket.reports.sweep_charts import Try, history_chart, share_chart, slice_chart

from .definition import Objective
from .importance import importance
from .measures import PROFILED, TRAINED
from .outcome import Outcome
from .parameters import Parameter
from .report import SweepReport, metric_title, show_measured
from .shrunk import COSTS, PREFIX
from .space import show_value

if TYPE_CHECKING:
    from optuna import Study

#: States that are drawn without a result; a trial that was lost again and again has failed.
_WITHOUT = {"failed": "failed", "lost": "failed", "pruned": "pruned", "infeasible": "infeasible"}
_STANDING_OUT = 10  # the best of so many trials stand out
_WIDE = 10  # tells an axis of costs from a few to many by powers of ten


@dataclass(frozen=True)
class Figure:
    """A chart of a study.

    Args:
        name: Of its file.
        svg: The ``<svg>`` element.
        caption: The line below it.
    """

    name: str
    svg: str
    caption: str


class Figures:
    """Draws a study.

    Args:
        report: The study and its trials.
    """

    def __init__(self, report: SweepReport) -> None:
        self.report = report
        self.sweep = report.sweep
        self.done = [outcome for outcome in report.outcomes if outcome.values is not None]
        self.names = {key: level_names(entry) for key, entry in self.sweep.space.parameters.items()}
        self.good = self._good()

    @property
    def good_name(self) -> str:
        """What the trials have in common that stand out."""
        return "best tenth" if len(self.sweep.objectives) == 1 else "front of all objectives"

    def history(self) -> list[Figure]:
        """Return the objectives of the trials by their number, one figure for each objective."""
        others = {o.slot: _WITHOUT[o.state] for o in self.report.outcomes if o.state in _WITHOUT}
        found = []
        for index, objective in enumerate(self.sweep.objectives if self.done else []):
            values = {outcome.slot: _value(outcome, index) for outcome in self.done}
            axis, maximize = self._objective_axis(index), objective.direction == "maximize"
            title = f"Each trial's {axis.label}"
            without = " Marks on the axis are trials without a result." if others else ""
            caption = f"{title} by its number, and the best one so far ({better(objective)}).{without}"
            chart = history_chart(values, others, axis, maximize, title)
            found.append(Figure(f"history_{objective.metric}", chart, caption))
        return found

    def importance(self, study: Study) -> tuple[list[Figure], list[str]]:
        """Return the importance of the parameters for each objective, and why figures are left out.

        Args:
            study: Optuna's study.
        """
        found, reasons = [], []
        for index, objective in enumerate(self.sweep.objectives):
            name, result = metric_title(objective.metric), importance(study, index)
            if result.reason:
                reasons.append(f"The importance of the parameters for {name} is not shown: {result.reason}.")
                continue
            shares = {self.sweep.space.short[key]: share for key, share in result.shares.items()}
            caption = (
                f"Importance of each parameter for {name}: how unlike all {result.trials} trials the best "
                f"{result.best} are spread over its values (PED-ANOVA of Optuna, all parameters together 100 %)."
            )
            title = f"Importance of each parameter for {name}"
            found.append(Figure(f"importance_{objective.metric}", share_chart(shares, title), caption))
        return found, reasons

    def parallel(self) -> list[Figure]:
        """Return the figure of all trials through all parameters; none where there is one parameter."""
        keys = list(self.sweep.space.parameters)
        if len(keys) < 2 or not self.done:
            return []
        count = len(self.sweep.objectives)
        axes = [self._axis(key) for key in keys] + [self._objective_axis(i, with_aim=True) for i in range(count)]
        courses = [
            Course(
                self.said(outcome),
                (*(self._place(outcome, key) for key in keys), *(_value(outcome, i) for i in range(count))),
                outcome.slot in self.good,
            )
            for outcome in self.done
        ]
        title = "Parameters and objectives of all trials"
        caption = f"One line for each trial that is done, thick and with marks: {self.good_name}."
        return [Figure("parallel", parallel_chart(axes, courses, self.good_name, title), caption)]

    def slices(self) -> list[Figure]:
        """Return each objective against each parameter."""
        found = []
        for index, objective in enumerate(self.sweep.objectives if self.done else []):
            for key in self.sweep.space.parameters:
                x_axis, y_axis = self._axis(key), self._objective_axis(index)
                tries = [
                    Try(self._place(o, key), _value(o, index), self.said(o), o.slot in self.good) for o in self.done
                ]
                title = f"Trials by {x_axis.label} and {y_axis.label}"
                chart = slice_chart(tries, x_axis, y_axis, self.good_name, title)
                found.append(Figure(f"slice_{objective.metric}_{x_axis.label}", chart, f"{title}."))
        return found

    def fronts(self) -> list[Figure]:
        """Return the objectives against each other, a figure for each two of them."""
        own = [outcome for outcome in self.done if outcome.same_as is None]
        found = []
        for first, second in combinations(range(len(self.sweep.objectives)) if own else [], 2):
            up, along = self.sweep.objectives[first], self.sweep.objectives[second]
            pairs = [Pair(_value(o, second), _value(o, first), str(o.slot), self.said(o)) for o in own]
            aim = Aim(along.direction == "maximize", up.direction == "maximize")
            axes = self._objective_axis(second, with_aim=True), self._objective_axis(first, with_aim=True)
            title = f"Trials by {metric_title(along.metric)} and {metric_title(up.metric)}"
            chart = front_chart(pairs, *axes, aim, title)
            caption = (
                f"{title}. The front has the trials for which no other one is as good in both and better in one, with "
                "their numbers where there is room; the others are hollow and grey."
            )
            found.append(Figure(f"front_{up.metric}_{along.metric}", chart, caption))
        return found

    def said(self, outcome: Outcome) -> str:
        """Return what a trial is and came to, for people."""
        pairs = zip(self.sweep.objectives, outcome.values or [], strict=True)
        results = [
            f"{metric_title(o.metric)} {show_measured(outcome.results.get(o.metric), o.metric) or f'{value:.4g}'}"
            for o, value in pairs
        ]
        same = "" if outcome.same_as is None else f" (same as trial {outcome.same_as})"
        return f"trial {outcome.slot}{same}: {', '.join([self.sweep.space.show(outcome.point), *results])}"

    def _good(self) -> set[int]:
        """Return the numbers of the trials that stand out."""
        if len(self.sweep.objectives) > 1:
            return {outcome.slot for outcome in self.report.best()}
        sign = -1.0 if self.sweep.primary.direction == "maximize" else 1.0
        own = [outcome for outcome in self.done if outcome.same_as is None]
        ranked = sorted(own, key=lambda outcome: (sign * _value(outcome, 0), outcome.slot))
        return {outcome.slot for outcome in ranked[: math.ceil(len(ranked) / _STANDING_OUT)]}

    def _axis(self, key: str) -> Axis:
        """Return the axis of a parameter."""
        parameter, label = self.sweep.space.parameters[key], self.sweep.space.short[key]
        if parameter.choices:
            return Axis(label, levels=tuple(self.names[key]))
        reach = tuple(float(end) for end in parameter.ends() if isinstance(end, int | float))
        return Axis(label, log=parameter.log, whole=parameter.type == "int", reach=reach)

    def _objective_axis(self, index: int, with_aim: bool = False) -> Axis:
        objective = self.sweep.objectives[index]
        values = [_value(outcome, index) for outcome in self.done]
        is_cost = objective.metric.removeprefix(PREFIX) in (*PROFILED, *TRAINED, *COSTS)
        wide = is_cost and bool(values) and min(values) > 0 and max(values) >= _WIDE * min(values)
        label = metric_title(objective.metric)
        return Axis(f"{label} ({better(objective)})" if with_aim else label, log=wide)

    def _place(self, outcome: Outcome, key: str) -> Value:
        """Return the place of a trial on the axis of a parameter; None where the parameter does not count."""
        if key not in outcome.point:
            return None
        value, parameter = outcome.point[key], self.sweep.space.parameters[key]
        if not parameter.choices:
            return float(value) if isinstance(value, int | float) else None
        known = parameter.values()
        same = [isinstance(value, bool) == isinstance(other, bool) and value == other for other in known]
        return self.names[key][same.index(True)] if True in same else None


def better(objective: Objective) -> str:
    """Return which values of an objective are better, for people."""
    return "more is better" if objective.direction == "maximize" else "less is better"


def level_names(parameter: Parameter) -> list[str]:
    """Return what figures call the choices of a parameter, in the order of the file, each by a name of its own."""
    if not parameter.choices:
        return []
    values = parameter.values()
    shown: Sequence[str] = [show_value(value) for value in values]
    return list(shown) if len(set(shown)) == len(shown) else [repr(value) for value in values]


def _value(outcome: Outcome, index: int) -> float:
    return (outcome.values or [])[index]
