"""CamVid, street scenes from a car (Brostow et al., Pattern Recognition Letters 2009)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from .base import IGNORE
from .images import ImageCase, is_picture, picture_stem
from .masks import MaskLayout

_SPLITS = ("train", "val", "test")
#: The eleven classes that are scored (Badrinarayanan et al., SegNet, TPAMI 2017), and the original classes and colours
#: that are usually merged into each.
_COLOURS = {
    "sky": {"Sky": 0x808080},
    "building": {
        "Building": 0x800000,
        "Archway": 0xC00080,
        "Bridge": 0x008040,
        "Tunnel": 0x400040,
        "Wall": 0x40C000,
    },
    "pole": {"Column_Pole": 0xC0C080, "TrafficCone": 0x000040},
    "road": {"Road": 0x804080, "LaneMkgsDriv": 0x8000C0, "LaneMkgsNonDriv": 0xC00040},
    "pavement": {"Sidewalk": 0x0000C0, "ParkingBlock": 0x40C080, "RoadShoulder": 0x8080C0},
    "tree": {"Tree": 0x808000, "VegetationMisc": 0xC0C000},
    "sign": {"SignSymbol": 0xC08080, "Misc_Text": 0x808040, "TrafficLight": 0x004040},
    "fence": {"Fence": 0x404080},
    "car": {
        "Car": 0x400080,
        "SUVPickupTruck": 0x4080C0,
        "Truck_Bus": 0xC080C0,
        "Train": 0xC04080,
        "OtherMoving": 0x804040,
    },
    "pedestrian": {"Pedestrian": 0x404000, "Child": 0xC08040, "CartLuggagePram": 0x4000C0, "Animal": 0x408040},
    "bicyclist": {"Bicyclist": 0x0080C0, "MotorcycleScooter": 0xC000C0},
}
_VOID = 0x000000
_RELEASE = ("701_StillsRaw_full", "LabeledApproved_full")
_LABEL_END = "_L"
_FRAME = re.compile(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)")
_FIRST_TESTED = 8550  # frame of sequence 0001TP
_VALIDATES = range(7959, 8160)  # frames of sequence 0016E5


class CamVid(MaskLayout):
    """CamVid with 11 classes, as SegNet's copy or as colours.

    SegNet's copy has images in ``train/``, ``val/`` and ``test/``, and beside them ``trainannot/`` and so on with the
    values 0 to 10, and 11 where nobody labelled. The release has ``701_StillsRaw_full/NAME.png`` and
    ``LabeledApproved_full/NAME_L.png``, whose 32 colours become the 11 classes; frames get the split of SegNet's copy
    by their names. Colours may also be in ``train_labels/`` and so on. There is no background: the first class, sky,
    takes its place in the per-case scores.
    """

    name = "camvid"
    expects = f"train/ and trainannot/, or {_RELEASE[0]}/NAME.png and {_RELEASE[1]}/NAME{_LABEL_END}.png"

    def __init__(self, root: Path) -> None:
        found = _form(root)
        self.coloured, self._folders = found if found else (False, [])
        super().__init__(root, (case for part in self._folders for case in _read(*part, self.coloured)))
        self.labels = _colours() if self.coloured else dict(enumerate((*_COLOURS, IGNORE)))

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return _form(root) is not None

    @override
    def unlisted(self) -> list[Path]:
        listed = {file for case in self._cases for file in case.files}
        folders = [folder for part in self._folders for folder in part[1:]]
        return [file for folder in folders for file in _pictures(folder) if file not in listed]


def _form(root: Path) -> tuple[bool, list[tuple[str | None, Path, Path]]] | None:
    """Return whether labels are colours, and split, folder of images and folder of labels of each part."""
    for coloured, ending in ((False, "annot"), (True, "_labels")):
        pairs: list[tuple[str | None, Path, Path]] = [(name, root / name, root / f"{name}{ending}") for name in _SPLITS]
        there = [pair for pair in pairs if pair[1].is_dir() and pair[2].is_dir()]
        names = {picture_stem(file) for _, _, folder in there for file in _pictures(folder)}
        # In folders of the second kind any data set may be, but few call its labels so.
        if names and (not coloured or all(name.endswith(_LABEL_END) for name in names)):
            return coloured, there
    images, labels = (root / name for name in _RELEASE)
    return (True, [(None, images, labels)]) if images.is_dir() and labels.is_dir() else None


def _read(split: str | None, images: Path, labels: Path, coloured: bool) -> Iterator[ImageCase]:
    ending = _LABEL_END if coloured else ""
    masks = {picture_stem(file).removesuffix(ending): file for file in _pictures(labels)}
    for file in _pictures(images):
        name = picture_stem(file)
        own = (masks[name],) if name in masks else ()
        yield ImageCase(name, (file,), None, split=split or split_of(name), masks=own)


def split_of(name: str) -> str | None:
    """Return where SegNet's copy has a frame; None for names of other sequences."""
    match = _FRAME.fullmatch(name)
    if match is None:
        return None
    sequence, frame = match[1], int(match[2])
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= _FIRST_TESTED):
        return "test"
    return "val" if sequence == "0016E5" and frame in _VALIDATES else "train"


def _colours() -> dict[int, str]:
    return {colour: name for name, own in _COLOURS.items() for colour in own.values()} | {_VOID: IGNORE}


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_picture(file))
