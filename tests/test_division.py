"""Options that divide the cases when a data set is prepared, and folds that do not exist when it is trained on."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from mask_datasets import write_index, write_pairs

from lightning_pocket.cli import main
from lightning_pocket.data.division import Division
from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.splits import SplitSettings, split_subjects
from lightning_pocket.errors import PocketError

NAMES = [f"case_{index:02d}" for index in range(12)]


def write_raw(root: Path, **columns: list[str]) -> Path:
    groups = [f"p{index // 2}" for index in range(12)]
    return write_index(write_pairs(root, 12), {"subject": NAMES, "group": groups, **columns})


def prepared(raw: Path, cache: Path, *options: str) -> dict[str, dict[str, str]]:
    main(["prepare", str(raw), f"--output={cache}", "--size=8", "--workers=1", *options])
    with (cache / "folds.csv").open(encoding="utf-8", newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


def test_an_explicit_number_of_folds_replaces_those_of_the_data(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", fold=[str(index // 6) for index in range(12)])
    own = prepared(raw, tmp_path / "own")
    assert [row["fold"] for row in own.values()] == ["0"] * 6 + ["1"] * 6
    assert "not used" not in capsys.readouterr().out
    new = prepared(raw, tmp_path / "new", "--num_folds=3")
    assert {row["fold"] for row in new.values()} == {"0", "1", "2"}
    for first, second in zip(NAMES[::2], NAMES[1::2], strict=True):
        assert new[first]["fold"] == new[second]["fold"]  # a patient
    said = capsys.readouterr().out.splitlines()
    assert "the folds of the data set are not used, since --num_folds 3 makes new ones" in said


def test_folds_of_the_data_that_take_a_group_apart_do_not_count_then(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", fold=[str(index % 2) for index in range(12)])
    with pytest.raises(SystemExit):
        prepared(raw, tmp_path / "own")
    assert "group 'p0' is in fold 0 (case_00) and fold 1 (case_01)" in capsys.readouterr().out
    new = prepared(raw, tmp_path / "new", "--num_folds=2")
    assert new["case_00"]["fold"] == new["case_01"]["fold"]


def test_cases_with_a_split_keep_it(tmp_path, fails):
    split = ["test"] * 4 + [""] * 8
    raw = write_raw(tmp_path / "raw", split=split, fold=["" if part else "0" for part in split])
    new = prepared(raw, tmp_path / "new", "--num_folds=2")
    assert [row["split"] for row in new.values()] == split
    assert [row["fold"] == "" for row in new.values()] == [True] * 4 + [False] * 8
    write_index(raw, {"subject": NAMES, "split": ["train"] * 8 + ["test"] * 4})
    command = ["prepare", str(raw), f"--output={tmp_path / 'x'}", "--size=8", "--workers=1"]
    assert "num_folds: is 3, but the data set gives every case a split" in fails([*command, "--num_folds=3"])
    main(command)  # five is only the default


def test_what_is_not_used_is_said(tmp_path, capsys):
    raw = write_raw(tmp_path / "raw", fold=[str(index // 6) for index in range(12)])
    prepared(raw, tmp_path / "split", "--split=0.5,0.25,0.25", "--num_folds=3")
    said = capsys.readouterr().out.splitlines()
    assert "the folds and splits of the data set are not used, since --split draws anew" in said
    assert "--num_folds 3 is not used, since --split says who trains and tests" in said
    folds = tmp_path / "folds.csv"
    folds.write_text("subject,fold\n" + "".join(f"{name},{n // 6}\n" for n, name in enumerate(NAMES)), encoding="utf-8")
    prepared(raw, tmp_path / "file", f"--folds={folds}", "--num_folds=3")
    assert "--num_folds 3 is not used, since --folds says who trains and tests" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("number", [1, 0, -2])
def test_one_fold_is_refused(number):
    with pytest.raises(PocketError, match=rf"num_folds: is {number}, expected at least 2\. .* --split 1,0,0"):
        Division.parse(None, number, None, 0)


def test_too_few_cases_say_what_is_possible():
    given = {name: Assignment() for name in "abc"}
    with pytest.raises(PocketError, match="num_folds: 5 folds of 3 independent cases; set it from 2 to 3"):
        Division.parse(None, None, None, 0)(given)
    alone = {"a": Assignment()}
    with pytest.raises(PocketError, match="5 folds of 1 independent case; let it train alone with --split 1,0,0"):
        Division.parse(None, None, None, 0)(alone)
    assert Division.parse(None, None, "1,0,0", 0)(alone) == {"a": Assignment(None, "train")}


# Training


def test_a_fold_of_data_without_folds_is_refused():
    parts = {"a": Assignment(None, "train"), "b": Assignment(None, "val"), "c": Assignment(None, "test")}
    for fold in (0, None):
        assert split_subjects(parts, SplitSettings(fold=fold)).test == ("c",)
    with pytest.raises(PocketError, match=r"split\.fold: is 3, but the data have no folds, only train, val and test"):
        split_subjects(parts, SplitSettings(fold=3))


@pytest.mark.e2e
def test_a_training_without_test_cases_does_not_advise_a_test(blobs, options, tmp_path, capsys):
    cache = tmp_path / "cache"
    main(["prepare", str(blobs), f"--output={cache}", "--split=0.8,0.2,0", "--workers=1"])
    command = ["fit", *options, f"--data.init_args.cache={cache}", "--trainer.max_epochs=1"]
    capsys.readouterr()
    for start in ("finished: ", f"{tmp_path / 'run'}: already finished. "):
        main(command)
        said = capsys.readouterr().out
        assert start in said
        assert "No case is held out for a test." in said
        assert "pocket test" not in said
