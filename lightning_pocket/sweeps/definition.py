"""A study as its YAML file says: what is trained, what is searched, and by which numbers trials are judged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lightning_pocket.launch import Option
from lightning_pocket.studies.table import Checkpoint, Row

from .parameters import Point
from .samplers import Pruner, Sampler
from .space import Space

Direction = Literal["maximize", "minimize"]
#: Columns of ``trials.csv`` beside parameters and metrics.
STATE, WHEN = ("trial", "state"), ("began", "ended", "seconds", "run", "same_as", "remark", "commands")
#: What may change in the file of a study that has begun: it changes no trial.
_FREE = ("title", "source", "notes", "takes", "trials", "time_limit", "published", "metrics")


@dataclass(frozen=True)
class Objective:
    """A number by which trials are judged.

    Args:
        metric: ``dice`` and the like are means over the tested cases, ``val/dice`` of the validation, ``parameters``,
            ``macs`` and ``train_mib`` of `pocket profile`, ``step_ms`` of the training.
        direction: ``maximize`` or ``minimize``.
    """

    metric: str
    direction: Direction


@dataclass(frozen=True)
class Published:
    """Numbers of a paper, to stand beside the best trial at a point.

    Args:
        point: Values of some parameters: trials with these values belong to the row.
        values: ``params_M``, and for a metric such as ``dice`` its mean, with ``± standard deviation`` as text.
        label: What readers call the row; by default its point.
    """

    point: dict[str, Any]
    values: dict[str, Any]
    label: str = ""

    @property
    def row(self) -> Row:
        """The numbers as the row of a table of experiments, which knows how to show them."""
        return Row(self.label, published=self.values)

    def matches(self, point: Point) -> bool:
        """Whether a trial at a point belongs to the row."""
        return all(key in point and point[key] == value for key, value in self.point.items())


@dataclass(frozen=True)
class Sweep:
    """A study.

    Args:
        title: Its heading.
        configs: Configs of ``pocket fit`` that all trials share.
        space: What is searched.
        objectives: Numbers by which trials are judged.
        source: Where published numbers are from.
        notes: What a reader must know to compare ours with them.
        takes: How long it takes, in words.
        options: Options of ``pocket fit`` that all trials share.
        sampler: How points are chosen.
        pruner: How trials that promise little are ended; None ends none.
        trials: How many; a grid has as many as it has points, unless this is less.
        seeds: Seeds of the runs of each trial; its values are means over them.
        folds: Folds of the data of the runs of each trial; the fold of the settings where there are none.
        checkpoint: Weights of each run that are tested, and whose validation counts: ``last`` or ``best``.
        metrics: Other metrics to show, named like those of objectives.
        shrink: Whether what is zero is removed from each trained network (``pocket shrink``), and what is left is
            tested too; then there are metrics such as ``shrunk/dice`` and ``shrunk/macs``.
        time_limit: Seconds after which `pocket sweep` begins no other trial.
        infeasible_on_out_of_memory: Whether running out of memory counts as a point that cannot be, which samplers
            avoid, instead of a failure.
        published: Numbers of a paper; the table of the study has a row for each.
    """

    title: str
    configs: list[str]
    space: Space
    objectives: list[Objective]
    source: str = ""
    notes: list[str] = field(default_factory=list)
    takes: str = ""
    options: dict[str, Option] = field(default_factory=dict)
    sampler: Sampler = field(default_factory=Sampler)
    pruner: Pruner | None = None
    trials: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    folds: list[int] = field(default_factory=list)
    checkpoint: Checkpoint = "last"
    metrics: list[str] = field(default_factory=list)
    shrink: bool = False
    time_limit: int | float | None = None
    infeasible_on_out_of_memory: bool = False
    published: list[Published] = field(default_factory=list)

    @property
    def measured(self) -> list[str]:
        """Every metric that a trial records."""
        return list(dict.fromkeys([*(entry.metric for entry in self.objectives), *self.metrics, "parameters"]))

    @property
    def primary(self) -> Objective:
        """The objective by which one trial is chosen of several at the same published point."""
        return self.objectives[0]

    def points(self) -> list[Point]:
        """Return the points of trials that are known before any is run: of a grid all, of a sampler none.

        Raises:
            PocketError: If a grid has no end.
        """
        if not self.sampler.is_grid:
            return []
        return self.sampler.order(self.space.points())

    @property
    def count(self) -> int:
        """How many trials there are: as many as asked for, of a grid at most one for each point."""
        points = len(self.points())
        return min(self.trials or points, points) if self.sampler.is_grid else self.trials or 0

    def places(self) -> list[tuple[str, dict[str, Option]]]:
        """Return the folder of each run of a trial, below that of the trial, and the options that make it."""
        found: list[tuple[str, dict[str, Option]]] = []
        folds: list[int | None] = [*self.folds] or [None]
        for seed in self.seeds:
            for fold in folds:
                parts = [f"seed_{seed}"] if len(self.seeds) > 1 else []
                parts += [f"fold_{fold}"] if fold is not None and len(self.folds) > 1 else []
                options: dict[str, Option] = {"seed_everything": seed}
                options |= {} if fold is None else {"data.init_args.split.fold": fold}
                found.append(("/".join(parts), options))
        return found

    def identity(self, more: list[str]) -> dict[str, Any]:
        """Return what makes trials comparable, as plain values: a study goes on only with the same.

        Args:
            more: Options of ``pocket fit`` from the command line.
        """
        content = {key: value for key, value in asdict(self).items() if key not in _FREE}
        content["space"] = {name: asdict(entry) for name, entry in self.space.parameters.items()}
        plain: dict[str, Any] = json.loads(json.dumps(content | {"command line": more}))
        return plain

    def of_point(self, published: Mapping[str, Any]) -> str:
        """Return a published point for people."""
        return self.space.show(dict(published))
