"""One parameter of a search space: its values, when it counts, and what it means on the command line."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Option
from lightning_pocket.studies.yaml_fields import checked_fields

if TYPE_CHECKING:
    from optuna import Trial

Kind = Literal["categorical", "int", "float", "config"]
#: What Optuna stores as the value of a parameter; choices that are lists go by a name of their own.
Value = bool | int | float | str | None
Point = dict[str, Value]
#: YAML 1.1 reads 1e-3, without a dot, as text.
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_POWER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)e[+-]?\d+", re.IGNORECASE)
_KEY = re.compile(r"[A-Za-z_][\w.]*")


@dataclass(frozen=True)
class Parameter:
    """A parameter as the YAML file says it.

    Args:
        type: ``categorical``, ``int`` and ``float`` are values of an option of ``pocket fit`` and have the arguments of
            Optuna's distributions; ``config`` chooses configs that come after those of the study.
        choices: Values, or names of configs; a mapping gives each a name, which values that are lists need.
        low: Least value.
        high: Largest value.
        step: Distance of values; without one, an int has 1 and a float any value.
        log: Whether values are drawn from the logarithm of the range.
        when: Values of earlier parameters with which this one counts; it always does without.
        short: What tables call it; by default the end of its key.
        option: Option of ``pocket fit`` that it sets; by default its key. So two parameters that never count together
            can set the same one.
    """

    type: Kind
    choices: list[Any] | dict[str, Any] = field(default_factory=list)
    low: int | float | str | None = None
    high: int | float | str | None = None
    step: int | float | str | None = None
    log: bool = False
    when: dict[str, Any] = field(default_factory=dict)
    short: str = ""
    option: str = ""

    def is_active(self, point: Mapping[str, Value]) -> bool:
        """Whether the parameter counts with these values of the earlier ones."""
        return all(key in point and _same_in(point[key], values) for key, values in self.when.items())

    def values(self) -> list[Value]:
        """Return every value; an int without step has step 1.

        Raises:
            PocketError: If there is no end of them.
        """
        if isinstance(self.choices, dict):
            return list(self.choices)
        if self.choices:
            return [_label(choice) for choice in self.choices]
        low, high, step = self._range()
        if step is None:
            raise PocketError("is a range without end of values; give it a step, or choices.")
        places = range(round((high - low) / step) + 1)
        return [self._value(low, step, place) for place in places]

    def ends(self) -> list[Value]:
        """Return values that stand for all when settings are checked: every choice, or both ends of what is drawn."""
        if self.choices:
            return self.values()
        low, high, _ = self._range()
        return [int(low), int(high)] if self.type == "int" else [low, high]

    def suggest(self, trial: Trial, name: str) -> Value:
        """Return the value that a trial has for the parameter of this name: fixed before, or drawn by the sampler."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(name, self.values())
            return chosen
        low, high, step = self._range()
        if self.type == "int":
            return trial.suggest_int(name, int(low), int(high), step=int(step or 1), log=self.log)
        return trial.suggest_float(name, low, high, step=step, log=self.log)

    def configs(self, value: Value) -> list[str]:
        """Return the configs that a value chooses, none unless the type is ``config``."""
        if self.type != "config":
            return []
        chosen = self.choices[str(value)] if isinstance(self.choices, dict) else value
        return [str(name) for name in (chosen if isinstance(chosen, list) else [chosen])]

    def option_value(self, value: Value) -> Option:
        """Return what an option of ``pocket fit`` is given for a value."""
        chosen = self.choices[str(value)] if isinstance(self.choices, dict) else value
        return _label(chosen)

    def _range(self) -> tuple[float, float, float | None]:
        low, high, step = (_number(end) for end in (self.low, self.high, self.step))
        if low is None or high is None:
            raise PocketError("has no low or no high.")  # which the reader refuses
        if self.type == "int" and step is None:
            step = 1
        if step is None:
            return low, high, None
        return low, self._value(low, step, int((high - low) / step + 1e-9)), step

    def _value(self, low: float, step: float, place: int) -> float:
        """Return a value of a range with steps."""
        return int(low + place * step) if self.type == "int" else round(low + place * step, 12)


def read_parameter(content: Any, key: str, where: str) -> Parameter:
    """Return a parameter after checking all of it.

    Args:
        content: What the file holds.
        key: Its name: a dotted option of ``pocket fit``, or any word where it chooses configs.
        where: Names the file and the parameter in errors.

    Raises:
        PocketError: If something is wrong with it.
    """
    parameter = Parameter(**checked_fields(content, Parameter, where))
    if parameter.type not in get_args(Kind):
        raise PocketError(f"{where}: type is {parameter.type!r}, expected one of {', '.join(get_args(Kind))}.")
    if not _KEY.fullmatch(key):
        raise PocketError(f"{where}: expected a name of letters, digits, dots and _.")
    if parameter.type in ("categorical", "config"):
        _check_choices(parameter, where)
    else:
        _check_range(parameter, where)
    for parent, values in parameter.when.items():
        if not isinstance(values, list) or not values:
            raise PocketError(f"{where}: when {parent} is {values!r}, expected a list of its values.")
    return parameter


def _check_choices(parameter: Parameter, where: str) -> None:
    given = [name for name in ("low", "high", "step") if getattr(parameter, name) is not None]
    if given or parameter.log:
        raise PocketError(f"{where}: has {(given or ['log'])[0]}, but {parameter.type} knows only choices.")
    if not parameter.choices:
        raise PocketError(f"{where}: has no choices.")
    names = parameter.values()
    if any(isinstance(name, list | dict) for name in names):
        raise PocketError(f"{where}: choices holds a list; give each a name, as in {{first: [1, 2], second: [1, 1]}}.")
    if len({(type(name), name) for name in names}) < len(names):
        raise PocketError(f"{where}: choices holds a value twice.")


def _check_range(parameter: Parameter, where: str) -> None:
    if parameter.choices:
        raise PocketError(f"{where}: has choices, but {parameter.type} is from low to high. Take type categorical.")
    low, high, step = (_checked_number(parameter, name, where) for name in ("low", "high", "step"))
    if low > high:
        raise PocketError(f"{where}: low is {low:g} and high is {high:g}, expected low to be at most high.")
    if parameter.step is not None and step <= 0:
        raise PocketError(f"{where}: step is {step:g}, expected it to be above 0.")
    if parameter.log and low <= 0:
        raise PocketError(f"{where}: low is {parameter.low!r}; a logarithm needs it to be above 0.")
    if parameter.log and parameter.step is not None:
        raise PocketError(f"{where}: has log and step; give one of the two.")


def _checked_number(parameter: Parameter, name: str, where: str) -> float:
    """Return an end or the step of a range; 0 for a step that is not given."""
    value = getattr(parameter, name)
    number = _number(value)
    if number is None and (value is not None or name != "step"):
        raise PocketError(f"{where}: {name} is {value!r}, expected a number.")
    if number is not None and not math.isfinite(number):
        raise PocketError(f"{where}: {name} is {number:g}, expected a finite number.")
    if parameter.type == "int" and number is not None and number != int(number):
        raise PocketError(f"{where}: {name} is {value!r}, expected a whole number. Take type float.")
    return 0.0 if number is None else number


def short_names(keys: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Return what tables call parameters: the shortest ends of their keys that tell them from one another.

    Args:
        keys: The keys.
        given: Names that the file gives to some of them.
    """
    names = {}
    for key in keys:
        parts = [part for part in key.split(".") if part != "init_args"]
        others = [[part for part in other.split(".") if part != "init_args"] for other in keys if other != key]
        length = next(
            (n for n in range(1, len(parts)) if all(parts[-n:] != other[-n:] for other in others)), len(parts)
        )
        names[key] = given.get(key) or ".".join(parts[-length:])
    return names


def _label(choice: Any) -> Any:
    """Return a choice; text such as 1e-3 is the number that YAML missed, and ``"32"`` is meant as text."""
    return float(choice) if isinstance(choice, str) and _POWER.fullmatch(choice) else choice


def _number(value: Any) -> float | None:
    """Return a number, also where YAML has read one as text; None for everything else."""
    if isinstance(value, str) and _FLOAT.fullmatch(value):
        return float(value)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _same_in(value: Value, values: Sequence[Value]) -> bool:
    """Whether a value is among others; True is not 1."""
    return any(isinstance(value, bool) == isinstance(other, bool) and value == _label(other) for other in values)
