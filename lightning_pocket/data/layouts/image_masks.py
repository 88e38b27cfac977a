"""2D images in folders, and their masks beside them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from typing_extensions import override

from .images import ImageCase, is_picture, picture_stem
from .masks import MaskLayout

_IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask", "labels", "label", "annotations", "annotation", "segmentations", "segmentation")
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: What the name of a mask may add to that of its image; a number tells several masks of one image apart.
_SUFFIX = re.compile(r"(.+?)[_-](?:mask|label|seg|segmentation|annotation)(?:[_-]?\d+)?", re.IGNORECASE)


class ImageMasks(MaskLayout):
    """``images/NAME.png`` and ``masks/NAME.png``, or ``NAME.png`` and ``NAME_mask.png`` in one folder.

    Both may be inside ``train/``, ``val/`` and ``test/``. In a folder of masks the suffix ``_mask`` is allowed too, and
    several masks of an image are called ``NAME_mask.png``, ``NAME_mask_1.png`` and so on. A table ``index.csv`` beside
    the folders, with the column ``subject`` or ``file``, may add ``group``, ``fold``, ``split``, ``class`` and
    ``pixel_mm``. An image is called after its file, without the suffix.
    """

    name = "image_masks"
    expects = "images/NAME.png with masks/NAME.png, or NAME.png with NAME_mask.png, perhaps in train/, val/ and test/"

    def __init__(self, root: Path) -> None:
        parts = _parts(root)
        self._folders = [folder for _, part in parts for folder in _folders(part)]
        beside = [*(folder for _, folder in parts), *self._folders]
        super().__init__(root, (case for split, folder in parts for case in _read(folder, split)), beside)

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return root.is_dir() and any(_matches(folder) for _, folder in _parts(root))

    @override
    def unlisted(self) -> list[Path]:
        listed = {file for case in self._cases for file in case.files}
        files = (file for folder in self._folders for file in _pictures(folder))
        return [file for file in files if file not in listed]


def split_suffix(name: str) -> str | None:
    """Return the name of the image that a mask called ``NAME_mask`` or ``NAME_mask_1`` belongs to, None for others."""
    match = _SUFFIX.fullmatch(name)
    return match[1] if match else None


def images_among(files: Sequence[Path]) -> list[Path]:
    """Return the images in a folder in which masks may lie beside them.

    What is called like a mask is none of them, even where the image that it belongs to is missing, unless it has a mask
    of its own.
    """
    owners = {split_suffix(picture_stem(file)) for file in files}
    return [file for file in files if split_suffix(picture_stem(file)) is None or picture_stem(file) in owners]


def orphan_masks(files: Sequence[Path]) -> list[Path]:
    """Return the files of a folder that are called like masks of images that are not in it."""
    images = images_among(files)
    names = {picture_stem(file) for file in images}
    return [file for file in sorted(set(files) - set(images)) if split_suffix(picture_stem(file)) not in names]


def _parts(root: Path) -> list[tuple[str | None, Path]]:
    """Return the folders that hold the data, each with its split."""
    below = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    found = [(_SPLITS[folder.name.lower()], folder) for folder in below if folder.name.lower() in _SPLITS]
    return [*found] or [(None, root)]


def _pair(folder: Path) -> tuple[Path, Path] | None:
    """Return the folders of images and of masks inside a folder."""
    below = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    images = next((below[name] for name in _IMAGES if name in below), None)
    masks = next((below[name] for name in _MASKS if name in below), None)
    return (images, masks) if images and masks else None


def _folders(part: Path) -> list[Path]:
    pair = _pair(part)
    return [part] if pair is None else list(pair)


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if is_picture(file))


def _matches(folder: Path) -> bool:
    pair = _pair(folder)
    if pair is not None:
        return any(is_picture(file) for file in pair[0].iterdir())
    names = {picture_stem(file) for file in _pictures(folder)}
    return any(split_suffix(name) in names for name in names)


def _read(folder: Path, split: str | None) -> Iterator[ImageCase]:
    pair = _pair(folder)
    if pair is None:
        files = _pictures(folder)
        images = images_among(files)
        masks = sorted(set(files) - set(images))
    else:
        images, masks = _pictures(pair[0]), _pictures(pair[1])
    names = {picture_stem(file) for file in images}
    masks_of: dict[str, list[Path]] = {}
    for mask in masks:
        name = picture_stem(mask)
        owner = name if name in names else split_suffix(name)  # an image may itself be called NAME_seg_1
        if owner is not None:
            masks_of.setdefault(owner, []).append(mask)
    for file in images:
        name = picture_stem(file)
        yield ImageCase(name, (file,), None, split=split, masks=tuple(masks_of.get(name, ())))
