"""2D DICOM images: their values, their range and the size of their pixels."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import COMPUTED_RADIOGRAPHY, DIGITAL_XRAY, MAMMOGRAM, SECONDARY_CAPTURE, ULTRASOUND, write_dicom
from image_datasets import checked
from mask_datasets import disc, save, write_index

from lightning_pocket.data.images2d.preprocess import ImagePreprocessing
from lightning_pocket.data.images2d.read import read_file
from lightning_pocket.errors import PocketError

RAMP = np.arange(0, 24 * 170, 170, dtype=np.uint16).reshape(4, 6)  # up to 3910, of 12 bits


def test_a_dicom_image_is_read(tmp_path):
    grey = disc(5)[0]
    picture = read_file(write_dicom(tmp_path / "a.dcm", grey))
    np.testing.assert_array_equal(picture.pixels, grey)
    assert (picture.highest, picture.pixel_mm) == (255, (0.3, 0.2))
    colours = np.stack([grey, 255 - grey, grey // 2], -1)
    np.testing.assert_array_equal(read_file(write_dicom(tmp_path / "c.dcm", colours)).pixels, colours)
    whole = (tmp_path / "a.dcm").read_bytes()
    tag = whole.rindex(b"\xe0\x7f\x10\x00")
    for size, finding in (
        (tag, r"holds no pixel data \(7FE0,0010\); take it out if it is a report"),
        (tag + 30, "cannot be read as DICOM; replace it by an intact copy"),
    ):
        (tmp_path / "d.dcm").write_bytes(whole[:size])
        with pytest.raises(PocketError, match=f"d.dcm: {finding}"):
            read_file(tmp_path / "d.dcm")


@pytest.mark.parametrize("kind", [ULTRASOUND, SECONDARY_CAPTURE, COMPUTED_RADIOGRAPHY, DIGITAL_XRAY, MAMMOGRAM])
def test_the_size_of_a_pixel_is_its_pixel_spacing(tmp_path, kind):
    path = tmp_path / "a.dcm"
    assert read_file(write_dicom(path, RAMP, kind, "0.25\\0.15", "0.5\\0.6")).pixel_mm == (0.25, 0.15)
    assert read_file(write_dicom(path, RAMP, kind, "0.25\\0.15")).pixel_mm == (0.25, 0.15)
    assert read_file(write_dicom(path, RAMP, kind, None, "0.5\\0.6")).pixel_mm is None  # not that of the body
    assert read_file(write_dicom(path, RAMP, kind, "-1\\1")).pixel_mm is None


def test_an_inverted_image_is_turned_once(tmp_path):
    turned = read_file(write_dicom(tmp_path / "a.dcm", RAMP, photometric="MONOCHROME1", bits=12))
    np.testing.assert_array_equal(turned.pixels, 4095 - RAMP.astype(int))
    assert turned.highest == 4095
    byte = (RAMP // 17).astype(np.uint8)
    turned = read_file(write_dicom(tmp_path / "b.dcm", byte, photometric="MONOCHROME1", rescale=("2", "-10")))
    np.testing.assert_array_equal(turned.pixels, 2 * (255 - byte.astype(int)) - 10)


@pytest.mark.parametrize(
    ("bits", "rescale", "highest"),
    [
        (12, None, 4095),
        (16, None, 65535),
        (12, ("1", "0"), 4095),
        (12, ("2", "10"), 8200),
        (12, ("0.5", "0"), 2047.5),
        (12, ("1", "-1024"), None),  # may be negative
    ],
)
@pytest.mark.parametrize("brightest", [3910, 20])
def test_the_range_is_that_of_the_bits(tmp_path, bits, rescale, highest, brightest):
    stored = np.minimum(RAMP, brightest)
    picture = read_file(write_dicom(tmp_path / "a.dcm", stored, bits=bits, rescale=rescale))
    slope, intercept = map(float, rescale or ("1", "0"))
    np.testing.assert_allclose(picture.pixels, stored * slope + intercept)
    assert picture.highest == highest
    unit = ImagePreprocessing((4, 6), normalization="unit")
    assert unit.accepts(picture) == (highest is not None)
    if highest is not None:
        assert unit.apply(picture).max() == pytest.approx((brightest * slope + intercept) / highest, abs=1e-6)


def test_signed_values_have_no_range(tmp_path):
    picture = read_file(write_dicom(tmp_path / "a.dcm", RAMP.astype(np.int16), bits=12, signed=True))
    assert picture.highest is None


def test_dicom_images_with_png_masks_are_a_data_set(tmp_path, capsys):
    for index in range(2):
        image, mask = disc(index)
        write_dicom(tmp_path / "images" / f"{index}.dcm", image)
        save(mask, tmp_path / "masks" / f"{index}.png")
    assert "pixels (H x W), of 0.3 x 0.2 mm; no errors" in checked(tmp_path, capsys)
    write_index(tmp_path, {"file": ["0.dcm", "1.dcm"], "pixel_mm": ["0.4", "0.4"]})
    assert "of 0.4 x 0.4 mm; no errors" in checked(tmp_path, capsys)  # what the data set says comes first


def test_masks_may_be_dicom_too(tmp_path, capsys):
    for index in range(2):
        image, mask = disc(index)
        save(image, tmp_path / "images" / f"{index}.png")
        write_dicom(tmp_path / "masks" / f"{index}.dcm", mask, SECONDARY_CAPTURE)
    assert "classes: background (0), foreground (255)" in checked(tmp_path, capsys)
