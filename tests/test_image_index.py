"""Which files belong together: masks and their images, and the lines of `index.csv`."""

from __future__ import annotations

import numpy as np
import pytest
from image_datasets import checked
from mask_datasets import cases_of, disc, found, save, write_busi, write_hc18, write_index, write_pairs

from lightning_pocket.data.inputs import find_inputs, find_pictures
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.errors import PocketError

# The table beside the folders


@pytest.mark.parametrize("given", ["", "Dataset_BUSI_with_GT"])
@pytest.mark.parametrize("place", ["", "Dataset_BUSI_with_GT"])
def test_the_index_of_busi_may_lie_in_either_folder(tmp_path, given, place):
    root = write_busi(tmp_path) / given
    if given and not place:
        return  # above what is given
    names = [
        f"{kind} ({number}).png" for kind, count in (("benign", 3), ("malignant", 2)) for number in range(1, count + 1)
    ]
    write_index(tmp_path / place, {"file": [*names, "normal (1).png"], "group": ["g", "g", "h", "i", "j", "k"]})
    layout = found(root, "busi")
    assert {name: case.group for name, case in cases_of(layout).items()} == {
        "benign (1)": "g",
        "benign (2)": "g",
        "benign (3)": "h",
        "malignant (1)": "i",
        "malignant (2)": "j",
        "normal (1)": "k",
    }
    assert layout.unindexed == []


@pytest.mark.parametrize("place", ["training_set", ""])
def test_the_index_of_hc18_may_lie_in_either_folder(tmp_path, place):
    write_hc18(tmp_path)
    write_index(tmp_path / place, {"file": ["001_HC.png", "001_2HC.png", "002_HC.png"], "fold": ["1", "1", "0"]})
    assert [case.fold for case in cases_of(found(tmp_path, "hc18")).values()] == [1, 1, 0]


@pytest.mark.parametrize("place", ["", "images", "masks"])
def test_the_index_of_folders_may_lie_in_any_of_them(tmp_path, place):
    write_index(write_pairs(tmp_path, 2) / place, {"subject": ["case_00", "case_01"], "group": ["a", "a"]})
    assert {case.group for case in found(tmp_path, "image_masks").image_cases()} == {"a"}


def test_two_tables_are_refused(tmp_path):
    columns = {"subject": ["case_00"], "group": ["a"]}
    write_index(write_index(write_pairs(tmp_path, 2), columns) / "images", columns)
    with pytest.raises(PocketError, match=r"index.csv and .*images/index.csv: several tables of the same images"):
        find_layout(tmp_path)


@pytest.mark.parametrize(
    ("columns", "finding"),
    [
        (
            {"subject": ["case_00", "case_01.png", "x"], "group": ["a", "a", "b"]},
            r"index.csv, line 3: 'case_01.png' and 1 more are no images of the data set, whose "
            r"images are called such as 'case_00'",
        ),
        ({"file": ["images/case_00.png", "other.png"], "group": ["a", "a"]}, r"line 3: 'other' is no image"),
        (
            {"subject": ["case_00", "case_01", "case_00"], "group": ["a", "b", "c"]},
            r"line 4: 'case_00' is in line 2 al",
        ),
        ({"file": ["case_00.png", "a/case_00.png"], "group": ["a", "b"]}, r"line 3: 'a/case_00.png' is in line 2 alre"),
        ({"name": ["case_00"], "group": ["a"]}, r"index.csv: columns are name, group; expected subject or file"),
    ],
)
def test_lines_that_would_be_lost_are_errors(tmp_path, fails, columns, finding):
    write_index(write_pairs(tmp_path, 3), columns)
    with pytest.raises(PocketError, match=finding):
        find_layout(tmp_path)
    fails(["check", str(tmp_path), "--workers=1"])


def test_images_without_a_line_are_a_warning(tmp_path, capsys):
    write_index(write_pairs(tmp_path, 5), {"file": ["case_01.png"], "group": ["a"]})
    said = checked(tmp_path, capsys)
    assert "4 of 5 images have no line in index.csv: case_00.png, case_02.png, case_03.png and 1 more" in said
    names = [f"case_{number:02d}.png" for number in range(5)]
    write_index(tmp_path, {"file": names, "group": ["a"] * 5})
    assert "index.csv" not in checked(tmp_path, capsys)


# Masks and their images


def test_a_mask_without_its_image_is_no_image(tmp_path, capsys):
    for index in range(3):
        image, mask = disc(index)
        save(image, tmp_path / f"c{index}.png")
        save(mask, tmp_path / f"c{index}_mask.png")
    (tmp_path / "c1.png").unlink()
    assert sorted(cases_of(found(tmp_path, "image_masks"))) == ["c0", "c2"]
    said = " ".join(checked(tmp_path, capsys, "--unlabelled_as_background").split())
    assert "c1_mask.png warning: belongs to no case" in said
    with pytest.warns(UserWarning, match=r"1 file called like the mask .* is left out \(c1_mask.png\)"):
        assert [case.subject for case in find_pictures([str(tmp_path)])] == ["c0", "c2"]
    given = [str(tmp_path / "c1_mask.png"), str(tmp_path / "c0.png")]
    assert [case.subject for case in find_pictures(given)] == ["c1_mask", "c0"]  # what is named is meant
    for name in ("c0.png", "c2.png"):
        (tmp_path / name).unlink()
    with pytest.raises(PocketError, match="holds no images but what is called like masks"):
        find_pictures([str(tmp_path)])


def test_images_in_folders_below_are_left_out_with_a_word(tmp_path):
    for name in ("a.png", "sub/b.png", "sub/deep/c.jpg", "sub/.hidden/d.png", ".hidden/e.png"):
        save(disc(0)[0], tmp_path / name)
    (tmp_path / "sub" / "notes.txt").write_text("no image", encoding="utf-8")
    with pytest.warns(UserWarning, match=r": 2 images in subfolders are left out \(sub/b.png\); give the folders too"):
        assert [case.subject for case in find_pictures([str(tmp_path)])] == ["a"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(PocketError, match=r"holds no images; .*; its subfolders hold 2: give those, such as .*/sub\."):
        find_pictures([str(tmp_path)])
    for name in ("a.nii.gz", "sub/b.nii.gz", "sub/b.png"):
        (tmp_path / name).touch()
    with pytest.warns(UserWarning, match=r": 1 image in a subfolder is left out \(sub/b.nii.gz\)"):
        assert [case.subject for case in find_inputs([str(tmp_path)], ["CT"])] == ["a"]


def test_images_may_be_called_like_masks(tmp_path):
    for name in ("scan", "scan_seg_1"):
        image, mask = disc(len(name))
        save(image, tmp_path / "two" / "images" / f"{name}.png")
        save(mask, tmp_path / "two" / "masks" / f"{name}.png")
        save(image, tmp_path / "one" / f"{name}.png")
        save(mask, tmp_path / "one" / f"{name}_mask.png")
    save(np.zeros((40, 56), np.uint8), tmp_path / "two" / "masks" / "scan_mask_1.png")
    two, one = (cases_of(found(tmp_path / folder, "image_masks")) for folder in ("two", "one"))
    assert {name: [mask.name for mask in case.masks] for name, case in two.items()} == {
        "scan": ["scan.png", "scan_mask_1.png"],
        "scan_seg_1": ["scan_seg_1.png"],
    }
    assert {name: [mask.name for mask in case.masks] for name, case in one.items()} == {
        "scan": ["scan_mask.png"],
        "scan_seg_1": ["scan_seg_1_mask.png"],
    }
    assert [case.subject for case in find_pictures([str(tmp_path / "one")])] == ["scan", "scan_seg_1"]
