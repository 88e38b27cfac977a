"""What the layouts of 2D images share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .base import Case, Layout

IMAGE_2D_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
#: DICOM files may also be the slices of a volume: only where masks lie beside them are they 2D images by their name.
DICOM_SUFFIX = ".dcm"


@dataclass(frozen=True)
class ImageCase(Case):
    """One 2D image of known class, or with masks of its parts.

    Args:
        class_name: Name of its class; in a data set of masks it may be blank, and only keeps the classes balanced.
        member: Name of an array in the file and row of the image in it, where one file holds many images.
        unpacked: ``.npy`` file with that array, where it was unpacked.
        masks: Files of its masks, which are merged; none where the data set has none for it.
        pixel_mm: Height and width of a pixel in mm; None where the data set does not tell.
    """

    class_name: str = ""
    member: tuple[str, int] | None = None
    unpacked: Path | None = None
    masks: tuple[Path, ...] = ()
    pixel_mm: tuple[float, float] | None = None

    @property
    def file(self) -> Path:
        """The file that holds the image."""
        return self.images[0]

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file of the case, the image first."""
        return (self.file, *self.masks)


class ImageLayout(Layout):
    """A data set of 2D images, each of one class, or with masks (see ``layouts.masks``).

    Attributes:
        class_names: Names of the classes; the index is the target.
        size: Rows and columns that every image has; None where they differ.
        masked: Whether the images have masks rather than classes.
        table: The table of what is known of the images, if there is one.
        unread: Its columns that mean nothing.
    """

    kind: ClassVar[Literal["volumes", "images"]] = "images"
    masked: ClassVar[bool] = False
    class_names: list[str]
    size: tuple[int, int] | None = None
    table: Path | None = None
    unread: Sequence[str] = ()

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.channels = ["image"]
        self.labels = None

    @abstractmethod
    def image_cases(self) -> list[ImageCase]:
        """Return every image that the data set names; its file may be missing."""

    @override
    def cases(self) -> list[Case]:
        return list(self.image_cases())

    def choose_classes(self, names: Sequence[str]) -> None:
        """Set the order of the classes, and thereby their indices.

        Args:
            names: Every class of the data set, and perhaps more.

        Raises:
            PocketError: If one is missing.
        """
        missing = [name for name in self.class_names if name not in names]
        if missing:
            raise PocketError(
                f"classes: '{','.join(names)}' lacks {', '.join(map(repr, missing))}, which {self.root} has; name all "
                f"of {','.join(self.class_names)} in the order you want."
            )
        self.class_names = list(names)


def renamed_classes(root: Path, class_names: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return names for classes that the data set only numbers.

    Args:
        root: The data set.
        class_names: Its classes, in the order of their numbers.
        names: What they shall be called.

    Raises:
        PocketError: If there are more or fewer names than classes.
    """
    if len(names) != len(class_names):
        raise PocketError(
            f"classes: '{','.join(names)}' names {len(names)} classes, but {root} has {len(class_names)}; name each, "
            "in the order of the labels."
        )
    return list(names)


def parse_class_names(classes: str) -> list[str]:
    """Read the names of the classes of 2D images from one line.

    Args:
        classes: Two or more names separated by commas.

    Raises:
        PocketError: If a name is missing or repeated, or has a value.
    """
    names = [name.strip() for name in classes.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names) or "=" in classes:
        raise PocketError(
            f"classes: '{classes}'; for 2D images expected two or more different names such as negative,positive."
        )
    return names


def is_picture(path: Path) -> bool:
    """Tell whether a file is a 2D image or a DICOM file by its name; hidden files are not."""
    return path.name.lower().endswith((*IMAGE_2D_SUFFIXES, DICOM_SUFFIX)) and not path.name.startswith(".")


def picture_stem(path: Path) -> str:
    """Return the name of a file of a 2D image without its suffix."""
    return path.name[: len(path.name) - len(path.suffix)] if is_picture(path) else path.name


def is_image_file(path: Path) -> bool:
    """Tell whether a file is a 2D image by its name; hidden files are not."""
    return path.name.lower().endswith(IMAGE_2D_SUFFIXES) and not path.name.startswith(".")
