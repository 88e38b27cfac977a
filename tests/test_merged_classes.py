"""Several label values as one class, and regions made of several classes: from the option to the scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import make_case, make_tumour, write_brats2020, write_decathlon, write_image, write_lits

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.checks import parse_classes
from lightning_pocket.data.fingerprint import measure
from lightning_pocket.data.images import read_label
from lightning_pocket.data.layouts.base import class_values, region_classes, uncounted_values
from lightning_pocket.data.preprocess import Preprocessing, Resolved, class_indices, resolve
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import score_case

BRATS = {"ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}
PARTS = "background,necrosis,edema,enhancing=4"


def prepare(data: Path, cache: Path, *options: str) -> Cache:
    main(["prepare", str(data), f"--output={cache}", *options, "--num_folds=2", "--workers=1"])
    return Cache.open(cache)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_parse_merged_classes() -> None:
    assert parse_classes("background,liver=1+2") == {0: "background", 1: "liver", 2: "liver"}
    assert parse_classes("background, a = 4 + 1 ,b=2") == {0: "background", 1: "a", 2: "b", 4: "a"}
    assert parse_classes("background=0+3,a") == {0: "background", 1: "a", 3: "background"}
    assert class_values(parse_classes("background,b=2,a=4+1")) == {"background": (0,), "a": (1, 4), "b": (2,)}
    assert uncounted_values(parse_classes("background=0+3,a=1,Ignore=7")) == {0, 3, 7}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("background,a=1+1", "repeats a name or value"),
        ("background,a=1+2,b=2", "repeats a name or value"),
        ("background,a=1+2,b", "repeats a name or value"),
        ("background,a=1,a=2", "repeats a name or value"),
        ("background,a=1+", "expected NAME, NAME=VALUE or NAME=VALUE"),
        ("background,a=1-2", "expected NAME, NAME=VALUE or NAME=VALUE"),
        ("background=0+1+2", "at least one more class"),
        ("background,a,ignore=7+8", "'ignore' has the values 7, 8; give one value"),
    ],
)
def test_merges_that_are_refused(wrong: str, message: str) -> None:
    with pytest.raises(PocketError, match=message):
        parse_classes(wrong)


def resolved(classes: str) -> Resolved:
    fingerprint = {"channels": {"x": {"foreground": {}}}}
    return resolve(Preprocessing("native", "none"), fingerprint, ["x"], parse_classes(classes))


@pytest.mark.parametrize(
    ("classes", "written", "mapped"),
    [
        ("background,b=2,a=4+1", (0, 1, 2), [0, 1, 2, None, 1]),
        ("background,b=1+3,a=2", (0, 1, 2), [0, 1, 2, 1, None]),
        ("background=0+1,a=4+2,b=3", (0, 2, 3), [0, 0, 1, 2, 1]),
        ("background,a=2+4,ignore=3", (0, 2), [0, None, 1, 255, 1]),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_class_indices_of_merged_values(
    classes: str, written: tuple[int, ...], mapped: list[int | None], dtype: Any
) -> None:
    settings = resolved(classes)
    assert settings.label_values == written
    again = Resolved.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings
    declared = [value for value, index in enumerate(mapped) if index is not None]
    label = np.array(declared * 3, dtype).reshape(1, 3, -1)
    expected = [mapped[value] for value in declared]
    np.testing.assert_array_equal(class_indices(label, again), np.array(expected * 3).reshape(1, 3, -1))


def test_what_a_cache_from_before_there_were_merges_says() -> None:
    data = resolved("background,a").to_dict()
    del data["merged_values"]
    assert Resolved.from_dict(data) == resolved("background,a")


def test_statistics_know_foreground_and_volumes_of_merged_classes(tmp_path: Path) -> None:
    data = write_decathlon(tmp_path / "raw")
    label = make_case(0)[1]
    one = prepare(data, tmp_path / "one", "--classes=background,all=1+2")
    found = one.fingerprint["classes"]
    assert sorted(found) == ["all", "background"]
    assert (found["all"]["value"], found["all"]["voxels"]["median"]) == (1, (label > 0).sum())
    core = prepare(data, tmp_path / "core", "--classes=background=0+1,core=2")
    assert core.case("case_0").class_voxels == [(label != 2).sum(), (label == 2).sum()]
    pooled = np.concatenate([make_case(index)[0][make_case(index)[1] == 2] for index in range(3)])
    assert core.fingerprint["channels"]["MRI"]["foreground"]["mean"] == pytest.approx(pooled.mean())
    image = make_case(0)[0][None]
    assert measure(image, label, (1, 1, 1), "x", {0, 2}).foreground == [image[0][label == 1].tolist()]


def test_another_merge_is_another_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_lits(tmp_path / "raw")
    prepare(data, tmp_path / "cache")
    capsys.readouterr()
    prepare(data, tmp_path / "cache", "--classes=background,liver=1+2")
    assert "is up to date" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        prepare(data, tmp_path / "cache", "--classes=background,liver,tumour")
    assert "classes: 0=background, 1=liver, 2=liver -> 0=background, 1=liver, 2=tumour" in capsys.readouterr().err


def test_an_empty_merged_background_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_decathlon(tmp_path)
    write_image(data / "labelsTr" / "case_1.nii.gz", np.minimum(make_case(1)[1], 1))
    main(["check", str(data), "--classes=background=0+1,core=2", "--workers=1"])
    lines = capsys.readouterr().out.splitlines()
    assert "case_1" in lines[1]
    assert "the label is empty" in lines[1]
    assert lines[3] == "3 cases, channels: MRI; classes: background (0 + 1), core"


# Regions.


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (PARTS, {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}),
        ("background,core=1+4,edema=2", {"TC": [1], "WT": [1, 2]}),
        ("background,whole_tumour=1+2+4", {}),
        ("background,ET=4,rest=1+2", {"WT": [1, 2]}),
        ("background,necrosis,edema,enhancing=4,vessel=5", {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}),
        ("background,necrosis,edema,enhancing=4+5", {}),
        ("background=0+2,necrosis=1,enhancing=4", {"ET": [2], "TC": [1, 2]}),
    ],
)
def test_regions_are_made_of_whole_classes(classes: str, expected: dict[str, list[int]]) -> None:
    assert region_classes(BRATS, parse_classes(classes)) == expected


def test_scores_of_regions_by_hand() -> None:
    """One row of voxels, 2 mm apart; the tumour core is found one voxel too far on, once in each direction."""
    truth = np.array([[0, 1, 1, 2, 2, 3, 3, 0]])
    predicted = np.array([[0, 1, 2, 2, 3, 3, 1, 0]])
    regions = {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}
    names = ["background", "necrosis", "edema", "enhancing"]
    row = score_case(predicted, truth, names, (1, 2), regions=regions)
    dice = {name: row[f"dice_{name}"] for name in (*names[1:], *regions)}
    assert dice == {"necrosis": 0.5, "edema": 0.5, "enhancing": 0.5, "ET": 0.5, "TC": 0.75, "WT": 1}
    # Truth at 1, 2, 5, 6 and prediction at 1, 4, 5, 6: distances 0, 2, 0, 0 mm either way.
    assert row["hd95_mm_TC"] == pytest.approx(np.percentile([0, 2, 0, 0], 95))
    assert row["asd_mm_TC"] == pytest.approx(0.5)
    assert row["surface_dice_TC"] == pytest.approx(0.75)
    assert (row["hd95_mm_WT"], row["asd_mm_WT"]) == (0, 0)
    assert [row[f"{kind}_TC"] for kind in ("voxels", "predicted")] == [4, 4]
    without = score_case(predicted, truth, names, (1, 2))
    assert {name: value for name, value in row.items() if name in without} == without  # means stay over the classes
    assert row["dice"] == 0.5
    columns = [name for name in row if name.startswith("dice_")]
    assert columns == [f"dice_{name}" for name in (*names[1:], *regions)]


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"a": [1]}, "those of regions too"),
        ({"R": [0, 1]}, r"regions: found \{'R': \[0, 1\]\}; expected lists of classes, 1 to 2"),
        ({"R": [3]}, "expected lists of classes"),
    ],
)
def test_regions_that_are_refused(regions: dict[str, list[int]], message: str) -> None:
    label = np.zeros((3, 3, 3), int)
    with pytest.raises(PocketError, match=message):
        score_case(label, label, ["background", "a", "b"], (1, 1, 1), regions=regions)


def test_evaluate_scores_the_regions_of_brats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write_brats2020(tmp_path / "raw")
    for number in (1, 2, 3):
        label = np.roll(make_tumour(number)[1], 1, axis=2)
        write_image(tmp_path / "guess" / f"BraTS20_Training_{number:03d}.nii.gz", label)
    main(["evaluate", str(tmp_path / "guess"), str(truth), f"--classes={PARTS}", "--workers=1"])
    assert "\nWT " in capsys.readouterr().out
    for number, row in enumerate(rows(tmp_path / "guess" / "scores.csv"), start=1):
        label = make_tumour(number)[1]
        guess = np.roll(label, 1, axis=2)
        for name, values in BRATS.items():
            a, b = np.isin(guess, values), np.isin(label, values)
            assert float(row[f"dice_{name}"]) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
            assert int(row[f"voxels_{name}"]) == b.sum()
    main(["evaluate", str(tmp_path / "guess"), str(truth), "--workers=1", f"--output={tmp_path / 'merged.csv'}"])
    merged = rows(tmp_path / "merged.csv")[0]
    assert "dice_WT" not in merged
    assert merged["dice_whole_tumour"] == merged["dice"]
    label = make_tumour(1)[1] > 0
    assert float(merged["dice"]) == pytest.approx(2 * (label & np.roll(label, 1, axis=2)).sum() / (2 * label.sum()))


@pytest.mark.e2e
def test_a_tumour_from_the_release_to_the_scores(options: list[str], tmp_path: Path) -> None:
    """Regions travel from the layout through cache and checkpoint to `test`."""
    cache = prepare(write_brats2020(tmp_path / "raw", cases=4), tmp_path / "cache", f"--classes={PARTS}")
    assert cache.regions == {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}
    run = tmp_path / "run"
    extra = ["--config=no_augmentation", "--model.init_args.optimizer.init_args.lr=0.02", "--trainer.max_epochs=3"]
    main(["fit", *options, *extra, f"--data.init_args.cache={cache.path}", f"--run_dir={run}"])
    main(["test", f"--run_dir={run}"])
    tested = rows(run / "test" / "cases.csv")
    assert tested
    for row in tested:
        truth = cache.case(row["subject"]).truth()
        assert int(row["voxels_WT"]) == (truth > 0).sum()
        assert int(row["voxels_TC"]) == np.isin(truth, [1, 3]).sum()
        parts = [int(row[f"predicted_{name}"]) for name in ("necrosis", "edema", "enhancing")]
        assert int(row["predicted_WT"]) == sum(parts)
        assert int(row["predicted_TC"]) == parts[0] + parts[2]
        assert {"hd95_mm_ET", "asd_mm_WT", "surface_dice_TC"} <= row.keys()


@pytest.mark.e2e
def test_a_merged_class_is_written_as_its_lowest_value(options: list[str], tmp_path: Path) -> None:
    data = write_brats2020(tmp_path / "raw", cases=4)
    cache = prepare(data, tmp_path / "cache", "--classes=background=0+1,rest=4+2")
    run = tmp_path / "run"
    extra = ["--config=no_augmentation", "--model.init_args.optimizer.init_args.lr=0.02", "--trainer.max_epochs=4"]
    main(["fit", *options, *extra, f"--data.init_args.cache={cache.path}", f"--run_dir={run}"])
    name = "BraTS20_Training_001"
    files = [str(data / name / f"{name}_{part}.nii") for part in ("flair", "t1", "t1ce", "t2")]
    (tmp_path / "in.csv").write_text(f"subject,flair,t1,t1ce,t2\n{name},{','.join(files)}\n")
    main(["infer", str(run), str(tmp_path / "in.csv"), f"--output={tmp_path / 'out'}", "--device=cpu"])
    found = read_label(tmp_path / "out" / f"{name}.nii").array
    assert np.unique(found).tolist() == [0, 2]
    main(["evaluate", str(tmp_path / "out"), str(data), "--predicted_only", "--classes=background=0+1,rest=2+4"])
    (row,) = rows(tmp_path / "out" / "scores.csv")
    truth = make_tumour(1)[1]
    both = ((found == 2) & (truth > 1)).sum()
    assert float(row["dice"]) == pytest.approx(2 * both / ((found == 2).sum() + (truth > 1).sum()))
