"""Folds and validation sets with their share of each class, and fractions of the training set."""

from __future__ import annotations

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from lightning_pocket.data.folds import Assignment, assign, make_folds, read_folds
from lightning_pocket.data.splits import SplitSettings, split_subjects
from lightning_pocket.errors import PocketError

FRACTIONS = (0.015, 0.03, 0.05, 0.1, 0.25, 0.5, 1.0)  # Figure 5


def classes(**counts: int) -> dict[str, str]:
    return {f"{name}{index}": name for name, count in counts.items() for index in range(count)}


@pytest.mark.parametrize("counts", [{"a": 83, "b": 90}, {"a": 7, "b": 31, "c": 2}, {"a": 10, "b": 10}])
def test_folds_have_their_share_of_each_class(counts):
    class_of = classes(**counts)
    folds = make_folds(class_of, 5, seed=3, classes=class_of)
    for name in counts:
        shares = Counter(folds[subject].fold for subject in class_of if class_of[subject] == name)
        assert max(shares.values()) - min(shares[fold] for fold in range(5)) <= 1
    sizes = Counter(place.fold for place in folds.values())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    shuffled = random.Random(0).sample(sorted(class_of), len(class_of))
    again = make_folds(shuffled, 5, seed=3, classes=class_of)
    assert again == folds
    assert make_folds(class_of, 5, seed=4, classes=class_of) != folds


def test_without_classes_folds_are_what_they_were():
    """Recorded before folds knew of classes."""
    folds = make_folds([f"s{i}" for i in range(7)], 3, 1, {"s0": "p", "s3": "p"})
    assert [folds[f"s{i}"].fold for i in range(7)] == [0, 1, 1, 0, 2, 2, 0]


@pytest.mark.parametrize("seed", range(3))
def test_grouped_and_stratified(seed):
    """Sixty patients with one to five images; a patient's images are mostly of one class."""
    rng = random.Random(seed)
    class_of, groups = {}, {}
    for patient in range(60):
        name = "rare" if patient % 5 == 0 else "often"
        for image in range(rng.randint(1, 5)):
            class_of[f"{patient}-{image}"] = name if rng.random() < 0.9 else "often"
            groups[f"{patient}-{image}"] = f"p{patient}"
    folds = make_folds(class_of, 5, 0, groups, class_of)
    patients: dict[str, set[int | None]] = {}
    for subject, place in folds.items():
        patients.setdefault(groups[subject], set()).add(place.fold)
    assert all(len(places) == 1 for places in patients.values())
    for name in ("rare", "often"):
        total = sum(value == name for value in class_of.values())
        for fold in range(5):
            share = sum(class_of[s] == name for s, place in folds.items() if place.fold == fold)
            assert abs(share - total / 5) <= 2, (name, fold)


def test_validation_is_drawn_by_class_and_group():
    class_of = classes(a=40, b=160)
    table = {subject: Assignment(group=f"{subject[0]}{int(subject[1:]) // 2}") for subject in class_of}
    split = split_subjects(table, SplitSettings(fold=None, max_val="all"), class_of)
    assert Counter(class_of[subject] for subject in split.val) == {"a": 4, "b": 16}
    assert not {table[s].group for s in split.val} & {table[s].group for s in split.train}
    limited = split_subjects(table, SplitSettings(fold=None), class_of)
    assert len(limited.val) == 10
    assert len(split_subjects(table, SplitSettings(fold=None, max_val="all")).val) == 20


@pytest.mark.parametrize("class_of", [classes(a=37, b=13), None])
def test_fractions_are_nested_and_rounded_up_within_each_class(class_of):
    subjects = list(class_of or {f"s{i}" for i in range(50)})
    table = {subject: Assignment(fold=index % 5) for index, subject in enumerate(sorted(subjects))}
    whole = split_subjects(table, SplitSettings(), class_of)
    smaller: set[str] = set()
    for fraction in FRACTIONS:
        split = split_subjects(table, SplitSettings(train_fraction=fraction), class_of)
        assert (split.val, split.test) == (whole.val, whole.test)
        assert smaller <= set(split.train)
        smaller = set(split.train)
        of_all = Counter((class_of or {}).get(subject, "") for subject in whole.train)
        kept = Counter((class_of or {}).get(subject, "") for subject in split.train)
        assert kept == {name: math.ceil(round(fraction * count, 6)) for name, count in of_all.items()}
    assert smaller == set(whole.train)


def test_a_fraction_that_binary_numbers_miss_is_not_rounded_up():
    table = {f"s{i:03d}": Assignment(split="train" if i < 100 else "val") for i in range(110)}
    assert 0.07 * 100 > 7
    assert len(split_subjects(table, SplitSettings(train_fraction=0.07)).train) == 7


def test_other_seeds_draw_other_fractions_and_later_cases_change_nothing():
    table = {f"s{i:03d}": Assignment(split="train" if i < 100 else "val") for i in range(101)}
    first = set(split_subjects(table, SplitSettings(train_fraction=0.2)).train)
    assert first != set(split_subjects(table, SplitSettings(train_fraction=0.2, seed=1)).train)
    more = table | {"t": Assignment(split="test")}
    assert first == set(split_subjects(more, SplitSettings(train_fraction=0.2)).train)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_a_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(PocketError, match=r"train_fraction: is .*, expected more than 0 and at most 1"):
        split_subjects({"a": Assignment(fold=0)}, SplitSettings(train_fraction=fraction))


def test_assign_prefers_the_file_then_the_data_set_then_makes_folds(tmp_path):
    class_of = classes(a=6, b=6)
    given = {subject: Assignment(group=f"g{subject}") for subject in class_of}
    made = assign(given, None, 3, 0, class_of)
    assert Counter((class_of[s], place.fold) for s, place in made.items()) == {
        (name, fold): 2 for name in "ab" for fold in range(3)
    }
    assert all(place.group == f"g{subject}" for subject, place in made.items())
    fixed = {subject: Assignment(split="train" if subject[0] == "a" else None) for subject in class_of}
    mixed = assign(fixed, None, 3, 0, class_of)
    assert all((place.split, place.fold) == ("train", None) for s, place in mixed.items() if s[0] == "a")
    assert {place.fold for s, place in mixed.items() if s[0] == "b"} == {0, 1, 2}
    file = tmp_path / "folds.csv"
    file.write_text("subject,fold\n" + "".join(f"{subject},{len(subject) % 2}\n" for subject in class_of))
    assert assign(given, file, 3)["a0"] == Assignment(0, None, "ga0")


def test_a_file_column_may_name_images_with_or_without_their_suffix(tmp_path):
    file = tmp_path / "folds.csv"
    file.write_text("file,fold\nimages\\COVID(1).png,0\nimages/two_0000.png,1\nthree_0000.png,2\n")
    assert list(read_folds(Path(file), ["COVID(1).png", "two_0000", "three"])) == ["COVID(1).png", "two_0000", "three"]
