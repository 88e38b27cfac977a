"""Pictures of cases: what is where, in which colour, and how large."""

import io

import numpy as np
import pytest
from PIL import Image

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.overlay import FILL, OKABE_ITO, class_colour, draw_overlay
from lightning_pocket.reports.pictures import picture_name, png_bytes, render_case, write_png
from lightning_pocket.reports.slices import slice_case

CLASSES = ["background", "liver", "tumour"]
MARGIN, HEADING = 10, 32


def volume(shape=(6, 20, 10)):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(np.float32), np.zeros(shape, np.uint8)


def panels(picture, height, width, column):
    """Cut the three panels of the first row, each ``(height, width, 3)``, out of columns of a given width."""
    lefts = [MARGIN + index * (column + MARGIN) + (column - width) // 2 for index in range(3)]
    return [picture[HEADING : HEADING + height, left : left + width] for left in lefts]


def test_an_outline_has_the_full_colour_and_its_inside_a_light_fill():
    pixels = np.full((20, 20, 3), 100, np.uint8)
    label = np.zeros((20, 20), np.uint8)
    label[4:16, 4:16] = 2
    drawn = draw_overlay(pixels, label)
    sky_blue = (86, 180, 233)
    assert tuple(drawn[4, 10]) == tuple(drawn[5, 10]) == tuple(drawn[15, 15]) == sky_blue
    assert tuple(drawn[6, 10]) == tuple(round((1 - FILL) * 100 + FILL * c) for c in sky_blue)
    assert tuple(drawn[3, 10]) == (100, 100, 100)


def test_a_region_that_the_picture_cuts_has_no_outline_at_the_cut():
    label = np.zeros((20, 20), np.uint8)
    label[:10] = 1
    drawn = draw_overlay(np.zeros((20, 20, 3), np.uint8), label)
    assert tuple(drawn[9, 5]) == class_colour(1)
    assert tuple(drawn[0, 5]) != class_colour(1)


def test_colours_are_fixed_by_the_class():
    assert len(set(OKABE_ITO)) == 7
    assert class_colour(1) == class_colour(8) == (230, 159, 0)


def test_a_2d_case_has_three_panels_with_square_millimetres():
    image, truth = np.random.default_rng(0).random((3, 16, 16)), np.zeros((16, 16), np.uint8)
    truth[4:12, 4:12] = 1
    picture = render_case(image, truth, np.where(truth, 2, 0), (1.0, 2.0), CLASSES, panel=256)
    assert picture.shape == (HEADING + 128 + MARGIN + 22, 3 * 256 + 4 * MARGIN, 3)  # 16 mm by 32 mm, and a legend
    plain, with_truth, with_prediction = panels(picture, 128, 256, 256)
    assert (plain[..., 0] == plain[..., 1]).all()
    assert tuple(with_truth[32, 100]) == class_colour(1)  # row 4 of 16 begins at pixel 32 of 128
    assert tuple(with_prediction[32, 100]) == class_colour(2)
    assert tuple(with_truth[31, 100]) == tuple(plain[31, 100])
    assert tuple(with_truth[64, 64]) == class_colour(1)  # column 4 of 16 begins at pixel 64 of 256
    assert tuple(with_truth[64, 63]) == tuple(plain[64, 63])


def test_slices_of_a_volume_hold_most_foreground_and_stand_upright():
    image, truth = volume()
    truth[4, 12:15, 2:6] = 1
    truth[5, 13, 3] = 2
    truth[3, 13, 3] = 255  # no class: counts for nothing
    case = slice_case(image, truth, truth, (3.0, 1.0, 0.5), num_classes=3)
    axial, coronal, sagittal = case.slices
    assert np.array_equal(axial.truth, truth[4])
    assert np.array_equal(coronal.truth, truth[::-1, 13])  # superior on top
    assert np.array_equal(sagittal.truth, truth[::-1, :, 3])
    assert np.array_equal(sagittal.image, image[::-1, :, 3])
    assert [s.size_mm for s in case.slices] == [(20.0, 5.0), (18.0, 5.0), (18.0, 20.0)]


def test_a_picture_of_a_volume_has_one_scale_for_all_slices():
    image, truth = volume()
    picture = render_case(image, truth, truth, (3.0, 1.0, 0.5), CLASSES, panel=200)
    # 10 pixels per mm: rows of 200, 180 and 180 pixels, the widest is 200; no class, so no legend
    assert picture.shape == (HEADING + 200 + 180 + 180 + 3 * MARGIN, 3 * 200 + 4 * MARGIN, 3)


@pytest.mark.parametrize(("where", "expected"), [("prediction", 5), ("nowhere", 3)])
def test_without_truth_the_prediction_says_where_to_look_and_else_the_middle(where, expected):
    image, truth = volume()
    predicted = truth.copy()
    if where == "prediction":
        predicted[5, 1, 1] = 1
    case = slice_case(image, truth, predicted, None)
    assert np.array_equal(case.slices[0].image, image[expected])


def test_intensities_between_the_percentiles_span_black_to_white():
    image = np.linspace(0, 1000, 101 * 100).reshape(101, 100)
    label = np.zeros(image.shape, np.uint8)
    case = slice_case(image, label, label, None)
    assert case.window == pytest.approx((5.0, 995.0))
    grey = case.grey(0)
    assert (grey.min(), grey.max()) == (0, 255)
    assert grey[50, 50] == round(255 * (image[50, 50] - 5) / 990)


def test_an_image_of_one_value_or_with_nan_is_drawn():
    image, truth = np.ones((8, 8)), np.zeros((8, 8), np.uint8)
    image[0, 0] = np.nan
    assert render_case(image, truth, truth, None, CLASSES).dtype == np.uint8


def test_the_picture_does_not_depend_on_voxels_that_are_no_class():
    image, truth = volume()
    ignored = truth.copy()
    ignored[:, :3] = 255
    assert np.array_equal(
        render_case(image, truth, truth, None, CLASSES), render_case(image, ignored, truth, None, CLASSES)
    )


def test_png_is_whole_and_the_same_picture(tmp_path):
    image, truth = volume()
    picture = render_case(image, truth, truth, None, CLASSES)
    write_png(tmp_path / "new" / "a.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), picture)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png_bytes(picture)))), picture)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_names_of_cases_become_names_of_files():
    assert picture_name("case_01.a-b") == "case_01.a-b.png"
    assert picture_name("site/../1 2") == "site_.._1_2.png"


def test_arrays_that_do_not_fit_are_refused():
    image, truth = volume()
    with pytest.raises(PocketError, match=r"truth \(6, 20, 10\) and prediction \(5, 20, 10\); expected"):
        render_case(image, truth, truth[1:], None, CLASSES)
    with pytest.raises(PocketError, match=r"spacing: found \[1.0, 1.0\]; expected 3 positive"):
        render_case(image, truth, truth, (1, 1), CLASSES)
