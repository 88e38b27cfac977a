"""Writing results on the grid of the file that they belong to, so that any viewer lays them on top of each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lightning_pocket.data.folds import IMAGE_SUFFIXES
from lightning_pocket.data.images import Volume, to_itk, write_volume
from lightning_pocket.data.integrity import INTACT_COPY, ImageError
from lightning_pocket.storage import partial_path

_NIFTI = (".nii.gz", ".nii")
_KEPT = (*_NIFTI, ".nrrd", ".mha")  # formats that store any label map with its grid in one file


def result_suffix(image: Path) -> str:
    """Return the suffix of a result: that of the image's own format, NIfTI for DICOM and formats without a grid."""
    return next((suffix for suffix in _KEPT if image.name.lower().endswith(suffix)), ".nii.gz")


def write_like(path: Path, volume: Volume, image: Path) -> None:
    """Write a label map or a map of probabilities with exactly the grid of the image that it belongs to.

    A NIfTI result takes the header of a NIfTI image over: ITK would write the same grid, but rounded, with other codes
    and without the affine that it did not use.

    Args:
        path: File to write, with the suffix that :func:`result_suffix` gives. Written whole or not at all.
        volume: ``(D, H, W)`` in LPS orientation, on the grid that ``images.read_volume`` gave.
        image: File of the image, or folder of its DICOM series.
    """
    if not (path.name.endswith(_NIFTI) and image.name.lower().endswith(_NIFTI)):
        write_volume(path, volume)
        return
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    stored = sitk.GetArrayFromImage(sitk.DICOMOrient(to_itk(volume.array, volume.grid), volume.grid.orientation))
    try:
        source = nibabel.load(image)
    except ImageFileError as error:
        raise ImageError(image, "its NIfTI header is not standard", INTACT_COPY) from error
    header = source.header.copy()
    header.extensions.clear()
    header.set_data_dtype(volume.array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.set_intent("none")
    affine = source.affine
    result = type(source)(np.ascontiguousarray(stored.transpose(2, 1, 0)), affine, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = next(s for s in IMAGE_SUFFIXES if path.name.endswith(s))
    partial = partial_path(path)
    partial = partial.with_name(partial.name + suffix)  # the suffix must stay last: nibabel compresses by it
    nibabel.save(result, partial)
    partial.replace(path)
