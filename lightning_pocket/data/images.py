"""Medical images on disk: NIfTI, NRRD, MetaImage, and folders that hold one DICOM series.

Arrays are ``(D, H, W)`` or ``(C, D, H, W)`` in LPS orientation: D runs from inferior to superior, H from anterior to
posterior, W from right to left. SimpleITK is not safe in threads (issue 74 of its repository): read in processes.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lightning_pocket.data.folds import IMAGE_SUFFIXES
from lightning_pocket.data.grid import Grid
from lightning_pocket.data.integrity import FINITE_VALUES, INTACT_COPY, ImageError, verify
from lightning_pocket.storage import partial_path

# ITK prints C++ warnings that name no case; what matters of them is checked and reported here.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

# The series reader notes under this key that slices are not evenly spaced, be it by rounding alone.
_UNEVEN_SLICES = "ITK_non_uniform_sampling_deviation"
# How far a slice may be from where even spacing puts it, as a fraction of the spacing.
_EVEN = 0.1


@dataclass(frozen=True, eq=False)
class Volume:
    """An image in LPS orientation and where it lies.

    Args:
        array: ``(C, D, H, W)`` image or ``(D, H, W)`` label.
        grid: Its voxel grid.
    """

    array: np.ndarray
    grid: Grid

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along (D, H, W)."""
        return self.grid.spacing

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 matrix from (d, h, w, 1) to RAS+ mm."""
        return self.grid.affine


@dataclass(frozen=True)
class Header:
    """What a file says of its image before the voxels are read.

    Args:
        size: Voxels along each axis as stored (x, y, z, ...).
        spacing: Voxel size in mm along each axis as stored.
        channels: Values per voxel, or volumes along a fourth axis.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    channels: int


def series_files(folder: Path) -> list[Path]:
    """Return the files of the one DICOM series in a folder, in the order of the slices.

    Args:
        folder: Folder with DICOM files.

    Returns:
        The files of the series.

    Raises:
        ImageError: If the folder holds no series or several.
    """
    ids = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(ids) != 1:
        found = f"{len(ids)} DICOM series ({', '.join(ids)})" if ids else "no DICOM series"
        raise ImageError(folder, f"holds {found}, expected one", "give each series a folder of its own")
    return [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), ids[0])]


def source_files(path: Path) -> list[Path]:
    """Return the files that an image is read from: the file itself, or those of the DICOM series in the folder."""
    return series_files(path) if path.is_dir() else [path]


def read_header(path: Path) -> Header:
    """Read size and spacing without the voxels (a DICOM series is read whole: its slices fix the geometry).

    Args:
        path: Image file, or folder with one DICOM series.

    Returns:
        The header.

    Raises:
        ImageError: If the file is missing or unreadable.
    """
    if path.is_dir():
        return _header_of(_read_itk(path))
    reader = sitk.ImageFileReader()
    with _one_line_errors(path), _alone(path) as file:
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
    return _header(reader.GetSize(), reader.GetSpacing(), reader.GetNumberOfComponents())


def read_volume(paths: Path | Sequence[Path], channels: int = 1) -> Volume:
    """Read an image.

    Args:
        paths: One file (or DICOM folder) with all channels, or one for each channel, all on the same grid.
        channels: Number of channels that the caller expects; a 4D file is accepted only where it has that many.

    Returns:
        The image ``(C, D, H, W)``, float32.

    Raises:
        ImageError: If a file is missing, unreadable or truncated, or the channels do not fit.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if len(files) not in (1, channels):
        raise ImageError(
            files[0], f"the case has {len(files)} image files, expected {channels}", "give one per channel"
        )
    volumes = [_read_oriented(file, channels if len(files) == 1 else 1) for file in files]
    grid = volumes[0].grid
    for file, volume in zip(files, volumes, strict=True):
        if not grid.matches(volume.grid):
            raise ImageError(file, f"lies on another grid than {files[0].name}", "resample it to that image")
    for file, volume in zip(files, volumes, strict=True):
        _require_finite(file, volume.array)
    if len(volumes) == 1:
        return Volume(volumes[0].array.astype(np.float32, copy=False), grid)
    return Volume(np.concatenate([volume.array for volume in volumes]).astype(np.float32, copy=False), grid)


def read_label(path: Path) -> Volume:
    """Read a label map; the values keep the type of the file.

    Args:
        path: Label file, or folder with one DICOM series.

    Returns:
        The label ``(D, H, W)``.

    Raises:
        ImageError: If the file is missing, unreadable, truncated or not 3D.
    """
    volume = _read_oriented(path, 1)
    return Volume(volume.array[0], volume.grid)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a ``(D, H, W)`` array with the axis order of the file that its grid came from.

    Args:
        path: File to write; the suffix chooses the format. Written whole or not at all.
        volume: Label or single-channel image.
    """
    image = sitk.DICOMOrient(to_itk(volume.array, volume.grid), volume.grid.orientation)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix must stay last: ITK chooses the format by it.
    suffix = next((s for s in IMAGE_SUFFIXES if path.name.endswith(s)), path.suffix)
    partial = partial_path(path)
    partial = partial.with_name(partial.name + suffix)
    sitk.WriteImage(image, str(partial), useCompression=True)
    partial.replace(path)


def to_itk(array: np.ndarray, grid: Grid) -> sitk.Image:
    """Return a ``(D, H, W)`` array as an ITK image on ``grid``."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.origin)
    image.SetDirection(grid.direction)
    return image


def _read_oriented(path: Path, channels: int) -> Volume:
    if path.is_file():
        verify(path)
        # A long 4D file is refused before its voxels are read.
        _require_channels(path, read_header(path), channels)
    image = _read_itk(path)
    _require_channels(path, _header_of(image), channels)
    parts = _split(image)
    if parts[0].GetDimension() != 3:
        raise ImageError(path, f"is a {parts[0].GetDimension()}D image, expected 3D", "stack the slices of the case")
    orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(parts[0].GetDirection())
    oriented = [sitk.DICOMOrient(part, "LPS") for part in parts]
    first = oriented[0]
    width, height, depth = first.GetSize()
    grid = Grid(
        shape=(depth, height, width),
        spacing=first.GetSpacing()[::-1],
        origin=first.GetOrigin(),
        direction=first.GetDirection(),
        orientation=orientation,
    )
    return Volume(np.stack([sitk.GetArrayFromImage(part) for part in oriented]), grid)


def _header_of(image: sitk.Image) -> Header:
    return _header(image.GetSize(), image.GetSpacing(), image.GetNumberOfComponentsPerPixel())


def _header(size: tuple[int, ...], spacing: tuple[float, ...], components: int) -> Header:
    return Header(size, spacing, size[3] if len(size) == 4 else components)


def _require_channels(path: Path, header: Header, channels: int) -> None:
    if header.channels != channels:
        size = " x ".join(map(str, header.size))
        kind = f"is a {len(header.size)}D file of size {size} with {header.channels}"
        finding = f"{kind} channel{'s' if header.channels > 1 else ''}, expected {channels}"
        raise ImageError(path, finding, "split it into one file per channel or declare its channels")


def _require_finite(path: Path, voxels: np.ndarray) -> None:
    """Refuse what ``verify`` cannot see: formats other than NIfTI keep NaN and infinite voxels."""
    if np.issubdtype(voxels.dtype, np.floating):
        bad = sum(int(plane.size - np.isfinite(plane).sum()) for channel in voxels for plane in channel)
        if bad:
            raise ImageError(path, f"NaN or infinite voxels: {bad:,}", FINITE_VALUES)


def _split(image: sitk.Image) -> list[sitk.Image]:
    if image.GetNumberOfComponentsPerPixel() > 1:
        return [sitk.VectorIndexSelectionCast(image, i) for i in range(image.GetNumberOfComponentsPerPixel())]
    if image.GetDimension() == 4:
        return [image[:, :, :, i] for i in range(image.GetSize()[3])]
    return [image]


def _read_itk(path: Path) -> sitk.Image:
    if not path.is_dir():
        with _one_line_errors(path), _alone(path) as file:
            return sitk.ReadImage(str(file))
    files = series_files(path)
    reader = sitk.ImageSeriesReader()
    with _one_line_errors(path):
        reader.SetFileNames([str(file) for file in files])
        image = reader.Execute()
    if image.HasMetaDataKey(_UNEVEN_SLICES) and _unevenness(files) > _EVEN:
        raise ImageError(
            path, "DICOM slices are missing or unevenly spaced", "complete the series or resample it to even slices"
        )
    return image


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """Give a path of the file beside which no other NIfTI file of its name lies.

    ITK takes the voxels of ``scan.nii.gz`` from ``scan.nii`` where both are in a folder.
    """
    name = path.name.lower()
    if not name.endswith(".nii.gz") or not path.with_name(path.name[:-3]).exists():
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / path.name
        try:
            link.symlink_to(path.resolve())
        except OSError:  # a system that does not let everybody link
            shutil.copyfile(path, link)
        yield link


def _unevenness(files: Sequence[Path]) -> float:
    """Return how far a slice is at most from where even spacing puts it, as a fraction of the spacing."""
    reader = sitk.ImageFileReader()
    positions = []
    for file in files:
        reader.SetFileName(str(file))
        reader.ReadImageInformation()
        positions.append(reader.GetOrigin())
    found = np.array(positions)
    even = np.linspace(found[0], found[-1], len(found))
    spacing = np.linalg.norm(found[-1] - found[0]) / (len(found) - 1)
    return float(np.linalg.norm(found - even, axis=1).max() / spacing) if spacing else np.inf


@contextlib.contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    if not path.exists():
        raise ImageError(path, "no such file", "mend the path or restore the file")
    try:
        yield
    except RuntimeError as error:  # the only exception of SimpleITK
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and not line.startswith("Reason")]
        if "orthonormal" in lines[-1]:
            remedy = "resample it to perpendicular axes, or copy its qform to the sform if that one is right"
            raise ImageError(path, "its axes are not perpendicular (sheared sform)", remedy) from error
        unknown = "Unable to determine ImageIO" in lines[-1]
        reason = "no known format" if unknown else lines[-1]
        raise ImageError(path, f"cannot be read as an image ({reason})", INTACT_COPY) from error
