"""Raw data sets, one layout per file; every layout named in ``__all__`` can be chosen."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.data.folds import IMAGE_SUFFIXES
from lightning_pocket.errors import PocketError

from .base import Case, Layout
from .brats2020 import BraTS2020
from .busi import BUSI
from .cifar import Cifar
from .covidx import Covidx
from .decathlon import Decathlon
from .digits import DIGITS, Digits, bundled_digits
from .hc18 import HC18
from .image_folders import ImageFolders
from .image_masks import ImageMasks
from .image_table import ImageTable
from .lits import LiTS
from .mask_table import MaskTable
from .medmnist import MedMNIST
from .mnist import MNIST
from .nfbs import NFBS
from .nnunet import NNUNet
from .table import Table

# Layouts are tried in this order: nnU-Net's version 1 also has the list `training` of the Decathlon, any CSV file is a
# Table, images with masks may be in folders of classes, and folders of images may be any other layout.
__all__ = [  # noqa: RUF022
    "NNUNet",
    "Decathlon",
    "MaskTable",
    "ImageTable",
    "Table",
    "LiTS",
    "NFBS",
    "BraTS2020",
    "Covidx",
    "MedMNIST",
    "MNIST",
    "Cifar",
    "Digits",
    "HC18",
    "BUSI",
    "ImageMasks",
    "ImageFolders",
    "Case",
    "Layout",
    "find_layout",
]


def layouts() -> dict[str, type[Layout]]:
    """Return every layout by its name, in the order in which they are tried."""
    found = [globals()[name] for name in __all__]
    return {kind.name: kind for kind in found if isinstance(kind, type) and issubclass(kind, Layout) and kind != Layout}


def find_layout(path: str | Path, layout: str = "auto", keep_faulty: bool = False) -> Layout:
    """Open a raw data set.

    Args:
        path: Folder of the data set, or its file; ``digits`` is the one that scikit-learn brings along.
        layout: Name of the layout, or "auto" to find the one that matches.
        keep_faulty: Return a data set whose tables have faulty lines too, for a caller that looks at ``line_faults``.

    Returns:
        The data set.

    Raises:
        PocketError: If the path does not exist, holds no images, or no layout matches; if a line of a table is wrong.
    """
    path = _bundled(Path(path))
    known = layouts()
    if layout not in known and layout != "auto":
        raise PocketError(f"layout: is '{layout}', expected auto or one of {', '.join(known)}.")
    if not path.exists():
        raise PocketError(f"{path}: no such file or folder; give the folder of the data set or its CSV file.")
    kind = known.get(layout) or next((kind for kind in known.values() if kind.matches(path)), None)
    if kind is None and path.is_dir() and not _holds_images(path):
        raise PocketError(f"{path}: no images in this folder or below it; give the folder of the data set.")
    if kind is None:
        raise PocketError(
            f"{path}: no known layout of a data set ({', '.join(known)}). Name one with --layout to see what it "
            "expects, or list the files in a CSV table."
        )
    if layout != "auto" and not kind.matches(path):
        raise PocketError(f"{path}: not a data set of layout {kind.name}; expected {kind.expects}.")
    found = kind(path)
    if found.line_faults and not (keep_faulty and found.cases()):
        raise found.line_faults[0].to_error()
    if not found.cases():
        raise PocketError(f"{path}: a data set of layout {found.name} without images; expected {found.expects}.")
    return found


def _bundled(path: Path) -> Path:
    """Return the file that a name stands for, where nothing on the disk is called so."""
    return bundled_digits() if str(path) == DIGITS and not path.exists() else path


def _holds_images(folder: Path) -> bool:
    return any(path.name.lower().endswith((*IMAGE_SUFFIXES, ".dcm", ".csv")) for path in folder.rglob("*"))
