"""Who chooses the points of a study, and who ends trials that promise little: Optuna's samplers and pruners by name."""

from __future__ import annotations

import importlib.util
import inspect
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError
from lightning_pocket.studies.yaml_fields import suggest

from .parameters import Point

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

#: Exact grids: every point once, none drawn.
GRIDS = ("grid", "brute_force")
_SAMPLERS = {
    "random": "RandomSampler",
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
}
#: Made for one objective.
_SINGLE = ("cmaes",)
#: Made for the trade between several.
_SEVERAL = ("nsga2", "nsga3")
#: Learn from points that cannot be: Optuna's constraints.
_CONSTRAINED = ("tpe", "gp", "nsga2", "nsga3")
#: Of a trial that cannot be, why.
INFEASIBLE = "infeasible"
_NEEDS = {"cmaes": "cmaes"}
_PRUNERS = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "hyperband": "HyperbandPruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "patient": "PatientPruner",
    "threshold": "ThresholdPruner",
}
#: Pruners with limits of their own, whichever way the objective goes.
_UNDIRECTED = ("threshold",)
#: How metrics of the validation end of which less is better.
_FALLING = ("loss",)
#: Set by the sweep itself, or objects that no YAML file can hold.
_OURS = ("self", "seed", "wrapped_pruner", "constraints_func", "independent_sampler")
#: More trials than this of one study would share their random numbers.
_TRIALS = 100_003
_SEEDS = 2**32  # NumPy takes seeds below it


@dataclass(frozen=True)
class Sampler:
    """How points are chosen.

    Args:
        name: ``grid`` takes all points in the order of the file, ``brute_force`` in an order drawn with the seed; the
            others are Optuna's samplers.
        seed: Decides what is drawn.
        options: Arguments of Optuna's sampler.
    """

    name: str = "grid"
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_grid(self) -> bool:
        """Whether every point is known before the first trial."""
        return self.name in GRIDS

    def order(self, points: Sequence[Point]) -> list[Point]:
        """Return the points of a grid in the order in which they are taken."""
        ordered = list(points)
        if self.name == "brute_force":
            random.Random(self.seed).shuffle(ordered)
        return ordered

    @property
    def knows_constraints(self) -> bool:
        """Whether it avoids points that cannot be."""
        return self.name in _CONSTRAINED

    def make(self, number: int, constrained: bool = False) -> BaseSampler:
        """Return Optuna's sampler for one trial.

        Every trial has a sampler of its own, so that processes which work on the same study draw differently, and a
        trial draws the same wherever it runs. ``qmc`` alone has the same seed in all trials: its points are even only
        as parts of one sequence, whose next number is in the storage.

        Args:
            number: Number of the trial.
            constrained: Whether trials that cannot be are constraints that were violated.
        """
        import optuna

        own = (self.seed * _TRIALS + number) % _SEEDS
        if self.is_grid:  # every parameter is fixed
            return optuna.samplers.RandomSampler(seed=self.seed % _SEEDS)
        options: dict[str, Any] = {"seed": own, **self.options}
        if self.name == "qmc":
            others = optuna.samplers.RandomSampler(seed=own)  # what the sequence leaves out: the first, and conditions
            options |= {"seed": self.seed % _SEEDS, "independent_sampler": others}
        if constrained and self.knows_constraints:
            options["constraints_func"] = _violation
        made: BaseSampler = getattr(optuna.samplers, _SAMPLERS[self.name])(**options)
        return made


@dataclass(frozen=True)
class Pruner:
    """How trials that promise little are ended.

    Args:
        name: Which of Optuna's pruners.
        metric: Validation metric that it watches.
        options: Arguments of Optuna's pruner.
    """

    name: str
    metric: str = "val/dice"
    options: dict[str, Any] = field(default_factory=dict)

    def make(self) -> BasePruner:
        """Return Optuna's pruner."""
        import optuna

        options = dict(self.options)
        if self.name == "patient":
            options = {"wrapped_pruner": None} | options
        made: BasePruner = getattr(optuna.pruners, _PRUNERS[self.name])(**options)
        return made


def check_sampler(sampler: Sampler, objectives: int, trials: int | None, where: str) -> None:
    """Refuse a sampler that does not exist, does not fit the number of objectives, or knows not how many to draw.

    Args:
        sampler: What the file says.
        objectives: How many there are.
        trials: How many trials the file asks for.
        where: Names the file in errors.

    Raises:
        PocketError: If it cannot be used.
    """
    known = [*GRIDS, *_SAMPLERS]
    if sampler.name not in known:
        raise PocketError(f"{where}: there is no sampler {sampler.name!r}.{suggest(sampler.name, known)}")
    if sampler.seed < 0:
        raise PocketError(f"{where}: sampler: seed is {sampler.seed}, expected a whole number from 0.")
    if sampler.name in _SINGLE and objectives > 1:
        raise PocketError(
            f"{where}: sampler {sampler.name} is for one objective, found {objectives}. Take tpe or nsga2."
        )
    if sampler.name in _SEVERAL and objectives == 1:
        raise PocketError(f"{where}: sampler {sampler.name} is for several objectives, found 1. Take tpe or gp.")
    if not sampler.is_grid and trials is None:
        raise PocketError(f"{where}: has no trials; sampler {sampler.name} must be told how many to draw.")
    _check_makes(sampler, where)


def _check_makes(sampler: Sampler, where: str) -> None:
    """Refuse a sampler that Optuna cannot make."""
    package = _NEEDS.get(sampler.name)
    if package and importlib.util.find_spec(package) is None:
        raise PocketError(f"{where}: sampler {sampler.name} needs the package {package}: pip install {package}.")
    if sampler.is_grid:
        if sampler.options:
            raise PocketError(f"{where}: sampler {sampler.name} has no options.")
        return
    _check_options("sampler", _SAMPLERS[sampler.name], sampler.options, where)
    _try(lambda: sampler.make(0), f"{where}: sampler {sampler.name}")


def check_constrained(sampler: Sampler, where: str) -> None:
    """Refuse a sampler that would draw points again and again of which it is known that they cannot be.

    Args:
        sampler: What the file says.
        where: Names the file in errors.

    Raises:
        PocketError: If it learns nothing from such points, and draws them.
    """
    if not sampler.is_grid and not sampler.knows_constraints:
        raise PocketError(
            f"{where}: infeasible_on_out_of_memory: sampler {sampler.name} cannot avoid points. Leave the key out, or "
            f"take {', '.join(_CONSTRAINED)}, or a grid."
        )


def check_pruner(pruner: Pruner, directions: Sequence[str], where: str) -> None:
    """Refuse a pruner that does not exist, with several objectives, or that would end the best trials.

    Args:
        pruner: What the file says.
        directions: Direction of each objective.
        where: Names the file in errors.

    Raises:
        PocketError: If it cannot be used.
    """
    if pruner.name not in _PRUNERS:
        raise PocketError(f"{where}: there is no pruner {pruner.name!r}.{suggest(pruner.name, ['none', *_PRUNERS])}")
    if len(directions) > 1:
        raise PocketError(f"{where}: pruner {pruner.name} is for one objective, found {len(directions)}. Take none.")
    if not pruner.metric.startswith("val/"):
        raise PocketError(f"{where}: pruner: metric is {pruner.metric!r}, expected one of the validation, as val/dice.")
    _check_direction(pruner, directions[0], where)
    _check_options("pruner", _PRUNERS[pruner.name], pruner.options, where)
    _try(pruner.make, f"{where}: pruner {pruner.name}")


def _check_direction(pruner: Pruner, direction: str, where: str) -> None:
    """Refuse a metric that goes the other way: Optuna's pruners judge it by the direction of the objective."""
    wanted = "minimize" if pruner.metric.endswith(_FALLING) else "maximize"
    if pruner.name in _UNDIRECTED or wanted == direction:
        return
    better, instead = ("less", "val/dice") if wanted == "minimize" else ("more", "val/loss")
    raise PocketError(
        f"{where}: pruner: of {pruner.metric} {better} is better, but the objective is to {direction}, and "
        f"{pruner.name} judges both alike: it would end the best trials. Give it such a metric as {instead}."
    )


def _violation(trial: FrozenTrial) -> tuple[float]:
    """Return the constraint of a trial: above 0 where it cannot be."""
    return (1.0 if INFEASIBLE in trial.user_attrs else -1.0,)


def _check_options(module: str, name: str, options: Mapping[str, Any], where: str) -> None:
    import optuna

    parameters = inspect.signature(getattr(getattr(optuna, f"{module}s"), name)).parameters
    known = [parameter for parameter in parameters if parameter not in _OURS]
    for option in options:
        if option not in known:
            raise PocketError(f"{where}: {module}: {name} has no option {option!r}.{suggest(option, known)}")


def _try(make: Any, what: str) -> None:
    try:
        make()
    except (TypeError, ValueError) as error:
        raise PocketError(f"{what}: {' '.join(str(error).split())}") from error
