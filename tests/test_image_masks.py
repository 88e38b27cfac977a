"""Layouts of 2D images with masks, what `pocket check` says of damaged ones, and splits by groups."""

from __future__ import annotations

import shutil
from collections import Counter

import numpy as np
import pytest
from image_datasets import checked
from mask_datasets import (
    cases_of,
    conic,
    disc,
    found,
    save,
    write_busi,
    write_hc18,
    write_index,
    write_pairs,
)
from PIL import Image

from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.group_split import parse_split, split_groups
from lightning_pocket.data.groups import apportion
from lightning_pocket.data.images2d.coding import MaskCoding, parse_coding
from lightning_pocket.data.images2d.masks import read_mask, read_masks
from lightning_pocket.data.images2d.read import read_file
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.errors import PocketError

BINARY = MaskCoding("threshold", {0: "background", 255: "lesion"})


# Layouts


def test_folders_of_images_and_masks(tmp_path):
    write_pairs(tmp_path, 3)
    columns = {"file": ["case_00.png", "case_01.png"], "group": ["p", "p"], "pixel_mm": ["0.5", "0.2x0.3"]}
    write_index(tmp_path, columns | {"fold": ["1", "1"], "class": ["ill", "well"]})
    layout = found(tmp_path, "image_masks")
    cases = cases_of(layout)
    assert cases["case_00"].file == tmp_path / "images" / "case_00.png"
    assert cases["case_00"].masks == (tmp_path / "masks" / "case_00.png",)
    assert (cases["case_00"].pixel_mm, cases["case_01"].pixel_mm) == ((0.5, 0.5), (0.2, 0.3))
    assert cases["case_01"].assignment == Assignment(1, None, "p")
    assert layout.class_names == ["ill", "well"]
    assert cases["case_02"] == ImageCase("case_02", cases["case_02"].images, None, masks=cases["case_02"].masks)


def test_masks_may_have_a_suffix_and_another_format(tmp_path):
    for split in ("train", "test"):
        image, mask = disc(0)
        save(image, tmp_path / split / "img" / "a.jpg")
        save(mask, tmp_path / split / "masks" / "a_mask.bmp")
        save(mask, tmp_path / split / "masks" / "a_mask_1.png")
    cases = find_layout(tmp_path).cases()
    assert [(case.subject, case.split, len(case.masks)) for case in cases] == [("a", "test", 2), ("a", "train", 2)]
    flat = tmp_path / "flat"
    save(image, flat / "b.tif")
    save(mask, flat / "b_mask.png")
    save(mask, flat / "stray_mask.png")
    layout = found(flat, "image_masks")
    assert cases_of(layout)["b"].masks == (flat / "b_mask.png",)


def test_the_release_of_busi(tmp_path):
    layout = found(write_busi(tmp_path), "busi")
    cases = cases_of(layout)
    assert Counter(case.class_name for case in cases.values()) == {"benign": 3, "malignant": 2, "normal": 1}
    assert [mask.name for mask in cases["benign (2)"].masks] == ["benign (2)_mask.png", "benign (2)_mask_1.png"]
    union = disc(1)[1] > 0
    union[:3, :4] = True  # the second mask
    np.testing.assert_array_equal(read_masks(cases["benign (2)"], BINARY, (40, 56)).label, union)
    assert not read_masks(cases["normal (1)"], BINARY, (40, 56)).label.any()
    assert layout.unlisted() == []


def test_the_release_of_hc18(tmp_path):
    ellipses = write_hc18(tmp_path)
    layout = found(tmp_path, "hc18")
    cases = cases_of(layout)
    assert (cases["001_HC"].group, cases["001_2HC"].group, cases["002_HC"].group) == ("001", "001", "002")
    assert cases["001_2HC"].pixel_mm == (0.2, 0.2)
    coding = MaskCoding("threshold", {0: "background", 255: "head"}, outlined=True)
    for name, ellipse in ellipses.items():
        label = read_masks(cases[name], coding, (120, 160)).label > 0
        truth = conic((120, 160), *ellipse) < 1
        assert 2 * (label & truth).sum() / (label.sum() + truth.sum()) > 0.99, name


def test_a_table_of_images_and_masks(tmp_path):
    write_pairs(tmp_path, 2)
    rows = ["subject,image,mask,group,split,pixel_mm,note", "a,images/case_00.png,masks/case_00.png,g,train,0.1,x"]
    (tmp_path / "list.csv").write_text("\n".join([*rows, "b,images/case_01.png,,g,train,,y"]), encoding="utf-8")
    cases = cases_of(found(tmp_path / "list.csv", "mask_table"))
    assert cases["a"].masks == (tmp_path / "masks" / "case_00.png",)
    assert (cases["a"].split, cases["a"].group, cases["a"].pixel_mm) == ("train", "g", (0.1, 0.1))
    assert (cases["b"].masks, cases["b"].pixel_mm) == ((), None)
    (tmp_path / "bad.csv").write_text("subject,image,mask,pixel_mm\na,x.png,y.png,-1\n", encoding="utf-8")
    with pytest.raises(PocketError, match=r"bad.csv, line 2: pixel_mm is '-1', expected a size in mm"):
        find_layout(tmp_path / "bad.csv")


# What check says


def test_a_good_data_set_is_summed_up(tmp_path, capsys):
    write_index(write_pairs(tmp_path, 4), {"file": [f"case_{i:02d}.png" for i in range(4)], "pixel_mm": ["0.25"] * 4})
    said = checked(tmp_path, capsys)
    assert "4 images; classes: background (0), foreground (255)\n" in said
    assert "median size 40 x 56 pixels (H x W), of 0.25 x 0.25 mm; no errors" in said


def test_each_fault_is_one_line(tmp_path, capsys):
    write_pairs(tmp_path, 8)
    save(disc(0, (30, 42))[1], tmp_path / "masks" / "case_00.png")
    image, mask = disc(1)
    blurred = (
        Image.fromarray(mask).resize((28, 20), Image.Resampling.BILINEAR).resize((56, 40), Image.Resampling.BILINEAR)
    )
    blurred.save(tmp_path / "masks" / "case_01.png")
    save(np.zeros_like(mask), tmp_path / "masks" / "case_02.png")
    (tmp_path / "masks" / "case_03.png").unlink()
    save(image, tmp_path / "images" / "case_04.jpg")
    (tmp_path / "masks" / "case_05.png").write_bytes(b"no image")
    save(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8), tmp_path / "masks" / "case_06.png")
    said = " ".join(checked(tmp_path, capsys, "--classes=background,lesion=255", code=1).split())
    assert "masks/case_00.png the mask is 30 x 42 pixels (H x W), its image 40 x 56" in said
    assert "1 of 9 images have no mask: case_03.png" in said
    assert "--unlabelled_as_background" in said
    assert "images/case_04.jpg listed 2 times, also for images/case_04.png" in said
    assert "masks/case_05.png not an image that Pillow can read" in said
    assert "masks/case_06.png the mask is in colours" in said
    assert "pixels of the mask are no class (" in said  # declared as values, greys are no edges
    assert "1 of 8 masks are empty: case_02.png" in said  # that of case_03 is not there


def test_smoothed_edges_and_jpeg_are_cut_at_half_with_a_warning(tmp_path, capsys):
    write_pairs(tmp_path, 3)
    mask = disc(2)[1]
    (tmp_path / "masks" / "case_02.png").unlink()
    save(mask, tmp_path / "masks" / "case_02.jpg", quality=60)
    said = checked(tmp_path, capsys)
    assert "warning: 1 of 3 masks have grey values between background and class, cut at half: case_02.jpg" in said
    read = read_mask(tmp_path / "masks" / "case_02.jpg", BINARY)
    assert read.smoothed > 0
    np.testing.assert_array_equal(read.label, mask > 0)


def test_an_image_without_a_mask_may_be_background(tmp_path, capsys):
    write_pairs(tmp_path, 3)
    (tmp_path / "masks" / "case_01.png").unlink()
    said = checked(tmp_path, capsys, code=1)
    assert "empty" not in said
    assert "1 error and 0 warnings in 1 of 3 cases" in said
    said = checked(tmp_path, capsys, "--unlabelled_as_background")
    assert "warning: 1 of 3 images have no mask: case_01.png" in said
    assert "empty" not in said


def test_masks_of_different_classes_do_not_overlap(tmp_path):
    for name, value in (("a_mask", 1), ("a_mask_1", 2)):
        pixels = np.zeros((4, 4), np.uint8)
        pixels[1:3, 1:3] = value
        save(pixels, tmp_path / f"{name}.png")
    case = ImageCase("a", (tmp_path / "a.png",), None, masks=(tmp_path / "a_mask.png", tmp_path / "a_mask_1.png"))
    with pytest.raises(PocketError, match="gives 4 pixels another class than another mask"):
        read_masks(case, parse_coding("background,x,y").coding, (4, 4))


def test_images_of_many_modes_have_masks(tmp_path, capsys):
    (grey, mask), turned = disc(0), Image.Exif()
    turned[0x0112] = 6  # stored on its side
    save(np.stack([grey, grey, grey, np.full_like(grey, 255)], -1), tmp_path / "images" / "rgba.png")
    save(grey * np.uint16(257), tmp_path / "images" / "word.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "images" / "palette.png")
    Image.fromarray(np.rot90(grey)).save(tmp_path / "images" / "turned.jpg", exif=turned, quality=95)
    for name in ("rgba", "word", "palette", "turned"):
        save(mask, tmp_path / "masks" / f"{name}.png")
    assert "4 images; classes: background (0), foreground (255)" in checked(tmp_path, capsys)
    cases = cases_of(found(tmp_path, "image_masks"))
    for name, scale in (("rgba", 1), ("word", 257), ("palette", 1), ("turned", 1)):
        pixels = read_file(cases[name].file).pixels
        pixels = pixels if pixels.ndim == 2 else pixels[..., 0]
        assert np.abs(pixels / scale - grey).max() < 40, name  # JPEG is lossy
        np.testing.assert_array_equal(read_masks(cases[name], BINARY, pixels.shape).label, mask > 0)


def test_names_of_two_classes_do_not_fit_three(tmp_path, fails):
    write_pairs(tmp_path, 2, value=1)
    save(np.full((40, 56), 2, np.uint8), tmp_path / "masks" / "case_01.png")
    assert "names two classes, but the masks have 3 (0, 1, 2)" in fails(
        ["check", str(tmp_path), "--classes=background,lesion", "--workers=1"]
    )


def test_options_of_masks_are_refused_elsewhere(blobs, fails, tmp_path):
    assert "unlabelled_as_background: is for 2D images" in fails(["check", str(blobs), "--unlabelled_as_background"])
    write_pairs(tmp_path / "data", 2)
    message = fails(["prepare", str(tmp_path / "data"), f"--output={tmp_path / 'c'}", "--crop=nonzero"])
    assert "crop: nonzero is for volumes" in message


# Splits by groups


def test_numbers_are_divided_in_proportion():
    assert apportion(348, [0.6, 0.2, 0.2]) == [209, 70, 69]  # 208.8, 69.6, 69.6
    assert apportion(10, [0.6, 0.2, 0.2]) == [6, 2, 2]  # 0.6 times 10 is a little less than 6
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(2, [0, 3, 1, 4]) == [0, 1, 0, 1]
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = rng.integers(0, 50, 4).tolist()
        weights[0] += 1
        total = int(rng.integers(0, sum(weights)))
        shares = [total * weight / sum(weights) for weight in weights]
        found = apportion(total, weights)
        assert sum(found) == total
        assert all(abs(count - share) < 1 for count, share in zip(found, shares, strict=True))


def test_groups_are_split_by_numbers_and_shares():
    views = {f"p{number}_{view}": Assignment(group=f"p{number}") for number in range(348) for view in "ab"}
    folds = split_groups(views, parse_split("208,70,70"), seed=3)
    parts = {
        split: {name.partition("_")[0] for name, place in folds.items() if place.split == split}
        for split in ("train", "val", "test")
    }
    assert {split: len(members) for split, members in parts.items()} == {"train": 208, "val": 70, "test": 70}
    assert not parts["train"] & parts["val"] | parts["train"] & parts["test"] | parts["val"] & parts["test"]
    assert folds == split_groups(dict(reversed(views.items())), parse_split([208, 70, 70]), seed=3)
    assert folds != split_groups(views, parse_split("208,70,70"), seed=4)
    shares = split_groups(views, parse_split("0.6,0.2,0.2"))
    assert Counter(place.split for place in shares.values()) == {"train": 2 * 209, "val": 2 * 70, "test": 2 * 69}


def test_a_split_gives_each_class_its_share():
    kinds = {f"c{index}": "rare" if index % 5 == 0 else "common" for index in range(100)}
    folds = split_groups({name: Assignment() for name in kinds}, parse_split("0.6,0.2,0.2"), 1, kinds)
    counts = Counter((kinds[name], place.split) for name, place in folds.items())
    assert counts == {
        ("rare", "train"): 12,
        ("rare", "val"): 4,
        ("rare", "test"): 4,
        ("common", "train"): 48,
        ("common", "val"): 16,
        ("common", "test"): 16,
    }


@pytest.mark.parametrize("given", ["1,2", "a,b,c", "0.5,0.2,0.2", "-1,1,1", "0,1,1", [0.5, 0.5]])
def test_a_wrong_split_is_refused(given):
    with pytest.raises(PocketError, match=r"split: is .* expected numbers of groups"):
        parse_split(given)


def test_a_split_that_does_not_add_up_is_refused(tmp_path, fails):
    write_pairs(tmp_path / "data", 4)
    arguments = ["prepare", str(tmp_path / "data"), f"--output={tmp_path / 'cache'}", "--workers=1"]
    assert "3 + 1 + 1 is 5, but the data set has 4 groups" in fails([*arguments, "--split=3,1,1"])
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert "split: is 2,1,1, but --folds" in fails([*arguments, "--split=2,1,1", "--folds=x.csv"])
