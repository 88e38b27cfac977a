"""Read the YAML file of a study; everything that can be wrong with it is found here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder, find_config
from lightning_pocket.studies.table import METRICS, PARAMETERS, Checkpoint, Row
from lightning_pocket.studies.yaml_fields import checked_fields, suggest

from .definition import STATE, WHEN, Direction, Objective, Published, Sweep
from .measures import check_metric
from .samplers import Pruner, Sampler, check_constrained, check_pruner, check_sampler
from .shrunk import PREFIX
from .space import read_space


def sweeps_folder() -> Path:
    """Return the folder of shipped studies: inside the installed package, or at the top of a source checkout."""
    installed = configs_folder() / "sweeps"
    return installed if installed.is_dir() else configs_folder().parent / "sweeps"


def find_sweep(name: str) -> Path:
    """Return the file of a study.

    Args:
        name: YAML file, or the name of a shipped one.

    Raises:
        PocketError: If there is no such study.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = sweeps_folder() / f"{name.removesuffix('.yaml')}.yaml"
    if shipped.is_file():
        return shipped
    known = sorted(file.stem for file in sweeps_folder().glob("*.yaml"))
    raise PocketError(f"{name}: no such file, and no shipped study has this name.{suggest(name, known)}")


def read_sweep(path: Path, is_record: bool = False) -> Sweep:
    """Read a study.

    Args:
        path: Its YAML file.
        is_record: Whether it is the copy in the folder of a study, whose configs need not be there any more.

    Raises:
        PocketError: If it is not as expected.
    """
    where = str(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PocketError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping):
        checked_fields(content, Sweep, where)  # says so
    given = dict(content)
    if "space" in given:
        given["space"] = read_space(given["space"], where)
    given |= _chosen(given, where)
    sweep = Sweep(**checked_fields(given, Sweep, where) | _lists(given, where))
    _check(sweep, where)
    if not is_record:
        _check_configs(sweep, where)
    return sweep


def _chosen(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return sampler and pruner, which are a name, or a mapping with options."""
    found: dict[str, Any] = {}
    if "sampler" in given:
        entry = given["sampler"]
        content = {"name": entry} if isinstance(entry, str) else entry
        found["sampler"] = Sampler(**checked_fields(content, Sampler, f"{where}: sampler"))
    if given.get("pruner") is not None:
        entry = given["pruner"]
        content = {"name": entry} if isinstance(entry, str) else entry
        pruner = Pruner(**checked_fields(content, Pruner, f"{where}: pruner"))
        found["pruner"] = None if pruner.name == "none" else pruner
    return found


def _lists(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, kind in (("objectives", Objective), ("published", Published)):
        entries = given.get(key, [])
        found[key] = [
            kind(**checked_fields(entry, kind, f"{where}: {key}[{index}]")) for index, entry in enumerate(entries)
        ]
    return found


def _check(sweep: Sweep, where: str) -> None:
    """Refuse what would fail after hours, or be shown wrongly."""
    if not sweep.configs:
        raise PocketError(f"{where}: configs is empty; name an experiment, such as segment_volumes.")
    if sweep.checkpoint not in get_args(Checkpoint):
        raise PocketError(f"{where}: checkpoint is {sweep.checkpoint!r}, expected last or best.")
    _check_objectives(sweep, where)
    check_sampler(sweep.sampler, len(sweep.objectives), sweep.trials, where)
    if sweep.infeasible_on_out_of_memory:
        check_constrained(sweep.sampler, where)
    if sweep.pruner is not None:
        check_pruner(sweep.pruner, [entry.direction for entry in sweep.objectives], where)
    _check_numbers(sweep, where)
    _check_options(sweep, where)
    _check_published(sweep, where)
    if sweep.sampler.is_grid:
        try:
            sweep.points()
        except PocketError as error:
            raise PocketError(f"{where}: {error}") from None


def _check_configs(sweep: Sweep, where: str) -> None:
    named = [(f"{where}: configs", config) for config in sweep.configs]
    for key, parameter in sweep.space.parameters.items():
        values = parameter.values() if parameter.type == "config" else []
        named += [(f"{where}: space: {key}", name) for value in values for name in parameter.configs(value)]
    for place, config in named:
        try:
            find_config(config)
        except PocketError as error:
            raise PocketError(f"{place}: {str(error).removeprefix('--config ')}") from None


def _check_objectives(sweep: Sweep, where: str) -> None:
    if not sweep.objectives:
        raise PocketError(f"{where}: objectives is empty; give at least one, with metric and direction.")
    for index, objective in enumerate(sweep.objectives):
        place = f"{where}: objectives[{index}]"
        if objective.direction not in get_args(Direction):
            raise PocketError(f"{place}: direction is {objective.direction!r}, expected maximize or minimize.")
        check_metric(objective.metric, place)
    wanted = [*(entry.metric for entry in sweep.objectives), *sweep.metrics]
    unmade = [metric for metric in wanted if metric.startswith(PREFIX) and not sweep.shrink]
    if unmade:
        raise PocketError(
            f"{where}: {unmade[0]} is of shrunk networks, which the study does not make; set shrink: true."
        )
    if len({entry.metric for entry in sweep.objectives}) < len(sweep.objectives):
        raise PocketError(f"{where}: objectives names a metric twice.")
    for metric in sweep.metrics:
        check_metric(metric, f"{where}: metrics")


def _check_numbers(sweep: Sweep, where: str) -> None:
    if sweep.trials is not None and sweep.trials < 1:
        raise PocketError(f"{where}: trials is {sweep.trials}, expected at least 1.")
    if sweep.time_limit is not None and sweep.time_limit <= 0:
        raise PocketError(f"{where}: time_limit is {sweep.time_limit}, expected seconds above 0.")
    for key, numbers, least in (("seeds", sweep.seeds, 1), ("folds", sweep.folds, 0)):
        wrong = any(type(number) is not int or number < 0 for number in numbers)
        if wrong or len(set(numbers)) < len(numbers) or len(numbers) < least:
            raise PocketError(f"{where}: {key} is {numbers}, expected whole numbers from 0, each once.")


def _check_options(sweep: Sweep, where: str) -> None:
    """Refuse options that two places give, or that the study sets itself."""
    ours = ("run_dir", "fresh", "seed_everything", *(["data.init_args.split.fold"] if sweep.folds else []))
    for name in (*sweep.options, *sweep.space.set_options):
        if name in ours:
            raise PocketError(f"{where}: {name} is set for each run by the study; leave it out.")
    for name in sweep.options:
        if name in sweep.space.set_options:
            raise PocketError(f"{where}: {name} is in options and in space; leave one out.")
    for name in sweep.space.parameters:
        if name in (*STATE, *WHEN, *sweep.measured):
            raise PocketError(f"{where}: space: {name}: trials.csv has another column of this name; take another one.")


def _check_published(sweep: Sweep, where: str) -> None:
    allowed = [PARAMETERS, *(key for m in METRICS for key in (m, f"{m.removesuffix('_mm')}_median"))]
    for index, row in enumerate(sweep.published):
        place = f"{where}: published[{index}]"
        for name, value in row.point.items():
            if name not in sweep.space.parameters:
                raise PocketError(f"{place}: point: there is no {name!r}.{suggest(name, list(sweep.space.parameters))}")
            parameter = sweep.space.parameters[name]
            if parameter.choices and value not in parameter.values():
                values = ", ".join(map(str, parameter.values()))
                raise PocketError(f"{place}: point: {name} is {value!r}, which is none of its values {values}.")
        for key, value in row.values.items():
            if key not in allowed:
                raise PocketError(f"{place}: values has no {key!r}.{suggest(key, allowed)}")
            if Row("", published={key: value}).mean(key) is None:
                raise PocketError(f"{place}: {key} is {value!r}, expected a number, or mean ± deviation as text.")
