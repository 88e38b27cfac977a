"""What a profile compares: networks, batches and patches; and how the command line names them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder, find_config

Size = tuple[int, ...]
_SIZE = re.compile(r"\d+(x\d+)+")


@dataclass(frozen=True)
class Candidate:
    """A network that is profiled.

    Args:
        name: Its architecture, or nothing; networks of one name are compared with each other.
        variant: What tells it from the others of that name; the first variant is what they are compared with.
        options: Options of `pocket fit` that describe it.
        run: Folder of a run, or a checkpoint, instead of options.
        published: Numbers that were published for it, by the column that they stand beside.
    """

    name: str
    variant: str
    options: tuple[str, ...] = ()
    run: Path | None = None
    published: Mapping[str, float] = field(default_factory=dict, compare=False)

    @property
    def label(self) -> str:
        """What readers call it."""
        return f"{self.name} {self.variant}".strip()


@dataclass(frozen=True)
class Grid:
    """Networks, each with every batch and patch.

    Args:
        title: What they have in common.
        candidates: The networks.
        batches: Patches or images per step; none for what the settings of each say.
        patches: Voxels along each spatial axis; none for what the settings of each say.
        cpu_batches: What is measured instead where there is no GPU; none for the same.
        cpu_patches: What is measured instead where there is no GPU; none for the same.
        cpu_skip: Nothing is measured where there is no GPU.
    """

    title: str
    candidates: tuple[Candidate, ...]
    batches: tuple[int, ...] = ()
    patches: tuple[Size, ...] = ()
    cpu_batches: tuple[int, ...] = ()
    cpu_patches: tuple[Size, ...] = ()
    cpu_skip: bool = False


@dataclass(frozen=True)
class Plan:
    """Everything that one profile compares.

    Args:
        title: Heading.
        grids: What is computed.
        source: Where published numbers are from.
        notes: What a reader must know to compare ours with them.
        published: Lowest and highest saving in percent that was published, by column.
        in_channels: Channels of the images; None for what the data say.
        num_classes: Classes, background included; None for what the data say.
        images_per_epoch: Images of an epoch, so that its time is shown; 0 for none.
        measure: Whether to measure unless told otherwise, and not only to predict.
    """

    title: str
    grids: tuple[Grid, ...]
    source: str = ""
    notes: tuple[str, ...] = ()
    published: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    in_channels: int | None = None
    num_classes: int | None = None
    measure: bool = False
    images_per_epoch: int = 0


def parse_batches(text: str) -> tuple[int, ...]:
    """Read ``1,4,8``.

    Raises:
        PocketError: If it is something else.
    """
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise PocketError(f"--batch {text}: expected positive numbers separated by commas, such as 1,4,8.")
    return tuple(int(word) for word in words)


def parse_patches(text: str) -> tuple[Size, ...]:
    """Read ``32x32x32,64x64x64``.

    Raises:
        PocketError: If it is something else.
    """
    words = [word.strip().lower() for word in text.split(",")]
    if not all(_SIZE.fullmatch(word) and "0" not in word.split("x") for word in words):
        raise PocketError(
            f"--patch {text}: expected sizes in voxels separated by commas, such as 32x32x32,64x64x64 or 256x256."
        )
    return tuple(tuple(int(part) for part in word.split("x")) for word in words)


def parse_targets(texts: Sequence[str], more: Sequence[str]) -> tuple[Candidate, ...]:
    """Read networks of the command line; configs that all begin with are left out of their names.

    Args:
        texts: See :func:`parse_target`.
        more: Options of `pocket fit` on top of configs.

    Raises:
        PocketError: If there is nothing of a name, or two networks have the same.
    """
    candidates = [parse_target(text, more) for text in texts]
    words = [candidate.variant.split("+") for candidate in candidates]
    shared = 0
    while all(len(parts) > shared + 1 and parts[shared] == words[0][shared] for parts in words):
        shared += 1
    if len(candidates) > 1 and not any("=" in text for text in texts):
        short = ["+".join(parts[shared:]) for parts in words]
        candidates = [replace(candidate, variant=name) for candidate, name in zip(candidates, short, strict=True)]
    names = [candidate.variant for candidate in candidates]
    if len(set(names)) < len(names):
        raise PocketError(f"{', '.join(names)}: two networks have one name. Give names, as in a=runs/x b=runs/y.")
    return tuple(candidates)


def parse_target(text: str, more: Sequence[str]) -> Candidate:
    """Read what the command line calls a network: configs, a run or a checkpoint, with or without a name.

    Args:
        text: ``segment_volumes,pocket``, ``runs/pocket``, ``last.ckpt``, or one of them after ``NAME=``.
        more: Options of `pocket fit` on top of configs.

    Raises:
        PocketError: If there is nothing of this name.
    """
    name, separator, rest = text.partition("=")
    source = rest if separator else text
    path = Path(source)
    if (path / "dataset.json").is_file() and not (path / "config.yaml").is_file():
        raise PocketError(f"{source}: is prepared data, no network. Name configs, and give it as --cache {source}.")
    if path.is_dir() or path.suffix == ".ckpt":
        return Candidate("", name if separator else path.name, run=path)
    configs = [word for word in re.split(r"[,+]", source) if word]
    files = [find_config(config, ("experiments", "presets", "profiles")) for config in configs]
    if all(file.is_relative_to(configs_folder() / "presets") for file in files):
        raise PocketError(
            f"{text}: names no network, only what changes one. Add an experiment: segment_volumes,{source}."
        )
    found = [f"--config={file}" for file in files]
    return Candidate("", name if separator else "+".join(Path(config).stem for config in configs), (*found, *more))
