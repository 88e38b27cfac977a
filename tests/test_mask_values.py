"""What the values of masks mean: found, declared, and refused where they may be something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_datasets import checked
from mask_datasets import conic, disc, save, write_pairs
from PIL import Image
from scipy import ndimage

from lightning_pocket.data.images2d.coding import MaskCoding, parse_coding
from lightning_pocket.data.images2d.mask_values import MaskValues, find_coding, mask_values
from lightning_pocket.data.images2d.masks import read_mask
from lightning_pocket.data.images2d.original import write_mask
from lightning_pocket.data.images2d.outline import fill_outline
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import to_json

BINARY = MaskCoding("threshold", {0: "background", 255: "lesion"})
NAMES = ("background", "organ")


def masks_of(*masks: tuple[str, list[int]]) -> list[MaskValues]:
    """Return masks of these kinds and values, a pixel of each."""
    return [MaskValues(Path(f"{n}.png"), kind, dict.fromkeys(own, 1)) for n, (kind, own) in enumerate(masks)]


def palette_mask(path: Path, indices: np.ndarray, colours: list[int]) -> Path:
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(colours)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def stored(coding: MaskCoding) -> MaskCoding:
    """Return a coding that was written into a cache and read again."""
    return MaskCoding.from_dict(json.loads(to_json(coding.to_dict())), coding.classes, "cache")


# Found


@pytest.mark.parametrize(
    ("masks", "kind", "labels"),
    [
        ([("grey", [0, 255])], "threshold", {0: "background", 255: "organ"}),
        ([("grey", [0, 1]), ("grey", [0])], "threshold", {0: "background", 1: "organ"}),
        ([("grey", [0, *range(20, 240, 20), 255])], "threshold", {0: "background", 255: "organ"}),
        ([("grey", [0])], "threshold", {0: "background", 255: "organ"}),
        ([("grey", [0, 1]), ("grey", [0, 2])], "values", {0: "background", 1: "label_1", 2: "label_2"}),
        ([("palette", [0, 1, 255])], "values", {0: "background", 1: "label_1", 255: "label_255"}),
        ([("colours", [0, 0xFF0000]), ("grey", [0])], "colours", {0: "background", 0xFF0000: "#ff0000"}),
    ],
)
def test_classes_are_found(masks, kind, labels):
    coding = find_coding(masks_of(*masks), "organ")
    assert (coding.kind, coding.labels) == (kind, labels)
    assert stored(coding) == coding


def test_names_are_those_of_two_values():
    assert find_coding(masks_of(("grey", [0, 7])), "x", ("a", "b")).labels == {0: "a", 7: "b"}
    with pytest.raises(PocketError, match=r"a,b names two classes, but the masks have 3 \(0, 1, 2\)"):
        find_coding(masks_of(("grey", [0, 1, 2])), "x", ("a", "b"))
    with pytest.raises(PocketError, match=r"names two classes, but the masks have 2 \(#000000, #ff0000\)"):
        find_coding(masks_of(("colours", [0, 0xFF0000])), "x", ("a", "b"))


def test_a_photograph_is_no_mask(tmp_path, capsys):
    with pytest.raises(PocketError, match=r"1.png: the masks have 100, this one 90 different values; declare the clas"):
        find_coding(masks_of(("grey", [0, 1]), ("grey", list(range(90))), ("grey", list(range(10, 100)))), "organ")
    root = write_pairs(tmp_path, 3)
    save(disc(1)[0], root / "masks" / "case_01.png")
    said = " ".join(checked(root, capsys, code=1).split())
    assert "masks/case_01.png masks such as this one hold " in said
    assert "1 error and 0 warnings" in said


def test_solid_areas_are_counted(tmp_path):
    pixels = np.zeros((9, 12), np.uint8)
    pixels[2:6, 3:8] = 7  # 4 x 5, of which 2 x 3 have only such neighbours
    found = mask_values(save(pixels, tmp_path / "a.png"))
    assert found.counts == {0: 9 * 12 - 20, 7: 20}
    assert found.solid[7] == 6
    assert mask_values(save(pixels[:1], tmp_path / "b.png")).solid == {}


# Two values and smoothed edges, or classes


def write_masks(root: Path, *masks: np.ndarray) -> Path:
    for index, mask in enumerate(masks):
        save(disc(index, mask.shape)[0], root / "images" / f"{index}.png")
        save(mask, root / "masks" / f"{index}.png")
    return root


def test_grey_areas_are_no_smoothed_edges(tmp_path, fails, capsys):
    mask = np.zeros((40, 56), np.uint8)
    mask[5:15, 5:15], mask[5:15, 20:30], mask[20:30, 5:15] = 85, 170, 255
    root = write_masks(tmp_path / "four", mask, mask)
    said = " ".join(checked(root, capsys, code=1).split())
    assert "0.png masks such as this one hold 85, 170 between 0 and 255, too few for smoothed edges" in said
    assert "--classes background=0,NAME=VALUE" in said
    fails(["check", str(root), "--workers=1", "--classes=background,lesion"])  # 85 would vanish
    said = checked(root, capsys, "--classes=background=0,a=85,b=170,c=255")
    assert "classes: background (0), a (85), b (170), c (255)" in said
    many = mask.copy()
    for number in range(12):  # fourteen classes of 3 x 3 pixels
        many[33:36, 3 + 4 * number : 6 + 4 * number] = 10 + 5 * number
    said = " ".join(checked(write_masks(tmp_path / "many", many), capsys, code=1).split())
    assert "too many pixels for smoothed edges declare the classes with --classes" in said


def test_a_border_that_does_not_count_is_no_class(tmp_path, fails, capsys):
    mask = disc(0, value=1)[1]
    mask[ndimage.binary_dilation(mask) & (mask == 0)] = 255
    root = write_masks(tmp_path, mask, disc(1, value=1)[1])
    assert "hold 1 between 0 and 255" in fails(["check", str(root), "--workers=1"])
    said = checked(root, capsys, "--classes=background=0,organ=1,ignore=255")
    assert "classes: background (0), organ (1)" in said


@pytest.mark.parametrize("quality", [50, 60, 75, 95, 100])
def test_jpeg_is_smoothed_at_the_edges(tmp_path, quality):
    found = []
    for index in range(3):
        mask = disc(index)[1]
        save(mask, tmp_path / f"{index}.jpg", quality=quality)
        found.append(mask_values(tmp_path / f"{index}.jpg"))
    assert find_coding(found, "organ").kind == "threshold"


def test_interpolated_edges_are_smoothed_edges(tmp_path):
    mask = np.where(conic((30, 40), 14, 19, 11, 7, 0.3) < 1, 255, 0).astype(np.uint8)
    for name, size, method in (
        ("up", (137, 101), Image.Resampling.BILINEAR),
        ("cubic", (137, 101), Image.Resampling.BICUBIC),
        ("down", (23, 17), Image.Resampling.LANCZOS),
    ):
        Image.fromarray(mask).resize(size, method).save(tmp_path / f"{name}.png")
        found = mask_values(tmp_path / f"{name}.png")
        assert len(found.counts) > 10
        assert find_coding([found], "organ").kind == "threshold", name


def test_few_grey_values_of_edges_are_declared(tmp_path, fails, capsys):
    whole = disc(0, (80, 112))[1]
    Image.fromarray(whole).resize((56, 40), Image.Resampling.BOX).save(tmp_path / "half.png")
    root = write_masks(tmp_path / "data", np.array(Image.open(tmp_path / "half.png")))
    assert "hold 64, 128, 191" in fails(["check", str(root), "--workers=1"]).replace("192", "191")
    coding = parse_coding("background=0+64,lesion=128+191+192+255").coding
    read = read_mask(root / "masks" / "0.png", coding).label
    shares = whole.reshape(40, 2, 56, 2).mean(axis=(1, 3)) / 255
    np.testing.assert_array_equal(read, shares >= 0.5)
    checked(root, capsys, "--classes=background=0+64,lesion=128+191+192+255")


def test_a_map_of_probabilities_is_cut_where_two_classes_are_named(tmp_path, fails, capsys):
    blurred = ndimage.gaussian_filter(disc(0, (60, 80))[1].astype(float), 6)
    root = write_masks(tmp_path, np.round(blurred / blurred.max() * 255).astype(np.uint8))
    assert "too many pixels for smoothed edges" in fails(["check", str(root), "--workers=1"])
    said = checked(root, capsys, "--classes=background,lesion")
    assert "1 of 1 masks have grey values between background and class, cut at half" in said


# Values that differ between the files


@pytest.mark.parametrize(
    ("other", "least"),
    [(np.uint8(1), "1, that of the others 255"), (np.uint16(65535), "255, that of the others 65535")],
)
def test_masks_of_other_values_are_errors_of_their_own(tmp_path, capsys, other, least):
    root = write_pairs(tmp_path, 4)
    for index in (1, 2):
        save((disc(index)[1] > 0) * other, root / "masks" / f"case_{index:02d}.png")
    said = " ".join(checked(root, capsys, code=1).split())
    faint = ("case_01", "case_02") if other == 1 else ("case_00", "case_03")
    for name in faint:
        assert f"masks/{name}.png its largest value is {least} store it with the values of the others" in said
    assert "2 errors and 0 warnings" in said


def test_empty_masks_may_be_among_others(tmp_path, capsys):
    root = write_pairs(tmp_path, 3)
    save(np.zeros((40, 56), np.uint16), root / "masks" / "case_01.png")
    assert "warning: 1 of 3 masks are empty: case_01.png" in checked(root, capsys)


@pytest.mark.parametrize(
    ("value", "finding"),
    [
        (np.nan, "NaN or infinite pixels of the mask: 1"),
        (np.inf, "NaN or infinite pixels of the mask: 1"),
        (-1.0, "values of the mask are negative (-1)"),
        (0.5, "values of the mask are not whole numbers (0.5)"),
    ],
)
@pytest.mark.parametrize("classes", [[], ["--classes=background,a=1"]])
def test_masks_hold_whole_numbers(tmp_path, capsys, value, finding, classes):
    image, mask = disc(0)
    floats = (mask > 0).astype(np.float32)
    floats[0, 0] = value
    save(image, tmp_path / "images" / "a.png")
    save(floats, tmp_path / "masks" / "a.tif")
    said = " ".join(checked(tmp_path, capsys, *classes, code=1).split())
    assert f"masks/a.tif {finding} store the class of each pixel, a whole number from 0" in said
    whole = read_mask(save((mask > 0).astype(np.float32), tmp_path / "b.tif"), parse_coding("background,a=1").coding)
    np.testing.assert_array_equal(whole.label, mask > 0)


# Palettes


@pytest.mark.parametrize("padding", [0, 254])
def test_a_palette_of_black_and_white_is_read_by_its_colours(tmp_path, padding):
    marked = disc(3)[1] > 0
    rest = [0, 0, 0] * padding
    inverted = palette_mask(tmp_path / "a.png", ~marked, [255, 255, 255, 0, 0, 0, *rest])
    plain = palette_mask(tmp_path / "b.png", marked, [0, 0, 0, 255, 255, 255, *rest])
    empty = palette_mask(tmp_path / "c.png", np.ones_like(marked), [255, 255, 255, 0, 0, 0, *rest])
    coding = find_coding([mask_values(path) for path in (inverted, plain, empty)], "organ")
    assert coding.labels == {0: "background", 255: "organ"}
    for path in (inverted, plain):
        np.testing.assert_array_equal(read_mask(path, coding).label, marked)
    assert not read_mask(empty, coding).label.any()


def test_another_palette_is_read_by_its_indices(tmp_path):
    marked = disc(3)[1] > 0
    path = palette_mask(tmp_path / "a.png", marked, [255, 255, 255, 200, 0, 0])
    coding = find_coding([mask_values(path)], "organ")
    assert (coding.kind, coding.labels) == ("threshold", {0: "background", 1: "organ"})
    np.testing.assert_array_equal(read_mask(path, coding).label, marked)


# Declared


def test_classes_are_declared():
    assert parse_coding("background,lesion").names == ("background", "lesion")
    assert parse_coding("background,a,b").coding == MaskCoding("values", {0: "background", 1: "a", 2: "b"})
    merged = parse_coding("background=0,a=10+20,ignore=255").coding
    label, undeclared = merged.decode(np.array([[0, 10, 20, 255, 7]]))
    assert (label.tolist(), undeclared.tolist()) == ([[0, 1, 1, 255, 0]], [7])
    assert (merged.classes, merged.label_values, merged.ignore_index) == (["background", "a"], [0, 10], 255)
    colours = parse_coding("road=#804080,car=#400080,sky=#808080").coding
    assert colours.classes == ["road", "car", "sky"]  # in the order given
    assert colours.decode(np.array([[0x808080, 0x804080, 0x400080]]))[0].tolist() == [[2, 0, 1]]
    for wrong in ("a=#80408,b=#000000", "a=#000000,b=#000000", "a=#000000", "a=#000000,b=1"):
        with pytest.raises(PocketError, match="classes: "):
            parse_coding(wrong)


def test_the_first_class_is_the_background_whatever_its_value():
    inverted = parse_coding("background=255,lesion=0").coding
    assert (inverted.classes, inverted.label_values) == (["background", "lesion"], [255, 0])
    assert inverted.decode(np.array([[255, 0]]))[0].tolist() == [[0, 1]]
    assert inverted.encode(np.array([[0, 1]])).tolist() == [[255, 0]]
    merged = parse_coding("background=7+3,lesion=0").coding
    assert merged.label_values == [3, 0]  # the lowest of a class
    for wrong in ("lesion=255,background=0", "lesion,background", "a,Background,b", "a=#ff0000,background=#000000"):
        with pytest.raises(PocketError, match=r"the first class is the background: put '.ackground' first"):
            parse_coding(wrong)


# Read and written


@pytest.mark.parametrize(
    "classes",
    [
        "background=#000000,green=#00ff00,red=#ff0000",  # their numbers sort otherwise as text
        "background=#ffffff,lesion=#ff0000",
        "road=#804080,car=#400080+#000001,sky=#808080,ignore=#000000",
        "background=0,a=2,b=10,c=1",
        "background=255,lesion=0",
    ],
)
def test_the_order_of_the_classes_survives_a_file(classes):
    coding = parse_coding(classes).coding
    again = stored(coding)
    assert (again.classes, again.label_values) == (coding.classes, coding.label_values)
    values = np.array([list(coding.labels)])
    np.testing.assert_array_equal(again.decode(values)[0], coding.decode(values)[0])
    with pytest.raises(PocketError, match=r"^cache: the classes are x, y, but its masks have "):
        MaskCoding.from_dict(coding.to_dict(), ["x", "y"], "cache")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_a_threshold_cuts_at_half(tmp_path, suffix):
    path = save(np.array([[0, 127, 128, 255]], np.uint8), tmp_path / f"mask.{suffix}")
    mask = read_mask(path, BINARY)
    assert mask.label.tolist() == [[0, 0, 1, 1]]
    assert mask.smoothed == 2


def test_masks_of_many_modes(tmp_path):
    expected = disc(3)[1] > 0
    save(expected, tmp_path / "one_bit.png")
    save(np.stack([expected * np.uint8(255)] * 3, -1), tmp_path / "rgb.png")
    transparent = np.stack([*[expected * np.uint8(255)] * 3, np.zeros(expected.shape, np.uint8)], -1)
    save(transparent, tmp_path / "rgba.png")  # a mask says nothing by its transparency
    for name in ("one_bit", "rgb", "rgba"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png", BINARY).label, expected)
    save(expected * np.uint16(65535), tmp_path / "word.png")
    wide = MaskCoding("threshold", {0: "background", 65535: "lesion"})
    np.testing.assert_array_equal(read_mask(tmp_path / "word.png", wide).label, expected)


def test_what_is_written_is_read_again(tmp_path):
    label = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    for name, coding in {
        "values": parse_coding("background,a=7,b=200").coding,
        "colours": parse_coding("background=#000000,a=#ff8000,b=#0000ff").coding,
        "wide": parse_coding("background,a=300,b=40000").coding,
    }.items():
        write_mask(tmp_path / f"{name}.png", label, coding)
        assert read_mask(tmp_path / f"{name}.png", coding).label.tolist() == label.tolist()
    with Image.open(tmp_path / "colours.png") as image:
        assert np.array(image.convert("RGB"))[0].tolist() == [[0, 0, 0], [255, 128, 0], [0, 0, 255]]
        assert np.array(image)[0].tolist() == [0, 1, 2]
    write_mask(tmp_path / "binary.png", label.clip(0, 1), BINARY)
    with Image.open(tmp_path / "binary.png") as image:
        assert sorted(set(np.array(image).ravel().tolist())) == [0, 255]


def test_an_outline_is_filled():
    grid = conic((80, 90), 40, 45, 30, 20, 0.7)
    ring = ((grid > 0.9) & (grid < 1)).astype(np.uint8)
    np.testing.assert_array_equal(fill_outline(ring), grid < 1)
    gap = ring.copy()
    gap[:, 40:52] = 0
    filled = fill_outline(gap) > 0
    assert 2 * (filled & (grid < 1)).sum() / (filled.sum() + (grid < 1).sum()) > 0.97
    solid = (grid < 1).astype(np.uint8)
    np.testing.assert_array_equal(fill_outline(solid), solid)
    assert not fill_outline(np.zeros((9, 9), np.uint8)).any()
