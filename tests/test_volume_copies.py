"""Volumes that are in a data set under several names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from datasets import make_case, write_decathlon, write_image, write_table

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache

Capture = pytest.CaptureFixture[str]


def warnings(capsys: Capture, *arguments: object) -> list[str]:
    """Return the warnings of copies of a command that succeeds."""
    capsys.readouterr()
    main([*map(str, arguments), "--workers=1"])
    said = capsys.readouterr().out.splitlines()
    return [line.partition("warning: ")[2].partition("  ")[0] for line in said if "copies of one image" in line]


def test_different_cases_are_no_copies(tmp_path: Path, capsys: Capture) -> None:
    root = write_decathlon(tmp_path)
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(0)[1])  # one label for two images
    assert warnings(capsys, "check", root) == []


def test_copies_are_told_with_their_folds_once_they_have_some(tmp_path: Path, capsys: Capture) -> None:
    root = write_decathlon(tmp_path / "raw", cases=5)
    for folder in ("imagesTr", "labelsTr"):
        shutil.copy(root / folder / "case_0.nii.gz", root / folder / "case_3.nii.gz")
    write_image(root / "imagesTr" / "case_4.nii.gz", make_case(1)[0].astype("f8"))  # other bytes, the same voxels
    assert (root / "imagesTr" / "case_4.nii.gz").read_bytes() != (root / "imagesTr" / "case_1.nii.gz").read_bytes()
    told = [f"copies of one image: {pair}" for pair in ("case_0, case_3", "case_1, case_4")]
    assert warnings(capsys, "check", root) == told
    cache = tmp_path / "cache"
    prepared = warnings(capsys, "prepare", root, f"--output={cache}", "--num_folds=5")
    fold = {subject: f"{subject} (fold {place.fold})" for subject, place in Cache.open(cache).folds.items()}
    pairs = [("case_0", "case_3"), ("case_1", "case_4")]
    assert prepared == [f"copies of one image: {fold[a]}, {fold[b]}" for a, b in pairs]
    (cache / "dataset.json").unlink()  # stopped before the end: what was found is read from the cache
    shutil.rmtree(cache / "cases")
    assert warnings(capsys, "prepare", root, f"--output={cache}", "--num_folds=5") == prepared
    file = cache / "fingerprint" / "case_0.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({key: value for key, value in record.items() if key != "digest"}), encoding="utf-8")
    (cache / "dataset.json").unlink()
    assert warnings(capsys, "prepare", root, f"--output={cache}", "--num_folds=5") == prepared


def test_copies_of_one_group_never_part(tmp_path: Path, capsys: Capture) -> None:
    for groups, told in ((["a", "a", "b"], 0), (["a", "b", "c"], 1), (["a", "", "c"], 1), (["", "", ""], 1)):
        table = write_table(tmp_path, cases=3, extra={"group": groups})
        shutil.copy(tmp_path / "ct_0.nii.gz", tmp_path / "ct_1.nii.gz")
        assert len(warnings(capsys, "check", table)) == told, groups


def test_splits_of_the_data_set_and_many_copies_are_told(tmp_path: Path, capsys: Capture) -> None:
    table = write_table(tmp_path, cases=6, extra={"split": ["train"] * 5 + ["test"]})
    for index in range(1, 6):
        shutil.copy(tmp_path / "ct_0.nii.gz", tmp_path / f"ct_{index}.nii.gz")
    shown = ", ".join(f"case_{index} (train)" for index in range(4))
    assert warnings(capsys, "check", table) == [f"copies of one image: {shown} and 2 more"]
