"""Read one 2D image of a raw data set.

Transparent images are laid on black, as the background of an X-ray is; the orientation that EXIF states is applied;
palettes, CMYK and the like become RGB. Pillow keeps 16 bits of grey images, but only 8 bits of each colour. DICOM files
of one frame are images too.
"""

from __future__ import annotations

import contextlib
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_pocket.data.integrity import FINITE_VALUES, INTACT_COPY, ImageError
from lightning_pocket.data.layouts.cifar import read_cifar_images
from lightning_pocket.data.layouts.digits import DIGITS, read_digit_images
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.mnist import read_idx_images
from lightning_pocket.errors import PocketError

from .dicom import is_dicom, read_dicom

if TYPE_CHECKING:  # Pillow is imported when the first image is read
    from PIL.Image import Image

_BLOCK = 2**20  # bytes unpacked at a time
#: Readers of files with many images, by the name of the array; those of ``.npz`` files have names of their own.
_ARRAYS = {"cifar": read_cifar_images, "idx": read_idx_images, DIGITS: read_digit_images}
_ALPHA = {"LA", "La", "PA", "RGBA", "RGBa"}


@dataclass(frozen=True)
class Picture:
    """A 2D image as it is stored.

    Args:
        pixels: ``(H, W)`` for grey or ``(H, W, 3)`` for RGB.
        highest: Largest value that the file's type can hold: 255 or 65535, of DICOM that of its bits after the rescale;
            None for floats and 32-bit integers.
        pixel_mm: Height and width of a pixel in mm, of a DICOM file that tells; None for others.
    """

    pixels: np.ndarray
    highest: float | None
    pixel_mm: tuple[float, float] | None = None


def read_picture(case: ImageCase) -> Picture:
    """Read the image of a case.

    Args:
        case: Names the file; where that holds many images, :func:`unpack` has prepared the case.

    Raises:
        ImageError: If the image cannot be read, or has pixels that are NaN or infinite.
    """
    if case.member is not None and case.unpacked is not None:
        pixels = np.array(np.load(case.unpacked, mmap_mode="r", allow_pickle=False)[case.member[1]])
        picture = Picture(pixels, int(np.iinfo(pixels.dtype).max))
    else:
        picture = read_file(case.file)
    bad = picture.pixels.size - int(np.isfinite(picture.pixels).sum())
    if bad:
        raise ImageError(case.file, f"NaN or infinite pixels: {bad:,}", FINITE_VALUES)
    return picture


def read_file(path: Path) -> Picture:
    """Read an image file.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or DICOM.

    Raises:
        ImageError: If it is damaged, no image, more than one image, or has more pixels than Pillow takes as safe
            (``PIL.Image.MAX_IMAGE_PIXELS``, 89 million): a small file can be made to fill the memory.
    """
    if is_dicom(path):
        return Picture(*read_dicom(path))
    with opened(path) as image:
        return _decode(image)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image]:
    """Open an image file of one frame with Pillow; what goes wrong inside becomes an ``ImageError``.

    Args:
        path: The file.

    Raises:
        ImageError: As :func:`read_file`.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                frames = getattr(file, "n_frames", 1)
                if frames > 1 and file.format != "MPO":  # a photograph with its preview behind it
                    raise ImageError(path, f"has {frames} frames", "store each as an image of its own")
                yield file
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels"
        raise ImageError(path, limit, "store it smaller; it could exhaust the memory") from error
    except UnidentifiedImageError as error:
        raise ImageError(path, "not an image that Pillow can read", INTACT_COPY) from error
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, zlib.error) as error:  # what the readers of Pillow raise
        raise ImageError(path, f"truncated or damaged ({str(error).rstrip('.')})", INTACT_COPY) from error


def _decode(file: Image) -> Picture:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I;16"):
        return Picture(np.asarray(image).astype(np.uint16), 65535)
    if image.mode in {"I", "F"}:
        return Picture(np.array(image), None)
    if image.mode in _ALPHA or "transparency" in image.info:
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
    elif image.mode != "L":
        image = image.convert("L" if image.mode == "1" else "RGB")
    return Picture(np.array(image), 255)


def unpack(cases: Sequence[ImageCase], folder: Path) -> list[ImageCase]:
    """Unpack the arrays that hold many images each, so that processes read rows of them without loading them whole.

    Args:
        cases: Images; those in files of their own pass through.
        folder: Where the arrays are written; it is made where one is.

    Returns:
        The images, each with the array that holds it.

    Raises:
        ImageError: If a file is damaged.
        PocketError: If an array cannot be written.
    """
    arrays: dict[tuple[Path, str], Path] = {}
    found = []
    for case in cases:
        if case.member is not None:
            key = (case.file, case.member[0])
            if key not in arrays:
                arrays[key] = _unpack(*key, folder / f"{len(arrays)}.npy")
            case = replace(case, unpacked=arrays[key])
        found.append(case)
    return found


def _unpack(path: Path, name: str, target: Path) -> Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if name in _ARRAYS:
            np.save(target, _ARRAYS[name](path), allow_pickle=False)
        else:
            with zipfile.ZipFile(path) as content, content.open(f"{name}.npy") as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)  # each array in the file is a whole .npy file
        np.load(target, mmap_mode="r", allow_pickle=False)
    except PocketError:
        raise
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(path, f"truncated or damaged ({error})", INTACT_COPY) from error
    except OSError as error:
        raise PocketError(f"{target}: {name} of {path} cannot be unpacked ({error.strerror}); make space.") from error
    return target
