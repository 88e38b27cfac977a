"""Profiles as YAML files: networks in several variants, batches and patches, and numbers that were published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder, find_config
from lightning_pocket.studies.yaml_fields import checked_fields

from .plan import Candidate, Grid, Plan, Size

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Architecture:
    """A network of a file, before its variants."""

    configs: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    published: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class _OnCpu:
    """What is measured where there is no GPU."""

    patches: list[list[int]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    skip: bool = False


@dataclass(frozen=True)
class _Group:
    """A grid of a file."""

    title: str
    networks: dict[str, Any]
    patches: list[list[int]]
    batches: list[int]
    options: dict[str, Any] = field(default_factory=dict)
    cpu: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """The keys of a file."""

    title: str
    variants: dict[str, list[str]]
    groups: list[Any]
    source: str = ""
    notes: list[str] = field(default_factory=list)
    published: dict[str, list[float]] = field(default_factory=dict)
    in_channels: int = 1
    classes: int = 2
    measure: bool = False
    images_per_epoch: int = 0


def is_plan(name: str) -> bool:
    """Return whether a name means a file of a profile, rather than configs or a run."""
    path = Path(name)
    if path.is_file() and path.suffix in {".yaml", ".yml"}:
        content = _load(path)
        return isinstance(content, dict) and "groups" in content
    return not path.exists() and (configs_folder() / "profiles" / f"{name.removesuffix('.yaml')}.yaml").is_file()


def read_plan(name: str) -> Plan:
    """Read a profile.

    Args:
        name: YAML file, or the name of one in ``configs/profiles``.

    Raises:
        PocketError: If there is no such file, or it is not as expected.
    """
    path = find_config(name, ("profiles",))
    file = _File(**checked_fields(_load(path), _File, str(path)))
    grids = [_read_group(content, file, f"{path}: groups[{index}]") for index, content in enumerate(file.groups)]
    if not grids or not file.variants:
        raise PocketError(f"{path}: {'groups' if file.variants else 'variants'} is empty; give at least one.")
    return Plan(
        file.title,
        tuple(grids),
        file.source,
        tuple(file.notes),
        {key: _range(value, f"{path}: published.{key}") for key, value in file.published.items()},
        file.in_channels,
        file.classes,
        file.measure,
        file.images_per_epoch,
    )


def _read_group(content: Any, file: _File, where: str) -> Grid:
    group = _Group(**checked_fields(content, _Group, where))
    candidates = []
    for name, entry in group.networks.items():
        network = _Architecture(**checked_fields(entry, _Architecture, f"{where}: networks.{name}"))
        for variant, presets in file.variants.items():
            configs = [f"--config={find_config(config)}" for config in (*network.configs, *presets)]
            options = [f"--{key}={_dump(value)}" for key, value in (group.options | network.options).items()]
            published = network.published.get(variant, {})
            candidates.append(Candidate(name, variant, (*configs, *options), published=published))
    cpu = _OnCpu(**checked_fields(group.cpu, _OnCpu, f"{where}: cpu"))
    return Grid(
        group.title,
        tuple(candidates),
        _counts(group.batches, f"{where}: batches"),
        _sizes(group.patches, f"{where}: patches"),
        _counts(cpu.batches, f"{where}: cpu.batches"),
        _sizes(cpu.patches, f"{where}: cpu.patches"),
        cpu.skip,
    )


def _sizes(values: Sequence[Any], where: str) -> tuple[Size, ...]:
    for value in values:
        if not isinstance(value, list) or not all(isinstance(size, int) and size > 0 for size in value):
            raise PocketError(f"{where}: has {value!r}, expected a list of voxels along each axis.")
    return tuple(tuple(value) for value in values)


def _counts(values: Sequence[Any], where: str) -> tuple[int, ...]:
    for value in values:
        if not isinstance(value, int) or value < 1:
            raise PocketError(f"{where}: has {value!r}, expected positive numbers.")
    return tuple(values)


def _range(values: Sequence[float], where: str) -> tuple[float, float]:
    if len(values) != 2:
        raise PocketError(f"{where}: is {values}, expected the lowest and the highest number.")
    return values[0], values[1]


def _dump(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _load(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise PocketError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
