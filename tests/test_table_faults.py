"""Tables of groups, folds and splits: misspelt columns, columns that are not read, and every wrong line at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import write_table
from image_datasets import checked, write_image_table
from mask_datasets import save, write_index, write_pairs

from lightning_pocket.cli import main
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.layouts.table_faults import refuse_misspelt
from lightning_pocket.errors import PocketError

KNOWN = ("subject", "file", "group", "fold", "split", "class", "pixel_mm")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("Group", "group"),
        ("GROUP ID", "group"),
        ("groups", "group"),
        ("gruop", "group"),
        ("patient", "group"),
        ("Patient-ID", "group"),
        ("subject_id", "group"),
        ("Fold", "fold"),
        ("folds", "fold"),
        ("Splits", "split"),
        ("pixel mm", "pixel_mm"),
        ("Class", "class"),
    ],
)
def test_a_column_that_means_a_known_one_is_refused(name, meant):
    with pytest.raises(PocketError, match=rf"t.csv: the column '{name}' .* '{meant}' is; rename it to {meant}, or rem"):
        refuse_misspelt(Path("t.csv"), ["file", name], KNOWN)


def test_other_columns_are_not_refused():
    others = ["age", "sex", "site", "note", "", "old", "T1", "flair", "CT", "image_2", "patient", "groups", "id"]
    refuse_misspelt(Path("t.csv"), ["subject", "group", "fold", *others], KNOWN)  # there is a group beside patient
    with pytest.raises(PocketError, match="the column 'Group' is not read, but 'group' is there too; remove one"):
        refuse_misspelt(Path("t.csv"), ["subject", "group", "Group"], KNOWN)


def write_mask_table(root: Path, extra: str) -> Path:
    write_pairs(root, 3)
    lines = [f"c{index},images/case_0{index}.png,masks/case_0{index}.png,g{index // 2}" for index in range(3)]
    (root / "list.csv").write_text("\n".join([f"subject,image,mask,{extra}", *lines]) + "\n", encoding="utf-8")
    return root / "list.csv"


def write_case_table(root: Path, extra: str) -> Path:
    return write_table(root, cases=3, extra={extra: ["g0", "g0", "g1"]})


def write_class_table(root: Path, extra: str) -> Path:
    rows = [{"subject": f"s{i}", "image": f"{i}.png", "class": "ab"[i % 2], extra: f"g{i // 2}"} for i in range(3)]
    return write_image_table(root, rows)


def write_indexed(root: Path, extra: str) -> Path:
    names = [f"case_0{index}.png" for index in range(3)]
    return write_index(write_pairs(root, 3), {"file": names, extra: ["g0", "g0", "g1"]})


@pytest.mark.parametrize("write", [write_mask_table, write_case_table, write_class_table, write_indexed])
def test_patients_do_not_leak_through_a_misspelt_column(tmp_path, write, fails, capsys):
    for name in ("Group", "patient", "groups"):
        data = write(tmp_path / name, name)
        for command in (["check"], ["prepare", f"--output={tmp_path / 'cache'}"]):
            said = fails([command[0], str(data), *command[1:], "--workers=1"])
            assert f"the column '{name}' is not read, but 'group' is; rename it to group, or remove it" in said
    data = write(tmp_path / "right", "group")
    assert checked(data, capsys).splitlines()[-1] == "2 groups"
    main(["prepare", str(data), f"--output={tmp_path / 'cache'}", "--workers=1", "--num_folds=2"])
    assert "2 groups" in capsys.readouterr().out.splitlines()


def test_what_has_no_group_is_counted(tmp_path, capsys):
    names = [f"case_0{index}.png" for index in range(4)]
    root = write_pairs(tmp_path, 4)
    assert checked(root, capsys).splitlines()[-1] == "no groups: every image counts by itself"
    write_index(root, {"file": names, "group": ["a", "a", "", ""]})
    assert checked(root, capsys).splitlines()[-1] == "1 group, and 2 images by themselves"
    write_index(root, {"file": names, "group": ["a", "a", "b", ""]})
    assert checked(root, capsys).splitlines()[-1] == "2 groups, and 1 image by itself"


@pytest.mark.parametrize("write", [write_mask_table, write_class_table, write_indexed])
def test_columns_that_are_not_read_are_one_remark(tmp_path, write, capsys):
    data = write(tmp_path, "age")
    said = checked(data, capsys)
    assert "warning: columns that mean nothing here are not read: age" in said
    assert "no groups: every image counts by itself" in said
    main(["prepare", str(data), f"--output={tmp_path / 'cache'}", "--workers=1", "--num_folds=3"])
    assert "are not read: age" in capsys.readouterr().out
    assert "not read" not in checked(write(tmp_path / "other", "group"), capsys)


# Lines


def test_every_wrong_line_of_an_index_is_shown_with_the_other_faults(tmp_path, capsys, fails):
    root = write_pairs(tmp_path, 5)
    columns = {
        "file": ["case_00.png", "other.png", "case_01.png", "case_00.png", "case_02.png"],
        "fold": ["x", "0", "0", "1", "1"],
        "split": ["exam", "", "", "", ""],
        "pixel_mm": ["-1", "", "", "", "abc"],
    }
    write_index(root, columns)
    save(np.zeros((5, 5), np.uint8), root / "masks" / "case_03.png")
    findings = [
        "index.csv, line 2 fold is 'x', expected a whole number from 0 or nothing",
        "index.csv, line 2 split is 'exam', expected one of train, val, test or nothing",
        "index.csv, line 2 pixel_mm is '-1', expected a size in mm",
        "index.csv, line 3 'other' is no image of the data set",
        "index.csv, line 5 'case_00.png' is in line 2 already give each image one line",
        "index.csv, line 6 pixel_mm is 'abc'",
        "masks/case_03.png the mask is 5 x 5 pixels (H x W), its image 40 x 56",
    ]
    said = " ".join(checked(root, capsys, code=1).split())
    for finding in findings:
        assert finding in said
    assert "7 errors and 1 warning" in said  # one image has no line
    with pytest.raises(SystemExit):
        main(["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1"])
    assert " ".join(capsys.readouterr().out.split()) == said
    assert not (tmp_path / "cache").exists()
    assert "index.csv, line 3: 'other' is no image" in fails(["evaluate", str(root / "masks"), str(root)])


@pytest.mark.parametrize(
    "text",
    [
        "subject,image,mask,fold\n,a.png,m.png,0\nb,,m.png,0\nc,images/case_00.png,masks/case_00.png,x\n",
        "subject,image,class,fold\n,a.png,k,0\nb,,k,0\nc,images/case_00.png,k,x\n",
        "subject,CT,label,fold\n,a.nii,b.nii,0\n,,b.nii,0\nc,c.nii,d.nii,x\n",
    ],
    ids=["masks", "classes", "volumes"],
)
def test_every_wrong_line_of_a_table_is_shown(tmp_path, capsys, text):
    write_pairs(tmp_path, 1)
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    said = " ".join(checked(tmp_path / "t.csv", capsys, code=1).split())
    second = "the subject is blank" if "CT" in text else "the image is blank"
    for line, finding in ((2, "the subject is blank"), (3, second), (4, "fold is 'x'")):
        assert f"t.csv, line {line} {finding}" in said
    with pytest.raises(PocketError, match=r"t.csv, line 2: the subject is blank; "):
        find_layout(tmp_path / "t.csv")


def test_a_table_without_a_usable_line_says_why(tmp_path, fails):
    (tmp_path / "t.csv").write_text("subject,image,mask\n,a.png,b.png\n", encoding="utf-8")
    assert "t.csv, line 2: the subject is blank; every image needs" in fails(["check", str(tmp_path / "t.csv")])
