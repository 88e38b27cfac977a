"""What `pocket check` says of masks: every fault at once, each once, with the images that it is about."""

from __future__ import annotations

import numpy as np
import pytest
from image_datasets import checked
from mask_datasets import disc, save, write_pairs

from lightning_pocket.cli import main


def test_values_without_a_meaning_do_not_hide_other_faults(tmp_path, capsys):
    root = write_pairs(tmp_path, 8)
    odd = disc(0)[1]
    odd[5:15, 5:15] = 85
    save(odd, root / "masks" / "case_00.png")
    (root / "masks" / "case_01.png").unlink()
    (root / "images" / "case_02.png").write_bytes(b"no image")
    save(np.zeros((5, 5), np.uint8), root / "masks" / "case_03.png")
    (root / "masks" / "case_04.png").write_bytes(b"no mask")
    said = " ".join(checked(root, capsys, code=1).split())
    for finding in (
        "masks/case_00.png masks such as this one hold 85 between 0 and 255, too few for smoothed edges",
        "images/case_01.png 1 of 8 images have no mask: case_01.png",
        "images/case_02.png not an image that Pillow can read",
        "masks/case_03.png the mask is 5 x 5 pixels (H x W), its image 40 x 56",
        "masks/case_04.png not an image that Pillow can read",
    ):
        assert said.count(finding) == 1, finding
    assert "5 errors and 0 warnings in 4 of 8 cases" in said
    with pytest.raises(SystemExit):
        main(["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1"])
    assert " ".join(capsys.readouterr().out.split()) == said


def test_prepare_shows_all_faults_where_only_values_are_unclear(tmp_path, capsys):
    root = write_pairs(tmp_path, 3)
    odd = disc(0)[1]
    odd[5:15, 5:15] = 85
    save(odd, root / "masks" / "case_00.png")
    (root / "images" / "case_02.png").write_bytes(b"no image")
    with pytest.raises(SystemExit):
        main(["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1", "--num_folds=3"])
    said = capsys.readouterr().out
    assert "masks such as this one hold 85" in said
    assert "not an image that Pillow can read" in said
    assert not (tmp_path / "cache").exists()


def test_the_size_of_a_mask_comes_before_its_values(tmp_path, capsys):
    root = write_pairs(tmp_path, 3)
    save(np.full((5, 5), 7, np.uint8), root / "masks" / "case_01.png")
    said = checked(root, capsys, "--classes=background=0,lesion=255", code=1)
    assert "the mask is 5 x 5 pixels" in said
    assert "no class" not in said


@pytest.mark.parametrize("command", ["check", "prepare"])
def test_masks_that_mark_nothing_at_all_are_an_error(tmp_path, capsys, command):
    root = write_pairs(tmp_path, 4)
    for index in range(4):
        save(np.zeros((40, 56), np.uint8), root / "masks" / f"case_0{index}.png")
    options = [f"--output={tmp_path / 'cache'}", "--num_folds=4"] if command == "prepare" else []
    with pytest.raises(SystemExit):
        main([command, str(root), "--workers=1", "--classes=background,lesion", *options])
    said = " ".join(capsys.readouterr().out.split())
    assert "4 of 4 masks are empty: case_00.png, case_01.png, case_02.png and 1 more there is nothing to learn" in said
    assert "1 error and 0 warnings in 4 of 4 cases" in said
    assert not (tmp_path / "cache").exists()


def test_a_single_mask_that_marks_something_is_enough(tmp_path, capsys):
    root = write_pairs(tmp_path, 3)
    for index in range(2):
        save(np.zeros((40, 56), np.uint8), root / "masks" / f"case_0{index}.png")
    assert "0 errors and 1 warning in 2 of 3 cases" in checked(root, capsys)


def test_missing_files_of_one_name_are_told_apart(tmp_path, capsys):
    write_pairs(tmp_path, 2)
    rows = ["a,images/case_00.png,masks/case_00.png", "b,images/none.png,masks/none.png"]
    (tmp_path / "t.csv").write_text("\n".join(["subject,image,mask", *rows]) + "\n", encoding="utf-8")
    said = checked(tmp_path / "t.csv", capsys, code=1)
    assert "2 of 4 image and mask files are missing: images/none.png, masks/none.png" in said
    assert "in 1 of 2 cases" in said
