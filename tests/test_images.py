"""Reading images: orientation, geometry, formats, and files that must be refused."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from datasets import make_case, to_itk, write_dicom, write_image

from lightning_pocket.data.images import Volume, read_header, read_label, read_volume, source_files, write_volume
from lightning_pocket.errors import PocketError

ORIENTATIONS = ["LPS", "RAS", "RAI", "PSR", "ASL", "IPR"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_voxels_and_affine_agree_with_nibabel(tmp_path: Path, orientation: str) -> None:
    image, _ = make_case(0)
    oblique = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
    stored = sitk.DICOMOrient(to_itk(image, origin=(5, -7, 11), direction=oblique.ravel()), orientation)
    path = tmp_path / "image.nii.gz"
    sitk.WriteImage(stored, str(path))

    volume = read_volume(path)

    assert volume.array.shape == (1, *image.shape)
    np.testing.assert_array_equal(volume.array[0], image)
    reference = nibabel.load(path)
    to_voxel = np.linalg.inv(reference.affine)
    for index in [(0, 0, 0), (9, 13, 11), (3, 1, 8)]:
        ijk = np.rint(to_voxel @ volume.affine @ [*index, 1])[:3].astype(int)
        assert reference.dataobj[tuple(ijk)] == volume.array[(0, *index)]
    assert volume.spacing == pytest.approx((2.0, 1.0, 1.5))


def test_axes_run_from_inferior_anterior_right(tmp_path: Path) -> None:
    write_image(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), np.float32), origin=(1, 2, 3))
    affine = read_volume(tmp_path / "a.nii.gz").affine
    # One step along D goes up (+S), along H backwards (-A), along W to the left (-R), in RAS+ mm.
    expected = [[0, 0, -1.5, -1], [0, -1, 0, -2], [2, 0, 0, 3], [0, 0, 0, 1]]
    np.testing.assert_allclose(affine, expected, atol=1e-6)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_write_restores_the_axis_order_of_the_file(tmp_path: Path, orientation: str, suffix: str) -> None:
    _, label = make_case(1)
    stored = sitk.DICOMOrient(to_itk(label, origin=(5, -7, 11)), orientation)
    source, copy = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    sitk.WriteImage(stored, str(source))
    write_volume(copy, read_label(source))
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(copy))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(after), sitk.GetArrayFromImage(before))
    assert after.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_allclose(after.GetOrigin(), before.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(after.GetDirection(), before.GetDirection(), atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {source.name, copy.name}


def test_four_dimensions_only_where_expected(tmp_path: Path) -> None:
    image, _ = make_case(0)
    path = tmp_path / "four.nii.gz"
    sitk.WriteImage(sitk.JoinSeries([to_itk(image), to_itk(image + 7)]), str(path))
    volume = read_volume(path, channels=2)
    np.testing.assert_array_equal(volume.array, np.stack([image, image + 7]))
    assert read_header(path).channels == 2
    with pytest.raises(PocketError, match=r"four.nii.gz: is a 4D file of size 12 x 14 x 10 x 2 .* expected 1"):
        read_volume(path)
    vector = tmp_path / "vector.nrrd"
    sitk.WriteImage(sitk.Compose([to_itk(image), to_itk(image + 7)]), str(vector))
    np.testing.assert_array_equal(read_volume(vector, channels=2).array, volume.array)


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    image, _ = make_case(0)
    first = write_image(tmp_path / "a.nii.gz", image)
    second = write_image(tmp_path / "b.nii.gz", image + 1)
    np.testing.assert_array_equal(read_volume([first, second], channels=2).array[1], image + 1)
    shifted = write_image(tmp_path / "c.nii.gz", image, origin=(0, 0, 3))
    with pytest.raises(PocketError, match=r"c.nii.gz: lies on another grid than a.nii.gz"):
        read_volume([first, shifted], channels=2)


def test_dicom_series(tmp_path: Path) -> None:
    volume = (make_case(0)[0] - 100).astype(np.int16)
    folder = write_dicom(tmp_path / "ct", volume)
    read = read_volume(folder)
    np.testing.assert_array_equal(read.array[0], volume)
    assert read.spacing == pytest.approx((2.0, 1.0, 1.5))
    assert len(source_files(folder)) == len(volume)
    assert read_header(folder).size == volume.shape[::-1]


@pytest.mark.parametrize("step", [1.2, 0.7, 1 / 3])
def test_slices_that_are_uneven_by_rounding_are_read(tmp_path: Path, step: float) -> None:
    folder = write_dicom(tmp_path / "ct", make_case(0)[0].astype(np.int16), (step, 1.0, 1.0))
    assert read_volume(folder).spacing[0] == pytest.approx(step, rel=1e-6)


def test_dicom_folder_must_hold_one_whole_series(tmp_path: Path) -> None:
    volume = make_case(0)[0].astype(np.int16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PocketError, match="holds no DICOM series, expected one"):
        read_volume(tmp_path / "empty")
    folder = write_dicom(write_dicom(tmp_path / "two", volume), volume, series="1.2.4")
    with pytest.raises(PocketError, match=r"holds 2 DICOM series .*1\.2\.3.*1\.2\.4"):
        read_volume(folder)
    gap = write_dicom(tmp_path / "gap", volume)
    sorted(gap.iterdir())[4].unlink()
    with pytest.raises(PocketError, match="slices are missing or unevenly spaced"):
        read_volume(gap)


@pytest.mark.parametrize("keep", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, keep: float) -> None:
    path = write_image(tmp_path / f"image{suffix}", make_case(0)[0])
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(PocketError, match=f"image{suffix}: .*(truncated|cannot be read).*; replace it by an intact"):
        read_volume(path)


def test_damaged_bytes_are_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.nii.gz", make_case(0)[0])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(PocketError, match="truncated or damaged"):
        read_volume(path)


def test_sheared_axes_are_refused_with_a_remedy(tmp_path: Path) -> None:
    path = write_image(tmp_path / "image.nii.gz", make_case(0)[0])
    header = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<hh", header, 252, 0, 1)  # only the sform counts
    struct.pack_into("<12f", header, 280, 1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    path.write_bytes(gzip.compress(header))
    with pytest.raises(PocketError, match=r"axes are not perpendicular.*; resample") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_dimension(tmp_path: Path) -> None:
    with pytest.raises(PocketError, match=r"none.nii.gz: no such file"):
        read_volume(tmp_path / "none.nii.gz")
    flat = tmp_path / "flat.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 6), np.float32)), str(flat))
    with pytest.raises(PocketError, match="is a 2D image, expected 3D"):
        read_volume(flat)
    text = tmp_path / "text.nii.gz"
    text.write_text("not an image")
    with pytest.raises(PocketError, match="truncated or damaged"):
        read_volume(text)


def test_label_keeps_its_type(tmp_path: Path) -> None:
    path = write_image(tmp_path / "label.nii.gz", make_case(0)[1].astype(np.int16))
    volume = read_label(path)
    assert isinstance(volume, Volume)
    assert volume.array.dtype == np.int16
    assert sorted(np.unique(volume.array)) == [0, 1, 2]
