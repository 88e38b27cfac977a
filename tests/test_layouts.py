"""Finding and listing raw data sets, and folds."""

import json
from collections import Counter
from pathlib import Path

import pytest
from datasets import write_decathlon, write_nnunet, write_table

from lightning_pocket.data import layouts
from lightning_pocket.data.folds import Assignment, make_folds, match_folds, read_folds, write_folds
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.errors import PocketError

LABELS = {0: "background", 1: "organ", 2: "lesion"}


def test_registry_is_all() -> None:
    kinds = [getattr(layouts, name) for name in layouts.__all__]
    concrete = [kind for kind in kinds if isinstance(kind, type) and "name" in vars(kind)]
    names = {kind.name for kind in concrete}
    assert names == set(layouts.layouts())
    assert names >= {"decathlon", "nnunet", "table", "lits", "nfbs", "brats2020"}


@pytest.mark.parametrize("modalities", [("MRI",), ("T1", "T2")])
def test_decathlon(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    found = find_layout(write_decathlon(tmp_path, modalities=modalities))
    assert (found.name, found.channels, found.labels) == ("decathlon", list(modalities), LABELS)
    assert [case.subject for case in found.cases()] == ["case_0", "case_1", "case_2"]
    assert all(case.images[0].is_file() and case.label and case.label.is_file() for case in found.cases())


def test_decathlon_entry_without_file_is_listed(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    (tmp_path / "imagesTr" / "case_1.nii.gz").unlink()
    assert [case.images[0].exists() for case in find_layout(tmp_path).cases()] == [True, False, True]


def test_pairs_without_declaration(tmp_path: Path) -> None:
    write_decathlon(tmp_path)
    (tmp_path / "dataset.json").unlink()
    found = find_layout(tmp_path)
    assert (found.name, found.labels, len(found.cases())) == ("decathlon", None, 3)


def test_decathlon_case_number_is_not_a_channel(tmp_path: Path) -> None:
    write_decathlon(tmp_path, cases=1)
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder / "case_0.nii.gz").rename(tmp_path / folder / "case_0000.nii.gz")
    text = (tmp_path / "dataset.json").read_text(encoding="utf-8").replace("case_0.", "case_0000.")
    (tmp_path / "dataset.json").write_text(text)
    found = find_layout(tmp_path)
    assert (found.name, [case.subject for case in found.cases()]) == ("decathlon", ["case_0000"])


@pytest.mark.parametrize("version", [1, 2])
def test_nnunet(tmp_path: Path, version: int) -> None:
    found = find_layout(write_nnunet(tmp_path, version=version))
    assert (found.name, found.channels, found.labels) == ("nnunet", ["T1", "T2"], LABELS)
    case = found.cases()[1]
    assert [path.name for path in case.images] == ["case_1_0000.nii.gz", "case_1_0001.nii.gz"]
    assert case.label == tmp_path / "labelsTr" / "case_1.nii.gz"


def test_nnunet_lists_cases_that_lack_a_file(tmp_path: Path) -> None:
    write_nnunet(tmp_path)
    (tmp_path / "imagesTr" / "case_0_0000.nii.gz").unlink()
    (tmp_path / "labelsTr" / "case_1.nii.gz").unlink()
    assert [case.subject for case in find_layout(tmp_path).cases()] == ["case_0", "case_1", "case_2"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "whole": [1, 2]}, r"labels: 'whole' is a region \[1, 2\]"),
        ({"background": 0, "ignore": 2, "Ignore": 3}, "'ignore' has the values 2, 3; give one"),
        ({"ignore": 0, "organ": 1}, "'ignore' has the values 0; give one value above 0"),
        ({"organ": 1}, "0 is not declared"),
        ({"background": 0, "organ": "one"}, "expected a whole number"),
    ],
)
def test_nnunet_labels_that_are_refused(tmp_path: Path, labels: dict[str, object], message: str) -> None:
    write_nnunet(tmp_path)
    declaration = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8")) | {"labels": labels}
    (tmp_path / "dataset.json").write_text(json.dumps(declaration))
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path)


def test_table(tmp_path: Path) -> None:
    extra = {"fold": ["0", "1", ""], "split": ["", "", "test"], "group": ["a", "a", ""]}
    found = find_layout(write_table(tmp_path, extra=extra))
    assert (found.name, found.channels, found.labels) == ("table", ["CT"], None)
    cases = found.cases()
    assert [(case.fold, case.split, case.group) for case in cases] == [
        (0, None, "a"),
        (1, None, "a"),
        (None, "test", None),
    ]
    assert cases[0].images == (tmp_path / "ct_0.nii.gz",)


def test_table_with_blank_cells(tmp_path: Path) -> None:
    file = tmp_path / "cases.csv"
    file.write_text("\ufeffsubject, T1 ,T2,label\nx, a.nii ,,\n\n", encoding="utf-8")
    (case,) = find_layout(file).cases()
    assert case.images == (tmp_path / "a.nii", Path())
    assert case.label is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,label\na,b\n", "one or more image columns"),
        ("CT,label\na,b\n", "expected subject, label"),
        ("subject,CT,CT,label\na,b,c,d\n", "a name of its own"),
        ("subject,CT,label\na,b,c,d\n", "line 2: has 4 cells, expected 3"),
        ("subject,CT,label,fold\na,b,c,one\n", "line 2: fold is 'one'"),
        ("subject,CT,label\n,b,c\n", "line 2: the subject is blank"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "cases.csv").write_text(text)
    with pytest.raises(PocketError, match=message):
        find_layout(tmp_path / "cases.csv")


def test_nothing_matches(tmp_path: Path) -> None:
    with pytest.raises(PocketError, match="no images in this folder"):
        find_layout(tmp_path)
    with pytest.raises(PocketError, match="no such file or folder"):
        find_layout(tmp_path / "none")
    (tmp_path / "image.nii.gz").touch()
    with pytest.raises(PocketError, match=r"no known layout of a data set \(nnunet, decathlon, .*table.*\)"):
        find_layout(tmp_path)
    with pytest.raises(PocketError, match=r"expected auto or one of nnunet, decathlon, .*brats2020"):
        find_layout(tmp_path, "bids")
    with pytest.raises(PocketError, match=r"not a data set of layout nnunet; expected dataset.json"):
        find_layout(tmp_path, "nnunet")


def test_folds_are_balanced_and_do_not_depend_on_order() -> None:
    subjects = [f"case_{i}" for i in range(23)]
    folds = make_folds(subjects, 5, seed=3)
    sizes = Counter(assignment.fold for assignment in folds.values())
    assert sorted(sizes.values()) == [4, 4, 5, 5, 5]
    assert make_folds(subjects[::-1], 5, seed=3) == folds
    assert make_folds(subjects, 5, seed=4) != folds


def test_groups_are_never_split() -> None:
    subjects = [f"case_{i}" for i in range(40)]
    groups = {subject: f"patient_{i // 4}" for i, subject in enumerate(subjects) if i < 32}
    folds = make_folds(subjects, 4, groups=groups)
    for patient in set(groups.values()):
        assert len({folds[s].fold for s, group in groups.items() if group == patient}) == 1
    assert Counter(assignment.fold for assignment in folds.values()) == Counter({0: 10, 1: 10, 2: 10, 3: 10})
    with pytest.raises(PocketError, match="3 folds of 2 independent cases"):
        make_folds(["a", "b", "c"], 3, groups={"a": "x", "b": "x"})


def test_folds_round_trip(tmp_path: Path) -> None:
    folds = {"b": Assignment(1, None), "a, or so": Assignment(None, "test"), "c": Assignment(0, "train")}
    write_folds(tmp_path / "folds.csv", folds)
    assert read_folds(tmp_path / "folds.csv") == folds
    assert list(read_folds(str(tmp_path / "folds.csv"))) == list(folds)


def test_fold_file_of_file_names(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("file,fold\nimagesTr/a_0000.nii.gz,1\nb.nrrd,0\nc_0000.nii,2\n")
    folds = read_folds(tmp_path / "f.csv", subjects=["a", "b", "c_0000"])
    assert {subject: place.fold for subject, place in folds.items()} == {"a": 1, "b": 0, "c_0000": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,fold\na,0\na,1\n", "line 3: subject 'a' appears twice"),
        ("subject,fold\na,-1\n", "line 2: fold is '-1'"),
        ("subject,split\na,holdout\n", "line 2: split is 'holdout', expected one of train, val, test"),
        ("case,fold\na,0\n", "columns are case, fold; expected 'subject' or 'file'"),
        ("", "columns are nothing"),
    ],
)
def test_fold_files_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(PocketError, match=message):
        read_folds(tmp_path / "folds.csv")


def test_folds_must_cover_the_subjects() -> None:
    with pytest.raises(PocketError, match=r"f.csv: 1 subject \('x'\) not in the data set"):
        match_folds({"a": Assignment(0), "x": Assignment(1)}, ["a"], "f.csv")
    with pytest.raises(PocketError, match=r"f.csv: 2 subjects \('b', 'c'\) without fold and split"):
        match_folds({"a": Assignment(0), "b": Assignment()}, ["a", "b", "c"], "f.csv")
