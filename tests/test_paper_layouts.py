"""Volumes of PocketNet's experiments: miniature copies of the real layouts, their typical damage, and real bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from datasets import make_case, make_tumour, write_brats2020, write_image, write_lits, write_nfbs

from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.layouts import find_layout

Capture = pytest.CaptureFixture[str]


def check(capsys: Capture, *arguments: object) -> tuple[int, list[str]]:
    """Run the command in this process; return exit status and lines of output."""
    try:
        main(["check", *map(str, arguments), "--workers", "1"])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, (captured.out + captured.err).splitlines()


def prepare(data: Path, cache: Path, *options: str) -> Cache:
    main(["prepare", str(data), f"--output={cache}", *options, "--num_folds=2", "--workers=1"])
    return Cache.open(cache)


@pytest.mark.parametrize("folders", [("",), ("Training Batch 1", "Training Batch 2")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_lits_flat_or_in_batches(tmp_path: Path, capsys: Capture, folders: tuple[str, ...], suffix: str) -> None:
    found = find_layout(write_lits(tmp_path, cases=11, suffix=suffix, folders=folders))
    assert (found.name, found.channels) == ("lits", ["CT"])
    cases = found.cases()
    assert [case.subject for case in cases] == [f"volume-{number}" for number in range(11)]  # 10 after 9
    assert all(case.images[0].is_file() and case.label and case.label.is_file() for case in cases)
    assert {case.label and case.label.name for case in cases} == {f"segmentation-{n}{suffix}" for n in range(11)}
    status, lines = check(capsys, tmp_path)
    assert status == 0
    assert lines[0] == "11 cases, channels: CT; classes: background, liver (1 + 2)"
    assert lines[2] == "merged as is usual for lits; kept apart with --classes background,liver,tumour"


def test_lits_images_and_labels_in_folders_of_their_own(tmp_path: Path) -> None:
    write_lits(tmp_path)
    (tmp_path / "segmentations").mkdir()
    for path in list(tmp_path.glob("segmentation-*")):
        path.rename(tmp_path / "segmentations" / path.name)
    cases = find_layout(tmp_path).cases()
    assert [case.label for case in cases] == [tmp_path / "segmentations" / f"segmentation-{n}.nii" for n in range(3)]


def test_lits_two_folders_down(tmp_path: Path) -> None:
    write_lits(tmp_path)
    deep = tmp_path / "batch" / "inner"
    deep.mkdir(parents=True)
    for name in ("volume-2.nii", "segmentation-2.nii"):
        (tmp_path / name).rename(deep / name)
    shutil.copy(tmp_path / "volume-0.nii", deep / "liver.nii")
    found = find_layout(tmp_path)
    assert [case.subject for case in found.cases()] == ["volume-0", "volume-1", "volume-2"]
    assert found.cases()[2].images == (deep / "volume-2.nii",)
    assert found.unlisted() == [deep / "liver.nii"]


def test_nfbs(tmp_path: Path, capsys: Capture) -> None:
    found = find_layout(write_nfbs(tmp_path))
    assert (found.name, found.channels, found.labels) == ("nfbs", ["T1w"], {0: "background", 1: "brain"})
    case = found.cases()[1]
    assert (case.subject, case.group) == ("sub-A00028181_ses-NFB3_T1w", "A00028181")
    assert case.images[0].name == "sub-A00028181_ses-NFB3_T1w.nii.gz"
    assert case.label
    assert case.label.name == "sub-A00028181_ses-NFB3_T1w_brainmask.nii.gz"
    status, lines = check(capsys, tmp_path)
    assert (status, len(lines)) == (0, 3)
    assert lines[0] == "3 cases, channels: T1w; classes: background, brain"
    # The archive of the release unpacks into a folder of its own.
    shutil.copytree(tmp_path, tmp_path.parent / "above" / "NFBS_Dataset")
    assert len(find_layout(tmp_path.parent / "above").cases()) == 3


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_brats2020(tmp_path: Path, capsys: Capture, suffix: str) -> None:
    root = tmp_path / "MICCAI_BraTS2020_TrainingData"
    found = find_layout(write_brats2020(root, suffix=suffix))
    assert (found.name, found.channels) == ("brats2020", ["flair", "t1", "t1ce", "t2"])
    case = found.cases()[2]
    assert case.subject == "BraTS20_Training_003"
    parts = [path.name.removeprefix("BraTS20_Training_003_") for path in (*case.images, case.label) if path]
    assert parts == [f"{part}{suffix}" for part in ("flair", "t1", "t1ce", "t2", "seg")]
    assert [case.subject for case in find_layout(tmp_path).cases()] == [f"BraTS20_Training_00{n}" for n in (1, 2, 3)]
    status, lines = check(capsys, tmp_path)
    assert status == 0
    assert lines[0].endswith("channels: flair, t1, t1ce, t2; classes: background, whole_tumour (1 + 2 + 4)")
    assert lines[2].endswith("kept apart with --classes background,necrosis,edema,enhancing=4")
    status, lines = check(capsys, tmp_path, "--classes=background,necrosis,edema,enhancing=4")
    assert (status, len(lines)) == (0, 3)
    assert lines[0].endswith("classes: background, necrosis, edema, enhancing")


def _exchange(first: Path, second: Path) -> None:
    third = first.with_name("third.nii.gz")
    first.rename(third)
    second.rename(first)
    third.rename(second)


def _lits_swapped(root: Path) -> None:
    _exchange(root / "volume-1.nii", root / "segmentation-1.nii")


def _lits_no_label(root: Path) -> None:
    (root / "segmentation-1.nii").unlink()


def _lits_no_image(root: Path) -> None:
    (root / "volume-1.nii").unlink()


def _lits_misnamed(root: Path) -> None:
    (root / "segmentation-1.nii").rename(root / "label_1.nii")


def _lits_twice(root: Path) -> None:
    shutil.copy(root / "volume-1.nii", root / "volume-01.nii")


def _nfbs_swapped(root: Path) -> None:
    folder = root / "A00028181"
    _exchange(*(folder / f"sub-A00028181_ses-NFB3_T1w{kind}.nii.gz" for kind in ("", "_brainmask")))


def _nfbs_no_label(root: Path) -> None:
    (root / "A00028181" / "sub-A00028181_ses-NFB3_T1w_brainmask.nii.gz").unlink()


def _nfbs_tissue(root: Path) -> None:
    write_image(root / "A00028181" / "sub-A00028181_ses-NFB3_T1w_brainmask.nii.gz", make_case(1)[1])


def _nfbs_empty(root: Path) -> None:
    for path in (root / "A00028181").iterdir():
        path.unlink()


def _brats_no_modality(root: Path) -> None:
    (root / "BraTS20_Training_002" / "BraTS20_Training_002_t1ce.nii").unlink()


def _brats_label_3(root: Path) -> None:
    label = make_tumour(2)[1]
    write_image(root / "BraTS20_Training_002" / "BraTS20_Training_002_seg.nii", np.where(label == 4, 3, label))


def _brats_swapped(root: Path) -> None:
    folder = root / "BraTS20_Training_002"
    _exchange(*(folder / f"BraTS20_Training_002_{part}.nii" for part in ("t1ce", "seg")))


def _brats_copied(root: Path) -> None:
    folder = root / "BraTS20_Training_002"
    shutil.copy(folder / "BraTS20_Training_002_t1.nii", folder / "BraTS20_Training_002_seg.nii")


def _lits_copied(root: Path) -> None:
    shutil.copy(root / "volume-1.nii", root / "segmentation-1.nii")


def _lits_other_image(root: Path) -> None:
    write_image(root / "segmentation-1.nii", (100 * make_case(2)[0]).astype(np.int16))


def _brats_355(root: Path) -> None:
    folder = root / "BraTS20_Training_002"
    (folder / "BraTS20_Training_002_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")


DAMAGE = [
    (write_lits, _lits_swapped, ["segmentation-1.nii", "looks like an image, and volume-1.nii like a label"]),
    (write_lits, _lits_copied, ["segmentation-1.nii", "looks like an image: it has the voxels of volume-1.nii"]),
    (write_lits, _lits_other_image, ["looks like an image: ", "different values (", "put the label map"]),
    (write_brats2020, _brats_swapped, ["_002_seg.nii", "and BraTS20_Training_002_t1ce.nii like a label", "exchange"]),
    (write_brats2020, _brats_copied, ["_002_seg.nii", "image: it has the voxels of BraTS20_Training_002_t1.nii  put"]),
    (write_lits, _lits_no_label, ["segmentation-1.nii", "the label is missing", "restore the file"]),
    (write_lits, _lits_no_image, ["volume-1.nii", "the image is missing"]),
    (write_lits, _lits_misnamed, ["the label is missing, and label_1.nii beside it", "rename label_1.nii to segm"]),
    (write_nfbs, _nfbs_swapped, ["T1w_brainmask.nii.gz", "looks like an image", "exchange the names"]),
    (write_nfbs, _nfbs_no_label, ["T1w_brainmask.nii.gz", "the label is missing"]),
    (write_nfbs, _nfbs_tissue, ["T1w_brainmask.nii.gz", "undeclared label values (2)"]),
    (write_brats2020, _brats_no_modality, ["BraTS20_Training_002_t1ce.nii ", "the image is missing"]),
    (write_brats2020, _brats_label_3, ["_002_seg.nii", "label values (3)", "declared are 0, 1, 2, 4: 3 is the enh"]),
    (write_brats2020, _brats_355, ["rename W39_1998.09.19_Segm.nii to BraTS20_Training_002_seg.nii if"]),
]


@pytest.mark.parametrize(("write", "plant", "expected"), DAMAGE, ids=[plant.__name__[1:] for _, plant, _ in DAMAGE])
def test_damage_is_one_line(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], Path], plant: Callable[[Path], None], expected: list[str]
) -> None:
    plant(write(tmp_path))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert len(lines) == 3, lines
    assert all(text in lines[1] for text in expected), lines[1]
    assert lines[2] == "1 error and 0 warnings in 1 of 3 cases"


@pytest.mark.parametrize("options", ["background,whole_tumour=1+2+3+4", "background,necrosis,edema,enhancing=3+4"])
def test_label_3_is_declared_as_the_remedy_says(tmp_path: Path, capsys: Capture, options: str) -> None:
    _brats_label_3(write_brats2020(tmp_path))
    assert options in check(capsys, tmp_path)[1][1]
    assert check(capsys, tmp_path, f"--classes={options}")[0] == 0
    with pytest.raises(SystemExit):
        main(["prepare", str(tmp_path), f"--output={tmp_path / 'cache'}", "--num_folds=2", "--workers=1"])
    assert options in capsys.readouterr().out
    label = make_tumour(2)[1]
    label[label == 4] = 3
    label[0, 0, 0] = 9
    write_image(tmp_path / "BraTS20_Training_002" / "BraTS20_Training_002_seg.nii", label)
    said = check(capsys, tmp_path)[1][1]
    assert "undeclared label values (3, 9)" in said
    assert said.endswith("declare the value with --classes NAME=VALUE or mend the file")


@pytest.mark.parametrize(
    ("write", "missing", "stray"),
    [
        (write_lits, "segmentation-1.nii", "volume-2 copy.nii"),
        (write_lits, "volume-1.nii", "Segmentation_1.nii"),
        (write_brats2020, "BraTS20_Training_002/BraTS20_Training_002_t1ce.nii", "BraTS20_Training_002_t1 (1).nii"),
    ],
)
def test_a_file_of_another_kind_is_not_the_missing_one(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], Path], missing: str, stray: str
) -> None:
    file = write(tmp_path) / missing
    file.rename(file.with_name(stray))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert "rename " not in lines[1]
    assert " is missing  " in lines[1]
    assert "restore the file" in lines[1]
    assert stray in lines[2]
    assert "warning: belongs to no case" in lines[2]
    file.with_name(stray).rename(file.with_name(f"{file.stem}_.nii"))
    assert f"rename {file.stem}_.nii to {file.name} if it is the same" in check(capsys, tmp_path)[1][1]


def test_a_case_given_twice_is_named(tmp_path: Path, capsys: Capture) -> None:
    _lits_twice(write_lits(tmp_path))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert any("2 cases have this name" in line for line in lines)


def test_a_subject_without_files_is_listed(tmp_path: Path, capsys: Capture) -> None:
    _nfbs_empty(write_nfbs(tmp_path))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert [line.split()[0] for line in lines[1:3]] == ["sub-A00028181_ses-NFB3_T1w"] * 2


@pytest.mark.parametrize(
    ("write", "stray"),
    [
        (write_lits, "liver_7.nii.gz"),
        (write_nfbs, "A00028180/sub-A00028180_T2w.nii.gz"),
        (write_brats2020, "BraTS20_Training_001/BraTS20_Training_001_swi.nii"),
    ],
)
def test_an_image_of_no_case_is_a_warning(
    tmp_path: Path, capsys: Capture, write: Callable[[Path], Path], stray: str
) -> None:
    write_image(write(tmp_path) / stray, make_case(0)[0])
    status, lines = check(capsys, tmp_path)
    assert status == 0
    assert lines[1].startswith("-")
    assert stray in lines[1]
    assert "warning: belongs to no case" in lines[1]
    assert lines[2] == "0 errors and 1 warning; 3 cases"
    for number in range(8):
        shutil.copy(tmp_path / stray, (tmp_path / stray).with_name(f"copy_{number}.nii"))
    _, lines = check(capsys, tmp_path)
    assert "this and 8 more image files belong to no case" in lines[1]
    assert lines[2] == "0 errors and 1 warning; 3 cases"


def test_test_images_of_lits_are_left_alone(tmp_path: Path) -> None:
    shutil.copy(write_lits(tmp_path) / "volume-0.nii", tmp_path / "test-volume-0.nii")
    found = find_layout(tmp_path)
    assert (len(found.cases()), found.unlisted()) == (3, [])


def test_lits_is_prepared_as_in_the_paper(tmp_path: Path) -> None:
    thickness = [1.0, 2.0, 5.0, 2.5]
    for index, mm in enumerate(thickness):
        image, label = make_case(index)
        for name, array in (("volume", image.astype(np.int16)), ("segmentation", label)):
            write_image(tmp_path / "raw" / f"{name}-{index}.nii", array, spacing=(mm, 0.7, 0.8))
    cache = prepare(tmp_path / "raw", tmp_path / "cache", "--config=lits")
    assert cache.classes == ["background", "liver"]
    assert cache.spacing == pytest.approx([np.percentile(thickness, 90), 0.7, 0.8])
    pooled = np.concatenate([make_case(i)[0].astype(np.int16)[make_case(i)[1] > 0] for i in range(4)]).astype(float)
    (settings,) = cache.preprocessing["normalization"]
    low, high = np.percentile(pooled, [0.5, 99.5])
    expected = {"method": "clip_zscore", "low": low, "high": high, "mean": pooled.mean(), "std": pooled.std()}
    assert settings == pytest.approx(expected)


def test_brats_is_prepared_as_in_the_paper(tmp_path: Path) -> None:
    cache = prepare(write_brats2020(tmp_path / "raw"), tmp_path / "cache", "--config=brats2020")
    image = make_tumour(1)[0]
    case = cache.case("BraTS20_Training_001")
    assert case.shape == (8, 11, 9)  # what is left without the border of zeros
    flair = image[1:-1, 2:-1, 1:-2]
    np.testing.assert_allclose(case.image()[0], (flair - flair.mean()) / flair.std(), atol=1e-4)
    assert cache.classes == ["background", "whole_tumour"]
    np.testing.assert_array_equal(case.truth(), make_tumour(1)[1] > 0)


def test_options_win_over_the_config(tmp_path: Path) -> None:
    options = ["--config=nfbs", "--normalization=none", "--spacing=[2,2,2]"]
    cache = prepare(write_nfbs(tmp_path / "raw"), tmp_path / "cache", *options)
    settings = json.loads((tmp_path / "cache" / "dataset.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["normalization"], settings["layout"], cache.spacing) == ("none", "nfbs", [2, 2, 2])


@pytest.mark.data
def test_real_gliomas(real_data: Path, tmp_path: Path, capsys: Capture) -> None:
    raw = tmp_path / "raw"
    for number, source in enumerate(sorted((real_data / "brats_tcga_fused").glob("TCGA-*")), start=1):
        name = f"BraTS20_Training_{number:03d}"
        (raw / name).mkdir(parents=True)
        for part in ("flair", "t1", "t1ce", "t2", "seg"):
            shutil.copy(source / f"{source.name}_{part}.nii.gz", raw / name / f"{name}_{part}.nii.gz")
    status, lines = check(capsys, raw)
    assert status == 0
    assert lines[1].startswith("median size 155 x 240 x 240 voxels, median spacing 1 x 1 x 1 mm")
    cache = prepare(raw, tmp_path / "cache", "--config=brats2020", "--classes=background,necrosis,edema,enhancing=4")
    assert cache.regions == {"ET": [3], "TC": [1, 3], "WT": [1, 2, 3]}
    for number, subject in enumerate(cache.subjects, start=1):
        case = cache.case(subject)
        seg = sitk.GetArrayFromImage(sitk.ReadImage(raw / subject / f"{subject}_seg.nii.gz"))
        assert np.bincount(case.truth().ravel(), minlength=4).tolist() == [(seg == v).sum() for v in (0, 1, 2, 4)]
        assert case.shape < (155, 240, 240)
        flair = sitk.GetArrayFromImage(sitk.ReadImage(raw / subject / f"{subject}_flair.nii.gz")).astype(float)
        brain = flair[flair != 0]
        assert case.image()[0].max() == pytest.approx((brain.max() - brain.mean()) / brain.std(), rel=1e-4), number


@pytest.mark.data
def test_real_livers(real_data: Path, tmp_path: Path, capsys: Capture) -> None:
    source, raw = real_data / "abdomen_ct" / "totalsegmentator_example", tmp_path / "raw"
    raw.mkdir()
    for number in range(2):
        shutil.copy(source / "ct.nii.gz", raw / f"volume-{number}.nii.gz")
        shutil.copy(source / "liver.nii.gz", raw / f"segmentation-{number}.nii.gz")
    assert check(capsys, raw)[0] == 0
    cache = prepare(raw, tmp_path / "cache", "--config=lits")
    assert cache.classes == ["background", "liver"]
    assert cache.case("volume-0").class_voxels[1] == 41_692
    early = prepare(raw, tmp_path / "early", "--config=lits_early")
    assert early.spacing == [3.0, 1.535, 1.535]


@pytest.mark.data
def test_real_brains(real_data: Path, tmp_path: Path, capsys: Capture) -> None:
    raw = tmp_path / "raw"
    names = sorted(path.name for path in (real_data / "ptbp_brain_slabs" / "images").iterdir())[:3]
    for number, name in enumerate(names):
        folder = raw / f"A0002818{number}"
        folder.mkdir(parents=True)
        scan = folder / f"sub-{folder.name}_ses-NFB3_T1w"
        shutil.copy(real_data / "ptbp_brain_slabs" / "images" / name, f"{scan}.nii.gz")
        shutil.copy(real_data / "ptbp_brain_slabs" / "brainmask" / name, f"{scan}_brainmask.nii.gz")
    assert check(capsys, raw)[0] == 0
    cache = prepare(raw, tmp_path / "cache", "--config=nfbs")
    case = cache.case("sub-A00028180_ses-NFB3_T1w")
    mask = sitk.GetArrayFromImage(sitk.ReadImage(real_data / "ptbp_brain_slabs" / "brainmask" / names[0]))
    assert case.class_voxels[1] == (mask > 0).sum()
    assert abs(float(case.image()[0].mean())) < 1e-4
    assert float(case.image()[0].std()) == pytest.approx(1, abs=1e-3)
    assert cache.spacing == pytest.approx([1, 1, 1])
