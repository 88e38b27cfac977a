"""How the pixels of a mask stand for classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lightning_pocket.data.checks import parse_label_values, refuse_late_background
from lightning_pocket.data.layouts.base import IGNORE, counted_labels, ignored_value
from lightning_pocket.data.preprocess import IGNORE_INDEX
from lightning_pocket.errors import PocketError

BACKGROUND = "background"
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_UNKNOWN = IGNORE_INDEX - 1  # class index of a value that is no class


@dataclass(frozen=True)
class MaskCoding:
    """Which value or colour of a mask stands for which class.

    Args:
        kind: ``threshold`` cuts grey values at half of the largest, into background and one class; ``values`` are
            whole numbers, one or more for each class; ``colours`` are the same as ``0xRRGGBB``.
        labels: Name of the class of each value, in the order of the classes, background first; the lowest value of a
            class is the one that predictions are written with. Of ``threshold`` these are 0 and the largest value.
            Pixels of a class called "ignore" do not count.
        outlined: Whether masks are the outlines of ellipses, to be filled.
    """

    kind: Literal["threshold", "values", "colours"]
    labels: dict[int, str]
    outlined: bool = False

    @property
    def classes(self) -> list[str]:
        """Names of the classes, background first."""
        return list(self._values)

    @property
    def label_values(self) -> list[int]:
        """Value or colour with which each class is written."""
        return [values[0] for values in self._values.values()]

    @property
    def ignore_index(self) -> int | None:
        """Class index of the pixels that do not count; None where all of them count."""
        return None if ignored_value(self.labels) is None else IGNORE_INDEX

    @property
    def threshold(self) -> float:
        """Grey value from which on ``threshold`` sees the class."""
        return max(self.labels) / 2

    def decode(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the class of each pixel.

        Args:
            pixels: ``(H, W)`` stored values, or colours as ``0xRRGGBB`` where this is of ``colours``.

        Returns:
            Class indices ``(H, W)`` uint8; and the values, each once, that are none of the declared. With ``threshold``
            they have a class all the same; otherwise they are background.
        """
        found, inverse = np.unique(pixels, return_inverse=True)
        indices = {value: index for index, values in enumerate(self._values.values()) for value in values}
        ignored = [value for value, name in self.labels.items() if name.lower() == IGNORE]
        table = np.array([indices.get(value, _UNKNOWN) for value in found.tolist()], np.uint8)
        table[np.isin(found, ignored)] = IGNORE_INDEX
        undeclared = found[table == _UNKNOWN]
        table[table == _UNKNOWN] = 0
        if self.kind == "threshold":
            table = (found >= self.threshold).astype(np.uint8)
        return table[inverse].reshape(pixels.shape), undeclared

    def encode(self, label: np.ndarray) -> np.ndarray:
        """Return the values, or colours ``0xRRGGBB``, of class indices ``(H, W)``, as int64."""
        return np.array(self.label_values, np.int64)[label]

    def show(self, value: int) -> str:
        """Return a value as a user writes it."""
        return f"#{value:06x}" if self.kind == "colours" else str(value)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for a checkpoint or JSON."""
        labels = {str(value): name for value, name in self.labels.items()}
        return {"kind": self.kind, "labels": labels, "outlined": self.outlined}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], classes: Sequence[str], where: str) -> MaskCoding:
        """Undo ``to_dict``, whatever order the labels have been stored in: JSON files are written with sorted keys.

        Args:
            data: From ``to_dict``.
            classes: Names of the classes in the order of their indices.
            where: Names the file in errors.

        Raises:
            PocketError: If the classes are not those of the labels.
        """
        labels = {int(value): name for value, name in data["labels"].items()}
        named = counted_labels(labels)
        names = list(dict.fromkeys(named.values()))
        if sorted(names) != sorted(classes):
            raise PocketError(
                f"{where}: the classes are {', '.join(classes)}, but its masks have {', '.join(names)}; run `pocket "
                "prepare` again with --fresh, and train on what it writes."
            )
        order = sorted(named, key=lambda value: (list(classes).index(named[value]), value))
        return cls(data["kind"], {value: named[value] for value in order} | labels, data["outlined"])

    @property
    def _values(self) -> dict[str, tuple[int, ...]]:
        values: dict[str, tuple[int, ...]] = {}
        for value, name in counted_labels(self.labels).items():
            values[name] = tuple(sorted((*values.get(name, ()), value)))
        return values


@dataclass(frozen=True)
class Declared:
    """What a user says of the classes.

    Args:
        coding: The whole coding, where values or colours were given.
        names: Names alone, of background and one class, for masks of two values.
    """

    coding: MaskCoding | None = None
    names: tuple[str, str] | None = None


def parse_coding(classes: str) -> Declared:
    """Read the classes of masks from one line.

    Args:
        classes: Two names such as ``background,lesion`` for masks of two values, whichever they are; or more names, for
            the values 0, 1, 2 and so on; ``NAME=VALUE`` and ``NAME=1+4`` as for volumes; or ``NAME=#RRGGBB`` for each.
            Background comes first, whatever its value: ``background=255,lesion=0`` is for inverted masks.

    Returns:
        What is declared.

    Raises:
        PocketError: If a name or value is missing, repeated or wrong.
    """
    parts = [part.strip() for part in classes.split(",")]
    if "#" in classes:
        return Declared(coding=MaskCoding("colours", _parse_colours(parts, classes)))
    labels = parse_label_values(classes)
    if len(parts) == 2 and "=" not in classes and IGNORE not in {part.lower() for part in parts}:
        return Declared(names=(parts[0], parts[1]))
    return Declared(coding=MaskCoding("values", labels))


def _parse_colours(parts: Sequence[str], classes: str) -> dict[int, str]:
    labels: dict[int, str] = {}
    for part in parts:
        name, _, given = (text.strip() for text in part.partition("="))
        colours = [colour.strip() for colour in given.split("+")]
        if not name or not all(_COLOUR.fullmatch(colour) for colour in colours):
            raise PocketError(f"classes: '{part}' in '{classes}'; expected NAME=#RRGGBB, for every class.")
        values = [int(colour[1:], 16) for colour in colours]
        if name in labels.values() or labels.keys() & set(values) or len(set(values)) < len(values):
            raise PocketError(f"classes: '{part}' in '{classes}' repeats a name or colour; use each once.")
        labels |= dict.fromkeys(values, name)
    names = list(counted_labels(labels).values())
    if len(set(names)) < 2 or len(labels) - len(names) > 1 or parts[0].lower().startswith(f"{IGNORE}="):
        raise PocketError(f"classes: '{classes}'; expected background first, at least one more class and one ignore.")
    refuse_late_background(names, classes)
    return labels
