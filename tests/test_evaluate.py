"""`pocket evaluate`: label files of any tool, scored; what cannot be scored is reported, and the rest is done."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from datasets import SPACING, make_case, to_itk, write_decathlon, write_image, write_table

from lightning_pocket.cli import main
from lightning_pocket.metrics import score_case
from lightning_pocket.reports.case_table import print_cases
from lightning_pocket.types import CASE_METRICS

#: Distances of images whose voxel size is known are in mm alone.
MM_METRICS = [metric for metric in CASE_METRICS if not metric.endswith("_px")]

CLASSES = ["background", "organ", "lesion"]


def label(seed=0):
    return make_case(seed)[1]


def shifted(array, voxels=1):
    return np.roll(array, voxels, axis=2)


@pytest.fixture
def folders(tmp_path):
    """Truth and predictions of three cases: perfect, shifted, and without the second class."""
    for index, predicted in enumerate([label(0), shifted(label(1)), np.minimum(label(2), 1)]):
        write_image(tmp_path / "truth" / f"case_{index}.nii.gz", label(index))
        write_image(tmp_path / "predicted" / f"case_{index}.nii.gz", predicted)
    return tmp_path / "predicted", tmp_path / "truth"


def run(capsys, *arguments, workers=1):
    """Return exit status and lines of output."""
    try:
        main(["evaluate", *map(str, arguments), f"--workers={workers}"])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, (captured.out + captured.err).splitlines()


def rows(file):
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def numbers(row):
    return {name: float(value) for name, value in row.items() if name != "subject"}


def test_each_case_is_a_row_of_its_scores(folders, capsys):
    predicted, truth = folders
    status, lines = run(capsys, predicted, truth, "--classes=background,organ,lesion", "--tolerance_mm=2")
    assert status == 0
    table = rows(predicted / "scores.csv")
    assert [row["subject"] for row in table] == ["case_0", "case_1", "case_2"]
    guesses = [label(0), shifted(label(1)), np.minimum(label(2), 1)]
    for index, (row, guess) in enumerate(zip(table, guesses, strict=True)):
        expected = score_case(guess, label(index), CLASSES, SPACING, tolerance_mm=2)
        assert list(row) == ["subject", *expected]
        assert numbers(row) == pytest.approx(expected)
    assert numbers(table[0])["dice"] == 1
    assert float(table[1]["dice_organ"]) < 1
    assert lines[1].split() == ["case", *MM_METRICS, "dice_organ", "dice_lesion"]
    assert [line.split()[0] for line in lines[2:7]] == ["case_0", "case_1", "case_2", "mean", "std"]
    dice = [numbers(row)["dice"] for row in table]
    assert lines[5].split()[3] == f"{np.mean(dice):.4f}"
    assert lines[6].split()[1] == f"{np.std(dice, ddof=1):.4f}"
    assert lines[-1] == f"written: {predicted / 'scores.csv'}"
    lesion = next(line for line in lines if line.startswith("lesion"))
    lesions = [float(row["dice_lesion"]) for row in table]
    assert lesion.split()[1:4] == [f"{np.mean(lesions):.4f}", "±", f"{np.std(lesions, ddof=1):.4f}"]


def test_empty_masks_are_counted(folders, capsys):
    predicted, truth = folders
    _, lines = run(capsys, predicted, truth, "--classes=background,organ,lesion,cyst")
    start = lines.index("empty masks, of 3 cases")
    table = [line.split() for line in lines[start + 1 : start + 4]]
    assert table == [["class", "truth", "prediction", "both"], ["lesion", "0", "1", "0"], ["cyst", "3", "3", "3"]]


def test_one_foreground_class_needs_one_table(tmp_path, capsys):
    pair = [write_image(tmp_path / f"{name}.nrrd", label() // 2) for name in ("a", "b")]
    status, lines = run(capsys, *pair)
    assert status == 0
    assert lines[1].split() == ["case", *MM_METRICS]
    assert lines[2].split() == ["a", "1.0000", "0.00", "0.00", "1.0000"]
    assert len(lines) == 6
    assert list(rows(tmp_path / "a.nrrd.scores.csv")[0])[-2:] == ["voxels_1", "predicted_1"]


def test_axis_order_suffix_and_type_of_the_files_do_not_matter(folders, capsys):
    predicted, truth = folders
    run(capsys, predicted, truth, f"--output={predicted / 'a.csv'}")
    for file in list(predicted.glob("*.nii.gz")):
        turned = sitk.DICOMOrient(sitk.Cast(sitk.ReadImage(str(file)), sitk.sitkFloat64), "PIR")
        sitk.WriteImage(turned, str(file).replace(".nii.gz", ".mha"))
        file.unlink()
    status, _ = run(capsys, predicted, truth, f"--output={predicted / 'b.csv'}")
    assert status == 0
    assert rows(predicted / "a.csv") == rows(predicted / "b.csv")


def test_truth_may_be_a_data_set(tmp_path, capsys):
    data = write_decathlon(tmp_path / "data")
    (data / "preview.png").touch()  # an image in the data set's folder does not make it a folder of labels
    predicted = shutil.copytree(data / "labelsTr", tmp_path / "predicted")
    status, lines = run(capsys, predicted, data)
    assert status == 0
    assert "dice_organ" in lines[1]
    (predicted / "case_1.nii.gz").unlink()
    status, lines = run(capsys, predicted, data)
    assert status == 1
    assert lines[-1] == "1 error and 0 warnings in 1 of 3 cases"


def test_a_case_listed_twice_is_not_scored(tmp_path, capsys):
    table = write_table(tmp_path)
    table.write_text(table.read_text().replace("case_2", "case_1"))
    for index in range(2):
        write_image(tmp_path / "predicted" / f"case_{index}.nii.gz", label())
    status, lines = run(capsys, tmp_path / "predicted", table)
    assert status == 1
    assert lines[-2].startswith("case_1 ")
    assert "2 cases have this name" in lines[-2]
    assert [row["subject"] for row in rows(tmp_path / "predicted" / "scores.csv")] == ["case_0"]


def test_classes_of_other_values_and_ignored_voxels(tmp_path, capsys):
    values = np.array([0, 4, 300], np.int16)
    truth, predicted = values[label()], values[shifted(label())]
    truth[:3] = 9
    predicted[0] = 77  # where nothing counts anything may be predicted
    pair = [write_image(tmp_path / f"{name}.nii", array) for name, array in (("p", predicted), ("t", truth))]
    expected = score_case(np.where(truth == 9, 0, shifted(label())), np.where(truth == 9, 0, label()), CLASSES, SPACING)
    for options in (
        ["--classes=background,organ=4,lesion=300", "--ignore_label=9"],
        ["--classes=background,organ=4,lesion=300,ignore=9"],
    ):
        assert run(capsys, *pair, *options)[0] == 0
        assert numbers(rows(tmp_path / "p.nii.scores.csv")[0]) == pytest.approx(expected)
    assert run(capsys, *pair, "--ignore_label=9")[0] == 0  # the classes are the values that occur
    assert float(rows(tmp_path / "p.nii.scores.csv")[0]["dice_300"]) == pytest.approx(expected["dice_lesion"])


def _missing_prediction(root):
    (root / "predicted" / "case_1.nii.gz").unlink()


def _missing_truth(root):
    (root / "truth" / "case_1.nii.gz").unlink()


def _truncated(root):
    file = root / "predicted" / "case_1.nii.gz"
    file.write_bytes(file.read_bytes()[:-12])


def _unreadable_truth(root):
    (root / "truth" / "case_1.nii.gz").write_text("nothing")


def _other_shape(root):
    write_image(root / "predicted" / "case_1.nii.gz", label()[1:])


def _other_spacing(root):
    write_image(root / "predicted" / "case_1.nii.gz", label(), spacing=(2, 1, 3))


def _other_place(root):
    write_image(root / "predicted" / "case_1.nii.gz", label(), origin=(0, 5, 0))


def _fractions(root):
    write_image(root / "predicted" / "case_1.nii.gz", label() * np.float32(0.75))


def _unknown_value(root):
    write_image(root / "predicted" / "case_1.nii.gz", label() * np.int16(-3))


def _name_given_twice(root):
    write_image(root / "predicted" / "case_1.nrrd", label())


def _truth_given_twice(root):
    write_image(root / "truth" / "case_1.nrrd", label())


THE_TRUTH = "the truth 10 x 14 x 12 voxels of 2 x 1 x 1.5 mm"
FAULTS = [
    (_missing_prediction, "truth/case_1.nii.gz", "there is no prediction of this name"),
    (_missing_truth, "case_1.nii.gz", "there is no truth of this name"),
    (_truncated, "case_1.nii.gz", "truncated or damaged"),
    (_unreadable_truth, "truth/case_1.nii.gz", "truncated or damaged"),
    (
        _other_shape,
        "case_1.nii.gz",
        "9 x 14 x 12 voxels of 2 x 1 x 1.5 mm, the truth 10 x 14 x 12 voxels of 2 x 1 x 1.5",
    ),
    (
        _other_spacing,
        "case_1.nii.gz",
        "10 x 14 x 12 voxels of 2 x 1 x 3 mm, the truth 10 x 14 x 12 voxels of 2 x 1 x 1.5",
    ),
    (_other_place, "case_1.nii.gz", "corners up to 5.00 mm apart"),
    (_fractions, "case_1.nii.gz", "label values are not whole numbers (0.75, 1.5)"),
    (_unknown_value, "case_1.nii.gz", "label values that are no class (-6, -3)"),
    (_name_given_twice, "case_1.nrrd", "has the name of case_1.nii.gz"),
    (_truth_given_twice, "truth/case_1.nrrd", "has the name of case_1.nii.gz"),
]


@pytest.mark.parametrize(("plant", "file", "finding"), FAULTS, ids=[plant.__name__[1:] for plant, _, _ in FAULTS])
def test_a_fault_is_reported_and_the_rest_is_scored(folders, capsys, plant, file, finding):
    predicted, truth = folders
    plant(predicted.parent)
    status, lines = run(capsys, predicted, truth)
    assert status == 1
    assert [row["subject"] for row in rows(predicted / "scores.csv")] == ["case_0", "case_2"]
    assert lines[-1] == "1 error and 0 warnings in 1 of 3 cases"
    assert lines[-2].startswith("case_1 ")
    assert file in lines[-2]
    assert finding in lines[-2]


def test_cases_that_were_not_predicted_can_be_left_out(folders, capsys):
    predicted, truth = folders
    _missing_prediction(predicted.parent)
    assert run(capsys, predicted, truth, "--predicted_only")[0] == 0
    assert [row["subject"] for row in rows(predicted / "scores.csv")] == ["case_0", "case_2"]
    _missing_truth(predicted.parent)
    write_image(predicted / "case_9.nii.gz", label())
    assert run(capsys, predicted, truth, "--predicted_only")[0] == 1  # a prediction without truth stays an error


def test_several_processes_find_the_same(folders, capsys):
    predicted, truth = folders
    _truncated(predicted.parent)
    first = run(capsys, predicted, truth, "--classes=background,organ,lesion")
    scores = (predicted / "scores.csv").read_bytes()
    assert run(capsys, predicted, truth, "--classes=background,organ,lesion", workers=2) == first
    assert (predicted / "scores.csv").read_bytes() == scores


def test_volume_hd95_is_shown_on_demand(folders, capsys):
    status, lines = run(capsys, *folders, "--volume_hd95")
    assert status == 0
    assert lines[1].split()[1:6] == [*MM_METRICS, "volume_hd95_mm"]
    assert "volume_hd95_mm_1" in rows(folders[0] / "scores.csv")[0]


def test_wrong_arguments(folders, tmp_path, fails):
    predicted, truth = map(str, folders)
    case = f"{predicted}/case_0.nii.gz"
    (tmp_path / "none").mkdir()
    write_image(tmp_path / "zero" / "case_0.nii.gz", np.zeros_like(label()))
    write_image(tmp_path / "other" / "patient.nii.gz", label())
    assert "no such file or folder" in fails(["evaluate", predicted, f"{truth}s"])
    assert "give two files or two folders" in fails(["evaluate", case, truth])
    assert "give two files or two folders" in fails(["evaluate", predicted, case])
    assert "no label file named after a case" in fails(["evaluate", str(tmp_path / "none"), truth])
    assert "first names: patient; case_0" in fails(["evaluate", str(tmp_path / "other"), truth])
    assert "no images in this folder" in fails(["evaluate", predicted, str(tmp_path / "none")])
    assert "output: " in fails(["evaluate", predicted, truth, f"--output={tmp_path}"])
    assert "classes: 'organ=1'" in fails(["evaluate", predicted, truth, "--classes=organ=1"])
    assert "tolerance_mm: is -1" in fails(["evaluate", predicted, truth, "--tolerance_mm=-1"])
    assert "label 0 does not" in fails(["evaluate", predicted, truth, "--ignore_label=0"])
    assert "nothing but background" in fails(["evaluate", case, f"{tmp_path}/zero/case_0.nii.gz", "--workers=1"])
    (tmp_path / "bad.nii.gz").write_text("nothing")
    assert "truncated or damaged" in fails(["evaluate", case, str(tmp_path / "bad.nii.gz"), "--workers=1"])


def test_rows_read_from_a_file_print_the_same(folders, capsys):
    run(capsys, *folders)
    expected = rows(folders[0] / "scores.csv")
    print_cases(expected, "scores")
    from_text = capsys.readouterr().out
    print_cases([{"subject": row["subject"], **numbers(row)} for row in expected], "scores")
    assert capsys.readouterr().out == from_text
    print_cases([], "scores")
    assert capsys.readouterr().out == ""


def test_scoring_needs_no_torch(folders):
    predicted, truth = map(str, folders)
    code = (
        "import sys; from lightning_pocket.cli import main; "
        f"main(['evaluate', {predicted!r}, {truth!r}, '--workers=1']); "
        "print([name for name in ('torch', 'torchio', 'pytorch_lightning') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert result.stdout.endswith("\n[]\n")


@pytest.mark.data
def test_real_labels_agree_with_simpleitk(real_data, tmp_path, capsys):
    source = real_data / "hippocampus_msd" / "labelsTr"
    (tmp_path / "truth").mkdir()
    for file in sorted(source.iterdir())[:4]:
        shutil.copy(file, tmp_path / "truth")
        image = sitk.ReadImage(str(file))
        moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(image), (1, 0, 2), (0, 1, 2)))
        moved.CopyInformation(image)
        (tmp_path / "moved").mkdir(exist_ok=True)
        sitk.WriteImage(moved, str(tmp_path / "moved" / file.name))
    status, _ = run(capsys, tmp_path / "moved", tmp_path / "truth", "--classes=background,anterior,posterior")
    assert status == 0
    table = rows(tmp_path / "moved" / "scores.csv")
    assert len(table) == 4
    for row in table:
        truth, moved = (
            sitk.Cast(sitk.ReadImage(str(tmp_path / folder / f"{row['subject']}.nii.gz")), sitk.sitkUInt8)
            for folder in ("truth", "moved")
        )
        for value, name in ((1, "anterior"), (2, "posterior")):
            overlap = sitk.LabelOverlapMeasuresImageFilter()
            overlap.Execute(moved == value, truth == value)
            assert float(row[f"dice_{name}"]) == pytest.approx(overlap.GetDiceCoefficient())
            assert float(row[f"voxels_{name}"]) == (sitk.GetArrayFromImage(truth) == value).sum()
            distances = [_directed(moved == value, truth == value), _directed(truth == value, moved == value)]
            assert float(row[f"asd_mm_{name}"]) == pytest.approx(np.concatenate(distances).mean(), rel=1e-5)
            highest = max(np.percentile(found, 95) for found in distances)
            assert float(row[f"hd95_mm_{name}"]) == pytest.approx(highest, rel=1e-5)
            within = (np.concatenate(distances) <= 1.0001).mean()
            assert float(row[f"surface_dice_{name}"]) == pytest.approx(within)


def _directed(first, second):
    contours = [
        sitk.LabelContour(sitk.ConstantPad(m, [1] * 3, [1] * 3, 0), fullyConnected=False) for m in (first, second)
    ]
    distance = sitk.SignedMaurerDistanceMap(contours[1], squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayFromImage(distance))[sitk.GetArrayFromImage(contours[0]) > 0]


def test_the_flipped_image_is_the_same_place(tmp_path, capsys):
    """A file whose first axis runs the other way, with the origin at its other end."""
    array = shifted(label())
    flipped = to_itk(
        array[:, :, ::-1], direction=(-1, 0, 0, 0, 1, 0, 0, 0, 1), origin=((array.shape[2] - 1) * 1.5, 0, 0)
    )
    sitk.WriteImage(flipped, str(tmp_path / "flipped.nii.gz"))
    truth = write_image(tmp_path / "truth.nii.gz", label())
    write_image(tmp_path / "straight.nii.gz", array)
    for file in ("flipped", "straight"):
        assert run(capsys, tmp_path / f"{file}.nii.gz", truth)[0] == 0
    found = [numbers(rows(tmp_path / f"{name}.nii.gz.scores.csv")[0]) for name in ("flipped", "straight")]
    assert found[0] == found[1]
    assert found[0]["dice"] < 1
