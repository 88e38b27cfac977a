"""Reading and preprocessing one 2D image: values against Pillow, formulas and brute force."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_datasets import picture
from PIL import Image

from lightning_pocket.data.images2d.preprocess import ImagePreprocessing
from lightning_pocket.data.images2d.read import Picture, read_file
from lightning_pocket.errors import PocketError


def raw(size=(64, 64), color="grey") -> ImagePreprocessing:
    return ImagePreprocessing(size, color, "none")


def test_sizes_change_as_in_pillow(tmp_path):
    array = picture(0, (50, 80))
    Image.fromarray(array).save(tmp_path / "a.png")
    for size in ((20, 33), (120, 90)):
        prepared = raw(size).apply(read_file(tmp_path / "a.png"))
        assert prepared.shape == (1, *size)
        expected = np.asarray(Image.open(tmp_path / "a.png").resize(size[::-1], Image.Resampling.BILINEAR), float)
        np.testing.assert_allclose(prepared[0], expected, atol=1)  # Pillow rounds 8 bits twice
        assert np.abs(prepared[0] - expected).mean() < 0.35


def triangle(length: int, new: int) -> np.ndarray:
    """Return the weights ``(new, length)`` of antialiased linear interpolation, from its definition."""
    scale = max(length / new, 1)
    centres = (np.arange(new)[:, None] + 0.5) * length / new
    weights = np.maximum(0, 1 - np.abs(np.arange(length) + 0.5 - centres) / scale)
    return weights / weights.sum(1, keepdims=True)


def test_resizing_is_antialiased_linear_interpolation():
    pixels = np.random.default_rng(1).integers(0, 65536, (41, 30), dtype=np.uint16)
    prepared = raw((17, 45)).apply(Picture(pixels, 65535))[0]
    expected = triangle(41, 17) @ pixels.astype(float) @ triangle(30, 45).T
    np.testing.assert_allclose(prepared, expected, rtol=1e-5)


def test_zscore_is_that_of_the_whole_resized_image():
    pixels = np.random.default_rng(2).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for color in ("grey", "rgb"):
        prepared = ImagePreprocessing((20, 24), color).apply(Picture(pixels, 255))
        assert abs(float(prepared.mean(dtype=np.float64))) < 1e-6
        assert abs(float(prepared.std(dtype=np.float64)) - 1) < 1e-6
        plain = raw((20, 24), color).apply(Picture(pixels, 255)).astype(np.float64)
        np.testing.assert_allclose(prepared, (plain - plain.mean()) / plain.std(), atol=1e-5)
    flat = ImagePreprocessing((4, 4)).apply(Picture(np.full((9, 9), 200, np.uint8), 255))
    assert not flat.any()


def test_unit_divides_by_the_range_of_the_type():
    for kind, highest in ((np.uint8, 255), (np.uint16, 65535)):
        pixels = np.array([[0, highest], [highest // 5, 1]], kind)
        prepared = ImagePreprocessing((2, 2), "grey", "unit").apply(Picture(pixels, highest))
        np.testing.assert_allclose(prepared[0], pixels / highest, rtol=1e-6)
    with pytest.raises(PocketError, match="unit needs images of 8 or 16 bits, not float32"):
        ImagePreprocessing((2, 2), "grey", "unit").apply(Picture(np.zeros((2, 2), np.float32), None))


def test_settings_survive_a_checkpoint():
    settings = ImagePreprocessing((12, 34), "rgb", "unit")
    assert ImagePreprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


MODES = {
    "grey.png": lambda a: Image.fromarray(a[..., 0]),
    "color.png": lambda a: Image.fromarray(a),
    "color.bmp": lambda a: Image.fromarray(a),
    "color.webp": lambda a: Image.fromarray(a),
    "palette.png": lambda a: Image.fromarray(a).quantize(256),
    "cmyk.tif": lambda a: Image.fromarray(a).convert("CMYK"),
    "bits.png": lambda a: Image.fromarray(a[..., 0]).convert("1"),
}


@pytest.mark.parametrize("name", MODES)
def test_every_mode_becomes_grey_and_rgb_as_in_pillow(tmp_path, name):
    array = np.random.default_rng(3).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    image = MODES[name](array)
    image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    found = read_file(tmp_path / name)
    assert found.highest == 255
    rgb = np.moveaxis(np.asarray(image.convert("RGB"), np.float32), -1, 0)
    np.testing.assert_array_equal(raw((16, 12), "rgb").apply(found), rgb)
    grey = np.asarray(image.convert("RGB").convert("L"), np.float32)
    np.testing.assert_array_equal(raw((16, 12)).apply(found)[0], grey)


def test_sixteen_bits_are_kept(tmp_path):
    array = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000 + 7
    for name in ("a.png", "a.tif"):
        Image.fromarray(array).save(tmp_path / name)
        found = read_file(tmp_path / name)
        assert found.highest == 65535
        np.testing.assert_array_equal(raw((3, 4)).apply(found)[0], array)


def test_transparent_images_lie_on_black(tmp_path):
    array = np.full((2, 2, 4), 200, np.uint8)
    array[..., 3] = [[255, 0], [51, 255]]
    Image.fromarray(array).save(tmp_path / "rgba.png")
    Image.fromarray(array[..., [0, 3]], "LA").save(tmp_path / "la.png")
    for name in ("rgba.png", "la.png"):
        grey = raw((2, 2)).apply(read_file(tmp_path / name))[0]
        np.testing.assert_array_equal(grey, [[200, 0], [40, 200]])  # 200 * 51 / 255 = 40


def test_the_orientation_of_a_camera_is_applied(tmp_path):
    array = np.zeros((8, 16), np.uint8)
    array[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(array).save(tmp_path / "a.jpg", exif=exif, quality=100)
    upright = raw((16, 8)).apply(read_file(tmp_path / "a.jpg"))[0]
    assert upright[:7].min() > 250
    assert upright[9:].max() < 5
