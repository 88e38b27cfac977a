"""Cityscapes, street scenes with fine labels (Cordts et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from .base import IGNORE
from .images import ImageCase
from .masks import MaskLayout

_IMAGES, _LABELS = "leftImg8bit", "gtFine"
_IMAGE_END, _LABEL_END = "_leftImg8bit.png", "_gtFine_labelIds.png"
#: The labels of the official test images are not public: those of validation test.
_SPLITS = {"train": "train", "val": "test"}
#: Ids of the 19 classes that are trained and scored, in the order of their train ids.
_CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
_MOST_ID = 33


class Cityscapes(MaskLayout):
    """``leftImg8bit/train/CITY/NAME_leftImg8bit.png`` and ``gtFine/train/CITY/NAME_gtFine_labelIds.png``, also ``val``.

    The ids of the labels become the 19 train ids; all others do not count. The official validation images test, since
    the labels of the test images are not public; validation images are to be drawn from those of training, and a city
    never parts. There is no background: the first class, road, takes its place in the per-case scores.
    """

    name = "cityscapes"
    expects = f"{_IMAGES}/train/CITY/NAME{_IMAGE_END} and {_LABELS}/train/CITY/NAME{_LABEL_END}"

    def __init__(self, root: Path) -> None:
        super().__init__(root, _read(root))
        self.labels = _CLASSES | dict.fromkeys(sorted(set(range(_MOST_ID + 1)) - set(_CLASSES)), IGNORE)

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return (root / _LABELS).is_dir() and any((root / _IMAGES).glob(f"*/*/*{_IMAGE_END}"))

    @override
    def unlisted(self) -> list[Path]:
        """Return the labels without an image; images without labels are found when they are read."""
        known = {mask for case in self._cases for mask in case.masks}
        files = (file for split in _SPLITS for file in sorted((self.root / _LABELS / split).glob(f"*/*{_LABEL_END}")))
        return [file for file in files if file not in known]


def _read(root: Path) -> Iterator[ImageCase]:
    for folder, split in _SPLITS.items():
        for file in sorted((root / _IMAGES / folder).glob(f"*/*{_IMAGE_END}")):
            name, city = file.name.removesuffix(_IMAGE_END), file.parent.name
            mask = root / _LABELS / folder / city / f"{name}{_LABEL_END}"
            yield ImageCase(name, (file,), None, split=split, group=city, masks=(mask,))
