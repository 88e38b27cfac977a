"""Find out what the values of the masks of 2D images mean where nobody says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import ImageError
from lightning_pocket.errors import PocketError

from .coding import BACKGROUND, MaskCoding
from .masks import read_raw_mask

#: Most values that are taken for classes: a photograph has hundreds.
_MOST_CLASSES = 32
#: Grey values that reach one of these may be two values with smoothed edges.
_BYTE, _WORD = 255, 65535
#: Smoothing gives more grey values than this, but for weak compression, which leaves no classes apart either.
_FEW, _LOSSY = 8, (".jpg", ".jpeg")
#: Smoothed edges have at most this many pixels for one that is marked: inside areas of one grey value, and of all.
_MOST_SOLID, _MOST_BETWEEN = 0.05, 2.0
_MOST_SHOWN = 5
_COLOURS, _VALUES = "background=#000000,NAME=#RRGGBB", "background=0,NAME=VALUE"


@dataclass(frozen=True)
class MaskValues:
    """What the values of one mask are.

    Args:
        path: The file.
        kind: See ``RawMask``.
        counts: Number of pixels of each value.
        solid: The same of pixels whose eight neighbours have the same value.
    """

    path: Path
    kind: str
    counts: dict[int, int]
    solid: dict[int, int] = field(default_factory=dict)

    def without(self, value: int) -> MaskValues:
        """Return the same without the pixels of a value."""
        kept = [{own: count for own, count in counts.items() if own != value} for counts in (self.counts, self.solid)]
        return MaskValues(self.path, self.kind, kept[0], kept[1])


def mask_values(path: Path) -> MaskValues:
    """Return the values of a mask.

    Raises:
        ImageError: If it cannot be read, or has values that are no whole numbers from 0.
    """
    raw = read_raw_mask(path)
    pixels = raw.pixels
    centre = pixels[1:-1, 1:-1]
    alike = np.ones(centre.shape, bool)
    for row in range(3):
        for column in range(3):
            alike &= pixels[row : row + centre.shape[0], column : column + centre.shape[1]] == centre
    return MaskValues(path, raw.kind, _count(pixels), _count(centre[alike]))


def find_coding(
    found: Sequence[MaskValues], foreground: str, names: tuple[str, str] | None = None, ignored: int | None = None
) -> MaskCoding:
    """Find out what the values of masks mean.

    One value beside 0 is a class. Grey values up to 255 or 65535 are taken for a mask of two values with smoothed edges
    if there are many of them and few pixels have them, hardly any inside an area of one value. Other grey values, and
    indices of a palette, are a class each, and so are colours, of which black is the background.

    Args:
        found: Values of each mask.
        foreground: Name of what masks of two values mark, where nobody says.
        names: Background and the class of masks of two values, if the user names them.
        ignored: Value of pixels that do not count; it is no class.

    Raises:
        ImageError: If that is not possible; it names the mask that shows it best.
        PocketError: If two classes are named and the masks have others.
    """
    if any(one.kind == "colours" for one in found):
        return _refuse_names(_find_colours(found), names)
    found = found if ignored is None else [one.without(ignored) for one in found]
    values = sorted({value for one in found for value in one.counts} | {0})
    grey = all(one.kind == "grey" for one in found) and values[-1] in (_BYTE, _WORD)
    if len(values) > 2 and grey:
        _refuse_classes(found, values[-1], names is not None)
    if len(values) < 3 or grey:
        background, marked = names or (BACKGROUND, foreground)
        return MaskCoding("threshold", {0: background, values[-1] or _BYTE: marked})
    _refuse_many(found, len(values), "values", _VALUES)
    labels = {value: f"label_{value}" if value else BACKGROUND for value in values}
    return _refuse_names(MaskCoding("values", labels), names)


def _count(values: np.ndarray) -> dict[int, int]:
    if values.dtype == np.uint8:  # needs no sorting
        counts = np.bincount(values.ravel(), minlength=1)
        return {value: int(counts[value]) for value in np.flatnonzero(counts).tolist()}
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _find_colours(found: Sequence[MaskValues]) -> MaskCoding:
    palette = next((one.path for one in found if one.kind == "palette"), None)
    if palette is not None:
        remedy = f"declare the classes by colour, --classes {_COLOURS}"
        raise ImageError(palette, "some masks are in colours and others, such as this one, have a palette", remedy)
    # A grey value stands for a colour too.
    every = {0} | {value * (1 if one.kind == "colours" else 0x10101) for one in found for value in one.counts}
    _refuse_many(found, len(every), "colours", _COLOURS)
    return MaskCoding("colours", {value: f"#{value:06x}" if value else BACKGROUND for value in sorted(every)})


def _refuse_classes(found: Sequence[MaskValues], highest: int, named: bool) -> None:
    """Refuse grey masks of which two values and smoothed edges would be a wrong guess.

    Args:
        found: Values of each mask.
        highest: The largest of all masks.
        named: Whether the user says that there are two classes.

    Raises:
        ImageError: If the values between may be classes.
    """
    reaching = [one for one in found if max(one.counts, default=0) >= highest / 2]  # the others are faulty
    between = {one.path: sorted(set(one.counts) - {0, highest}) for one in reaching}
    exact = [one for one in reaching if one.path.suffix.lower() not in _LOSSY]
    values = sorted({value for one in exact for value in between[one.path]})
    if 0 < len(values) <= _FEW:
        path = max(exact, key=lambda one: len(between[one.path])).path
        remedy = f"declare all with --classes {_VALUES}, one class as NAME=VALUE+VALUE, what does not count as ignore"
        raise ImageError(path, f"{_hold(values, highest)}, too few for smoothed edges", remedy)
    marked = sum(count for one in reaching for value, count in one.counts.items() if value >= highest / 2)
    for most, what in ((_MOST_SOLID, "solid"), (_MOST_BETWEEN, "counts")):
        pixels = {one.path: sum(getattr(one, what).get(value, 0) for value in between[one.path]) for one in reaching}
        if sum(pixels.values()) > most * marked and not named:
            path = max(pixels, key=lambda path: pixels[path])
            remedy = f"declare the classes with --classes {_VALUES}, or cut all at half with --classes background,NAME"
            raise ImageError(path, f"{_hold(between[path], highest)}, too many pixels for smoothed edges", remedy)


def _hold(values: Sequence[int], highest: int) -> str:
    listed = ", ".join(map(str, values[:_MOST_SHOWN])) + (", ..." if len(values) > _MOST_SHOWN else "")
    return f"masks such as this one hold {listed} between 0 and {highest}"


def _refuse_many(found: Sequence[MaskValues], number: int, what: str, example: str) -> None:
    if number > _MOST_CLASSES:
        most = max(found, key=lambda one: len(one.counts))  # the first of several
        finding = f"the masks have {number:,}, this one {len(most.counts):,} different {what}"
        raise ImageError(most.path, finding, f"declare the classes with --classes {example}")


def _refuse_names(coding: MaskCoding, names: tuple[str, str] | None) -> MaskCoding:
    """Refuse two names for more classes, or for colours."""
    if names is not None:
        raise PocketError(
            f"classes: {','.join(names)} names two classes, but the masks have {len(coding.classes)} "
            f"({', '.join(map(coding.show, coding.label_values))}); declare each as NAME=VALUE."
        )
    return coding
