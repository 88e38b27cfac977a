"""Layouts of 2D images, and what `pocket check` says of damaged ones."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from image_datasets import checked, picture, write_classes, write_covidx, write_image_table, write_medmnist
from PIL import Image

from lightning_pocket.cli import main
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.layouts.images import ImageLayout
from lightning_pocket.errors import PocketError


def found(path: Path, name: str) -> ImageLayout:
    layout = find_layout(path)
    assert isinstance(layout, ImageLayout)
    assert (layout.name, layout.kind) == (name, "images")
    return layout


def test_covidx_is_read_from_the_right(tmp_path):
    layout = found(write_covidx(tmp_path), "covidx")
    cases = {case.subject: case for case in layout.image_cases()}
    assert len(cases) == 18
    case = cases["train(2).jpg"]
    assert (case.group, case.class_name, case.split) == ("P train 1 (sirm)", "negative", "train")
    assert case.file == tmp_path / "train" / "train(2).jpg"
    assert cases["test-3.png"].split == "test"
    assert layout.class_names == ["negative", "positive"]
    assert layout.unlisted() == []


@pytest.mark.data
def test_the_official_covidx_lists(real_data):
    cases = found(real_data / "covidx8b_mini" / "labels", "covidx").image_cases()
    counts = Counter((case.split, case.class_name) for case in cases)
    assert counts == {
        ("train", "positive"): 2158,
        ("train", "negative"): 13794,
        ("test", "positive"): 200,
        ("test", "negative"): 200,
    }
    spaced = [case for case in cases if case.group == "COVID 1 (sirm)"]
    assert [case.subject for case in spaced] == ["COVID(1).png"]
    assert len({case.subject for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x.png positive sirm", r"train_COVIDx8B.txt, line 2: has 3 fields \('x.png positive sirm'\), expected 4"),
        ("P 1 x.png maybe sirm", "line 2: the class is 'maybe', expected negative or positive"),
        ("P 1 x.png positive", "line 2: the class is 'x.png'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    file = write_covidx(tmp_path) / "train_COVIDx8B.txt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], line, *lines[2:]]))
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path)


def test_two_lists_for_one_split_are_refused(tmp_path):
    write_covidx(tmp_path)
    shutil.copy(tmp_path / "train_COVIDx8B.txt", tmp_path / "train_COVIDx9A.txt")
    with pytest.raises(PocketError, match=r"several lists .* \(train_COVIDx8B.txt, train_COVIDx9A.txt\)"):
        find_layout(tmp_path)


def test_missing_files_are_counted_and_skipped_only_when_told(tmp_path, capsys):
    write_covidx(tmp_path)
    for index in (1, 3, 5, 7):
        (tmp_path / "train" / f"train-{index}.png").unlink()
    said = checked(tmp_path, capsys, code=1)
    assert "4 of 18 image files are missing: train-1.png, train-3.png, train-5.png and 1 more" in said
    assert "--skip_missing" in said
    assert "1 error and 0 warnings" in said
    said = checked(tmp_path, capsys, "--skip_missing")
    assert "warning: 4 of 18 image files are missing" in said
    assert "14 images; classes: negative (9), positive (5); train 8, test 6" in said


def test_nothing_there_is_an_error_even_when_missing_files_are_skipped(tmp_path, capsys):
    write_covidx(tmp_path)
    shutil.rmtree(tmp_path / "train")
    shutil.rmtree(tmp_path / "test")
    said = checked(tmp_path, capsys, "--skip_missing", code=1)
    assert "18 of 18 image files are missing" in said
    assert "1 error" in said


def test_a_leak_between_training_and_test_is_an_error(tmp_path, capsys):
    test = write_covidx(tmp_path) / "test_COVIDx8B.txt"
    shutil.copy(tmp_path / "train" / "train-1.png", tmp_path / "test")
    with test.open("a", encoding="utf-8") as file:
        file.write("P train 0 train-1.png negative sirm\n")
    said = checked(tmp_path, capsys, code=1)
    assert "listed 2 times (in test, train)" in said
    assert "group 'P train 0 (sirm)' is in train (train(0).jpg) and test (train-1.png)" in said
    assert "warning: copies of 1 image are in several folds or splits" in said


def test_patients_of_different_sources_are_different(tmp_path, capsys):
    test = write_covidx(tmp_path) / "test_COVIDx8B.txt"
    test.write_text(
        test.read_text(encoding="utf-8").replace(
            "P test 0 test-1.png negative sirm", "P train 0 test-1.png negative fig1"
        )
    )
    assert "P train 0" in test.read_text(encoding="utf-8")
    assert "no errors" in checked(tmp_path, capsys)


@pytest.mark.parametrize("column", ["fold", "split"])
def test_a_group_that_comes_apart_is_an_error(tmp_path, capsys, fails, column):
    values = {"fold": "001111", "split": ["train", "train", "train", "test", "test", "test"]}[column]
    rows = [
        {"subject": f"s{i}", "image": f"{i}.png", "class": "ab"[i % 2], "group": f"p{i // 2}", column: values[i]}
        for i in range(6)
    ]
    rows[3][column] = values[0]  # p0 and p2 stay whole
    rows[2][column] = values[-1]
    table = write_image_table(tmp_path / "raw", rows)
    places = {"fold": "fold 1 (s2) and fold 0 (s3)", "split": "test (s2) and train (s3)"}
    said = checked(table, capsys, code=1)
    assert f"group 'p1' is in {places[column]}" in said
    assert "1 error" in said
    with pytest.raises(SystemExit):
        main(["prepare", str(table), f"--output={tmp_path / 'cache'}"])
    assert capsys.readouterr().out == said
    (tmp_path / "folds.csv").write_text("subject,fold\n" + "".join(f"s{i},{i % 2}\n" for i in range(6)))
    message = fails(["prepare", str(table), f"--output={tmp_path / 'cache'}", f"--folds={tmp_path / 'folds.csv'}"])
    assert f"{tmp_path / 'folds.csv'}: group 'p0' is in fold 0 (s0) and fold 1 (s1) (2 more groups" in message
    assert not (tmp_path / "cache").exists()
    (tmp_path / "folds.csv").write_text("subject,fold\n" + "".join(f"s{i},{i // 4}\n" for i in range(6)))
    main(["prepare", str(table), f"--output={tmp_path / 'cache'}", f"--folds={tmp_path / 'folds.csv'}"])  # mends it


def test_an_unlisted_image_is_a_warning(tmp_path, capsys):
    write_covidx(tmp_path)
    Image.fromarray(picture(77)).save(tmp_path / "train" / "extra.png")
    said = checked(tmp_path, capsys)
    assert "train/extra.png" in said
    assert "0 errors and 1 warning" in said


def png_of(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header announces many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_damaged_images_are_listed_with_the_reason(tmp_path, capsys):
    root = write_classes(tmp_path, {"cat": 6, "dog": 2})
    whole = (root / "cat" / "000.png").read_bytes()
    (root / "cat" / "000.png").write_bytes(whole[: len(whole) // 2])
    (root / "cat" / "001.png").write_bytes(b"no image")
    (root / "cat" / "002.png").write_bytes(png_of(11_000, 11_000))
    (root / "cat" / "003.png").write_bytes(png_of(60_000, 60_000))
    frames = [Image.fromarray(picture(i)) for i in range(3)]
    frames[0].save(root / "cat" / "004.tif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.array([[1, np.nan], [2, 3]], np.float32)).save(root / "cat" / "005.tif")
    Image.fromarray(np.full((5, 5), 7, np.uint8)).save(root / "dog" / "000.png")
    said = {line.split()[0]: line for line in checked(root, capsys, code=1).splitlines()}
    assert "truncated or damaged" in said["cat_000.png"]
    assert "not an image that Pillow can read" in said["cat_001.png"]
    assert "more than 89,478,485 pixels" in said["cat_002.png"]
    assert "more than 89,478,485 pixels" in said["cat_003.png"]
    assert "has 3 frames" in said["cat_004.tif"]
    assert "NaN or infinite pixels: 1" in said["cat_005.tif"]
    assert "warning: the image is 7 everywhere" in said["dog_000.png"]
    assert said["6"].startswith("6 errors and 1 warning in 7 of 10 cases")


def test_copies_of_two_classes_are_a_warning(tmp_path, capsys):
    write_classes(tmp_path, {"cat": 2, "dog": 2})
    Image.open(tmp_path / "cat" / "000.png").save(tmp_path / "dog" / "copy.bmp")
    said = checked(tmp_path, capsys)
    assert "copies of 1 image are of several classes, such as cat_000.png and dog_copy.bmp" in said


def test_a_table_names_everything(tmp_path):
    rows = [
        {"subject": f"s{i}", "image": f"{i}.png", "class": "ab"[i % 2], "fold": str(i % 2), "group": f"g{i // 2}"}
        | {"age": "7"}
        for i in range(4)
    ]
    layout = found(write_image_table(tmp_path, rows), "image_table")
    case = layout.image_cases()[3]
    assert (case.subject, case.class_name, case.fold, case.group, case.split) == ("s3", "b", 1, "g1", None)
    assert layout.class_names == ["a", "b"]
    layout.choose_classes(["b", "a"])
    assert layout.class_names == ["b", "a"]
    with pytest.raises(PocketError, match="lacks 'b', which"):
        layout.choose_classes(["a", "c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,image,class\ns,,a\n", "line 2: the image is blank"),
        ("subject,image,class\ns,1.png,\n", "line 2: the class is blank"),
        ("subject,image,class\ns,1.png\n", "line 2: has 2 cells, expected 3"),
        ("subject,image,class,split\ns,1.png,a,exam\n", "line 2: split is 'exam'"),
        ("subject,image,class\ns,1.png,a\nt,2.png,a\n", r"one class or none \(a\)"),
        ("subject,image,class,class\ns,1.png,a,a\n", "give each column a name of its own"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path / "t.csv")


def test_folders_are_classes_and_splits(tmp_path):
    plain = found(write_classes(tmp_path / "plain", {"dog": 2, "cat": 1}), "image_folders")
    assert [(c.subject, c.class_name, c.split) for c in plain.image_cases()] == [
        ("cat_000.png", "cat", None),
        ("dog_000.png", "dog", None),
        ("dog_001.png", "dog", None),
    ]
    for split in ("train", "valid", "test"):
        write_classes(tmp_path / "split" / split, {"dog": 2, "cat": 1})
    nested = found(tmp_path / "split", "image_folders")
    assert Counter(c.split for c in nested.image_cases()) == {"train": 3, "val": 3, "test": 3}
    assert len({c.subject for c in nested.image_cases()}) == 9


def test_images_outside_the_folders_of_classes_are_told(tmp_path, capsys):
    for split in ("train", "test"):
        write_classes(tmp_path / split, {"dog": 2, "cat": 1})
    (tmp_path / "fish").mkdir()
    (tmp_path / "train" / "cat" / ".thumbnails").mkdir()
    for name in ("train/loose.png", "fish/1.png", "train/cat/.thumbnails/000.png"):
        Image.fromarray(picture(50)).save(tmp_path / name)
    said = checked(tmp_path, capsys)
    assert "fish/1.png" in said
    assert "train/loose.png" in said
    assert said.count("warning: belongs to no case") == 2
    assert "6 images" in said


def test_images_that_would_have_one_name_are_an_error(tmp_path, capsys):
    write_classes(tmp_path, {"a": 2, "a_b": 1})
    Image.fromarray(picture(60)).save(tmp_path / "a" / "b_000.png")
    said = checked(tmp_path, capsys, code=1)
    assert "a_b_000.png  a/b_000.png  listed 2 times, also for a_b/000.png" in said


@pytest.mark.parametrize("parts", [("images", "annotated"), ("val", "valannotations"), ("imagesTr", "labelsTr2")])
def test_folders_of_images_and_masks_are_no_classes(tmp_path, parts):
    write_classes(tmp_path, dict.fromkeys(parts, 2))
    with pytest.raises(PocketError, match="no known layout"):
        find_layout(tmp_path)


def test_medmnist(tmp_path, capsys):
    arrays = write_medmnist(tmp_path / "set.npz", {"train": 5, "val": 2, "test": 3})
    layout = found(tmp_path / "set.npz", "medmnist")
    assert Counter(case.split for case in layout.image_cases()) == {"train": 5, "val": 2, "test": 3}
    assert layout.size == (9, 7)
    layout.choose_classes(["healthy", "ill"])
    last = layout.image_cases()[-1]
    assert (last.subject, last.class_name, last.member) == ("test_00002", "healthy", ("test_images", 2))
    with pytest.raises(PocketError, match=r"names 3 classes, but .* has 2"):
        layout.choose_classes(["a", "b", "c"])
    arrays["val_images"][1] = arrays["train_images"][3]
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    assert "copies of 1 image are in several folds or splits, such as train_00003 and val_00001" in checked(
        tmp_path / "set.npz", capsys
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.zeros((5, 14), np.uint8)}, r"train_labels has the shape \(5, 14\)"),
        ({"train_images": np.zeros((5, 9, 9, 9), np.uint8)}, r"train_images has the shape \(5, 9, 9, 9\)"),
        ({"val_images": np.zeros((2, 9, 9), np.float32)}, "val_images has the shape .* the type float32"),
    ],
)
def test_other_sets_of_medmnist_are_refused(tmp_path, change, message):
    arrays = write_medmnist(tmp_path / "set.npz", {"train": 5, "val": 2})
    np.savez_compressed(tmp_path / "set.npz", **arrays | change)
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path / "set.npz")


def test_a_truncated_npz_is_refused(tmp_path, fails):
    file = tmp_path / "set.npz"
    write_medmnist(file, {"train": 500})
    file.write_bytes(file.read_bytes()[:-200])
    assert str(file) in fails(["check", str(file)])


@pytest.mark.data
def test_real_images_pass_the_check(real_data, capsys):
    said = checked(real_data / "covidx8b_mini", capsys)
    assert "210 images; classes: negative (106), positive (104); train 173, test 37" in said
    file = real_data / "pneumoniamnist" / "pneumoniamnist.npz"
    said = checked(file, capsys, "--classes=normal,pneumonia")
    assert "5856 images; classes: normal (1,583), pneumonia (4,273); train 4,708, val 524, test 624" in said
    assert "copies of 8 images are in several folds or splits" in said  # as the origin of the file says
