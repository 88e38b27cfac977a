"""Which cases train, validate and test."""

import pytest

from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.splits import SplitSettings, split_subjects
from lightning_pocket.errors import PocketError


def folds(count: int = 20) -> dict[str, Assignment]:
    return {f"case_{index:02d}": Assignment(fold=index % 5) for index in range(count)}


def test_the_fold_is_held_out_and_nothing_overlaps():
    split = split_subjects(folds(), SplitSettings(fold=2))
    assert split.test == ("case_02", "case_07", "case_12", "case_17")
    parts = [set(split.train), set(split.val), set(split.test)]
    assert set.union(*parts) == set(folds())
    assert sum(map(len, parts)) == 20


def test_validation_is_a_tenth_but_ten_cases_at_most():
    assert len(split_subjects(folds(20), SplitSettings()).val) == 2  # ceil(0.1 * 16)
    assert len(split_subjects(folds(300), SplitSettings()).val) == 10


def test_the_same_settings_give_the_same_split_and_the_seed_changes_it():
    first = split_subjects(folds(100), SplitSettings(seed=1))
    assert first == split_subjects(dict(reversed(folds(100).items())), SplitSettings(seed=1))
    assert first.val != split_subjects(folds(100), SplitSettings(seed=2)).val


def test_a_case_may_name_its_own_split():
    table = folds() | {"a": Assignment(split="test"), "b": Assignment(split="val"), "c": Assignment(split="train")}
    split = split_subjects(table, SplitSettings(fold=0))
    assert "a" in split.test
    assert split.val == ("b",)
    assert "c" in split.train


def test_no_fold_trains_on_everything():
    split = split_subjects(folds(), SplitSettings(fold=None))
    assert split.test == ()
    assert len(split.train) + len(split.val) == 20


def test_an_unknown_fold_lists_the_folds():
    with pytest.raises(PocketError, match=r"no fold 7; the folds are \[0, 1, 2, 3, 4\]"):
        split_subjects(folds(), SplitSettings(fold=7))


def test_a_file_replaces_the_folds_and_must_know_every_case(tmp_path):
    file = tmp_path / "folds.csv"
    file.write_text("file,fold\n" + "".join(f"images/case_{i:02d}.nii.gz,{i % 2}\n" for i in range(20)))
    assert len(split_subjects(folds(), SplitSettings(fold=1, file=str(file))).test) == 10
    file.write_text("subject,fold\ncase_00,0\n")
    with pytest.raises(PocketError, match="19 of 20 prepared cases have no fold"):
        split_subjects(folds(), SplitSettings(file=str(file)))


def test_groups_are_on_one_side():
    table = {f"case_{i:02d}": Assignment(fold=i // 8, group=f"patient_{i // 2}") for i in range(40)}
    split = split_subjects(table, SplitSettings(fold=0, val_fraction=0.2))
    sides = [{table[subject].group for subject in part} for part in (split.train, split.val, split.test)]
    assert len(split.val) == 6
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]


def test_a_group_that_comes_apart_is_refused(tmp_path):
    table = {f"case_{i}": Assignment(fold=i // 2, group=f"patient_{i // 2}") for i in range(8)}
    assert split_subjects(table, SplitSettings()).test == ("case_0", "case_1")
    with pytest.raises(PocketError, match=r"prepared data: group 'patient_0' is in test \(case_0\) and fold 0 \("):
        split_subjects(table | {"case_0": Assignment(split="test", group="patient_0")}, SplitSettings())
    file = tmp_path / "folds.csv"
    file.write_text("subject,fold\n" + "".join(f"case_{i},{i % 2}\n" for i in range(8)))
    with pytest.raises(PocketError, match=r"folds.csv: group 'patient_0' is in fold 0 .* \(3 more groups"):
        split_subjects(table, SplitSettings(file=str(file)))
    fixed = {f"case_{i}": Assignment(fold=i, split="train", group="one") for i in range(3)}  # folds decide nothing
    assert split_subjects(fixed | table, SplitSettings()).test == ("case_0", "case_1")


def test_a_large_group_still_gives_a_validation_set():
    table = {f"case_{i}": Assignment(group="a" if i < 6 else "b") for i in range(10)}
    assert split_subjects(table, SplitSettings(fold=None, val_fraction=0.1)).val == (
        "case_6",
        "case_7",
        "case_8",
        "case_9",
    )


def test_one_patient_alone_leaves_nothing_to_validate_on():
    table = {f"case_{i}": Assignment(group="a") for i in range(4)}
    assert split_subjects(table, SplitSettings(fold=None)).val == ()
