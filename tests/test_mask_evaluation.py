"""Scores of masks of 2D images: what the classes are, and what is not scored."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_dicom
from mask_datasets import disc, save, write_busi, write_pairs

from lightning_pocket.cli import main


def square(value: int) -> np.ndarray:
    pixels = np.zeros((40, 56), np.uint8)
    pixels[5:20, 5:20] = value
    return pixels


def evaluated(
    predicted: Path, truth: Path, capsys, *options: str, code: int = 0
) -> tuple[dict[str, dict[str, str]], str]:
    """Run `pocket evaluate`; return the rows that were scored, and what was said."""
    capsys.readouterr()
    command = ["evaluate", str(predicted), str(truth), "--workers=1", *options]
    if code:
        with pytest.raises(SystemExit) as caught:
            main(command)
        assert caught.value.code == code
    else:
        main(command)
    file = predicted / "scores.csv"
    with file.open(encoding="utf-8", newline="") as table:
        rows = {row["subject"]: row for row in csv.DictReader(table)}
    return rows, " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("layout", [True, False])
def test_the_classes_are_those_of_all_truths(tmp_path, capsys, layout):
    truth = tmp_path / "data" / "masks" if layout else tmp_path / "data"
    for index, value in enumerate((1, 2, 2)):
        save(square(value), truth / f"{index}.png")
        if layout:
            save(disc(index)[0], tmp_path / "data" / "images" / f"{index}.png")
    save(square(1), tmp_path / "predicted" / "1.png")  # the wrong class
    rows, _ = evaluated(tmp_path / "predicted", tmp_path / "data", capsys, "--predicted_only")
    assert (rows["1"]["dice_label_1"], rows["1"]["dice_label_2"]) == ("0.0", "0.0")


@pytest.mark.parametrize(("expected", "other"), [(2, 1), (2, 3), (255, 128), (255, 1), (1, 255)])
def test_predictions_have_the_values_of_the_truth(tmp_path, capsys, expected, other):
    for index in range(2):
        save(square(expected), tmp_path / "truth" / f"{index}.png")
        save(square(expected), tmp_path / "predicted" / f"{index}.png")
    wrong = square(expected)
    wrong[5:9, 5:20] = other
    save(wrong, tmp_path / "predicted" / "1.png")
    rows, said = evaluated(tmp_path / "predicted", tmp_path / "truth", capsys, code=1)
    assert {name: row["dice"] for name, row in rows.items()} == {"0": "1.0"}
    assert f"1.png 60 pixels of the mask are no class ({other}) classes are 0, {expected}: mend" in said


def test_truths_of_other_values_are_not_scored(tmp_path, capsys):
    for index in range(2):
        save(square(1 if index else 255), tmp_path / "truth" / f"{index}.png")
        save(square(255), tmp_path / "predicted" / f"{index}.png")
    rows, said = evaluated(tmp_path / "predicted", tmp_path / "truth", capsys, code=1)
    assert {name: row["dice"] for name, row in rows.items()} == {"0": "1.0"}
    assert "its largest value is 1, that of the others 255" in said


def test_a_border_that_does_not_count_is_no_class(tmp_path, capsys):
    for index in range(2):
        truth = square(1)
        truth[4, 5:20] = 255
        save(truth, tmp_path / "truth" / f"{index}.png")
        predicted = square(1)
        predicted[4, 5:20] = 1  # where nothing counts
        predicted[20, 5:20] = index
        save(predicted, tmp_path / "predicted" / f"{index}.png")
    rows, _ = evaluated(tmp_path / "predicted", tmp_path / "truth", capsys, "--ignore_label=255")
    assert float(rows["0"]["dice"]) == 1
    assert float(rows["1"]["dice"]) == pytest.approx(2 * 225 / (225 + 240))


def test_what_is_left_must_be_a_class(tmp_path, fails):
    for folder in ("truth", "predicted"):
        save(square(255), tmp_path / folder / "0.png")
    command = ["evaluate", str(tmp_path / "predicted"), str(tmp_path / "truth"), "--workers=1", "--ignore_label=255"]
    assert "ignore_label: without 255 there is no class left to score" in fails(command)


def test_an_image_without_a_mask_is_not_scored(tmp_path, capsys):
    root = write_pairs(tmp_path / "data", 3)
    for index in range(3):
        save(disc(index)[1], tmp_path / "predicted" / f"case_{index:02d}.png")
    (root / "masks" / "case_01.png").unlink()
    rows, said = evaluated(tmp_path / "predicted", root, capsys, code=1)
    assert sorted(rows) == ["case_00", "case_02"]
    assert "case_01.png has no mask add one, an empty one if there is nothing to mark" in said


def test_a_normal_image_needs_no_mask(tmp_path, capsys):
    root = write_busi(tmp_path / "data")
    next(root.rglob("normal (1)_mask.png")).unlink()
    save(np.zeros((40, 56), np.uint8), tmp_path / "predicted" / "normal (1).png")
    rows, _ = evaluated(tmp_path / "predicted", root, capsys, "--predicted_only")
    assert rows["normal (1)"]["dice"] == "1.0"


def test_a_damaged_image_does_not_stop_the_others(tmp_path, capsys):
    for index in range(3):
        image, mask = disc(index)
        file = write_dicom(tmp_path / "data" / "images" / f"{index}.dcm", image)
        save(mask, tmp_path / "data" / "masks" / f"{index}.png")
        save(mask, tmp_path / "predicted" / f"{index}.png")
    file.write_bytes(file.read_bytes()[:-500])
    rows, said = evaluated(tmp_path / "predicted", tmp_path / "data", capsys, code=1)
    assert sorted(rows) == ["0", "1"]
    assert rows["0"]["hd95_mm"] == "0.0"
    assert "2.dcm cannot be read as DICOM" in said


def test_names_of_masks_are_advised_for_masks(tmp_path, fails):
    save(square(1), tmp_path / "truth" / "b.png")
    save(square(1), tmp_path / "predicted" / "a.png")
    message = fails(["evaluate", str(tmp_path / "predicted"), str(tmp_path / "truth")])
    assert message.endswith("(first names: a; b); expected names such as b.png.")
