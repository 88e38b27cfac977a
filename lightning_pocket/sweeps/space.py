"""The search space of a study: its points, as configs and options of `pocket fit`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Option
from lightning_pocket.studies.yaml_fields import suggest

from .parameters import Parameter, Point, Value, read_parameter, short_names

if TYPE_CHECKING:
    from optuna import Trial


@dataclass(frozen=True)
class Space:
    """Parameters by name, those that others depend on first.

    Args:
        parameters: The parameters; the name of one that chooses no configs is its dotted option of ``pocket fit``.
    """

    parameters: Mapping[str, Parameter]

    def points(self) -> list[Point]:
        """Return every point: all combinations of values, without those of parameters that do not count there.

        Raises:
            PocketError: If a parameter has no end of values.
        """
        found: list[Point] = [{}]
        for name, parameter in self.parameters.items():
            try:
                values = parameter.values()
            except PocketError as error:
                raise PocketError(f"space: {name} {error}") from None
            found = [
                point | more
                for point in found
                for more in ([{name: value} for value in values] if parameter.is_active(point) else [{}])
            ]
        return found

    def samples(self) -> list[Point]:
        """Return points in which every parameter has each of its choices, or both ends of its range, at least once.

        They differ in one parameter from the first of them, and in what must change with it.
        """
        found = [self._complete({})]
        for name, parameter in self.parameters.items():
            base = self._with_parents(name)
            found += [self._complete(base | {name: value}) for value in parameter.ends()]
        return [point for place, point in enumerate(found) if point not in found[:place]]

    def suggest(self, trial: Trial) -> Point:
        """Return the point of a trial, drawn by the sampler of its study, or fixed before.

        Args:
            trial: A running trial of Optuna.
        """
        point: Point = {}
        for name, parameter in self.parameters.items():
            if parameter.is_active(point):
                point[name] = parameter.suggest(trial, name)
        return point

    def configs(self, point: Point) -> list[str]:
        """Return the configs that a point chooses."""
        return [name for key, value in point.items() for name in self.parameters[key].configs(value)]

    def chosen_configs(self) -> list[str]:
        """Return every config that some point chooses, each once."""
        chosen = [
            (entry, value) for entry in self.parameters.values() if entry.type == "config" for value in entry.values()
        ]
        return list(dict.fromkeys(name for entry, value in chosen for name in entry.configs(value)))

    def options(self, point: Point) -> dict[str, Option]:
        """Return the options of ``pocket fit`` of a point."""
        chosen = {key: (self.parameters[key], value) for key, value in point.items()}
        return {
            entry.option or key: entry.option_value(value)
            for key, (entry, value) in chosen.items()
            if entry.type != "config"
        }

    @cached_property
    def short(self) -> dict[str, str]:
        """What tables call each parameter."""
        return short_names(list(self.parameters), {name: entry.short for name, entry in self.parameters.items()})

    @property
    def set_options(self) -> list[str]:
        """Options of ``pocket fit`` that parameters set, and the names of those that choose configs."""
        return [entry.option or name for name, entry in self.parameters.items()]

    def show(self, point: Point) -> str:
        """Return a point for people, such as ``doublings=3, lr=0.001``."""
        return ", ".join(f"{self.short[name]}={show_value(value)}" for name, value in point.items())

    def _complete(self, point: Point) -> Point:
        """Return a point with the first value of everything that counts and is not in it."""
        full: Point = {}
        for name, parameter in self.parameters.items():
            if parameter.is_active(full):
                full[name] = point[name] if name in point else parameter.ends()[0]
        return full

    def _with_parents(self, name: str) -> Point:
        """Return values with which a parameter counts."""
        needed: Point = {}
        for parent, values in self.parameters[name].when.items():
            needed |= self._with_parents(parent) | {parent: values[0]}
        return needed


def read_space(content: Any, where: str) -> Space:
    """Return the space of a file.

    Args:
        content: What the file holds.
        where: Names the file in errors.

    Raises:
        PocketError: If something is wrong with it.
    """
    if not isinstance(content, Mapping) or not content:
        raise PocketError(
            f"{where}: space: expected options of `pocket fit`, each with type and choices, or low and high."
        )
    parameters: dict[str, Parameter] = {}
    for name, entry in content.items():
        place = f"{where}: space: {name}"
        parameter = read_parameter(entry, str(name), place)
        for parent, values in parameter.when.items():
            if parent not in parameters:
                raise PocketError(
                    f"{place}: when names {parent!r}, which is no parameter above it.{_known(parameters, parent)}"
                )
            allowed = parameters[parent].values() if parameters[parent].choices else values
            unknown = [value for value in values if value not in allowed]
            if unknown:
                raise PocketError(
                    f"{place}: when {parent} is {unknown[0]!r}; its values are {', '.join(map(str, allowed))}."
                )
        parameters[str(name)] = parameter
    return Space(parameters)


def show_value(value: Value) -> str:
    """Return a value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _known(parameters: Mapping[str, Parameter], name: str) -> str:
    return suggest(name, list(parameters)) if parameters else ""
