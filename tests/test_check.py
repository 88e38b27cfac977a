"""`pocket check`: every planted fault is found, in one table, with its file and remedy."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from datasets import make_case, to_itk, write_decathlon, write_dicom, write_image, write_nnunet, write_table

from lightning_pocket.cli import main
from lightning_pocket.data.checks import parse_classes
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.tables import print_table


def check(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    """Run the command in this process; return exit status and lines of output."""
    try:
        main(["check", *map(str, arguments), "--workers", "1"])
        status = 0
    except SystemExit as stop:
        status = int(stop.code or 0)
    captured = capsys.readouterr()
    return status, (captured.out + captured.err).splitlines()


def test_a_sound_data_set_is_summarised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = check(capsys, write_decathlon(tmp_path))
    assert status == 0
    assert lines == [
        "3 cases, channels: MRI; classes: background, organ, lesion",
        "median size 10 x 14 x 12 voxels, median spacing 2 x 1 x 1.5 mm (D x H x W); no errors",
        "no groups: every case counts by itself",
    ]


def _shape(root: Path) -> None:
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(1)[1][1:])


def _affine(root: Path) -> None:
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(1)[1], origin=(0, 0, 1.5))


def _spacing(root: Path) -> None:
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(1)[1], spacing=(2.0, 1.0, 1.6))


def _undeclared(root: Path) -> None:
    label = make_case(1)[1]
    label[0, 0, :2] = 7, 9
    write_image(root / "labelsTr" / "case_1.nii.gz", label)


def _above_255(root: Path) -> None:
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(1)[1].astype(np.int16) * 300)


def _fractions(root: Path) -> None:
    write_image(root / "labelsTr" / "case_1.nii.gz", make_case(1)[1] * np.float32(0.75))


def _nan(root: Path) -> None:
    image = make_case(1)[0]
    image[0, 0, :3] = np.nan, np.inf, -np.inf
    write_image(root / "imagesTr" / "case_1.nii.gz", image)


def _four_dimensions(root: Path) -> None:
    image = to_itk(make_case(1)[0])
    sitk.WriteImage(sitk.JoinSeries([image, image, image]), str(root / "imagesTr" / "case_1.nii.gz"))


def _no_label(root: Path) -> None:
    (root / "labelsTr" / "case_1.nii.gz").unlink()


def _no_image(root: Path) -> None:
    (root / "imagesTr" / "case_1.nii.gz").unlink()


def _truncated(root: Path) -> None:
    path = root / "imagesTr" / "case_1.nii.gz"
    path.write_bytes(path.read_bytes()[:4000])


def _truncated_label(root: Path) -> None:
    path = root / "labelsTr" / "case_1.nii.gz"
    path.write_bytes(path.read_bytes()[:-12])


def _twice(root: Path) -> None:
    declaration = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    declaration["training"].append(declaration["training"][1])
    (root / "dataset.json").write_text(json.dumps(declaration))


FAULTS = [
    (_shape, "labelsTr/case_1.nii.gz", "label shape 9 x 14 x 12 (D x H x W), image 10 x 14 x 12"),
    (_affine, "labelsTr/case_1.nii.gz", "label and image affines are up to 1.50 mm apart"),
    (_spacing, "labelsTr/case_1.nii.gz", "label and image affines are up to 1.10 mm apart"),
    (_undeclared, "labelsTr/case_1.nii.gz", "undeclared label values (7, 9)"),
    (_above_255, "labelsTr/case_1.nii.gz", "label values outside 0 to 255 (300, 600)"),
    (_fractions, "labelsTr/case_1.nii.gz", "label values are not whole numbers (0.75, 1.5)"),
    (_nan, "imagesTr/case_1.nii.gz", "NaN or infinite voxels: 3"),
    (_four_dimensions, "imagesTr/case_1.nii.gz", "is a 4D file of size 12 x 14 x 10 x 3 with 3 channels, expected 1"),
    (_no_label, "labelsTr/case_1.nii.gz", "the label is missing"),
    (_no_image, "imagesTr/case_1.nii.gz", "the image is missing"),
    (_truncated, "imagesTr/case_1.nii.gz", "truncated or damaged"),
    (_truncated_label, "labelsTr/case_1.nii.gz", "truncated or damaged"),
    (_twice, "imagesTr/case_1.nii.gz", "2 cases have this name"),
]


@pytest.mark.parametrize(("plant", "file", "finding"), FAULTS, ids=[plant.__name__[1:] for plant, _, _ in FAULTS])
def test_one_fault_is_one_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plant: Callable[[Path], None], file: str, finding: str
) -> None:
    plant(write_decathlon(tmp_path))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert len(lines) == 3
    assert lines[0].split() == ["case", "file", "finding", "remedy"]
    assert lines[1].startswith("case_1 ")
    assert file in lines[1]
    assert finding in lines[1]
    remedy = lines[1].split(finding)[1].split("  ")[-1]
    assert len(remedy.split()) >= 3
    assert lines[2].startswith("1 error and 0 warnings in 1 of ")


def test_all_faults_in_one_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_decathlon(tmp_path, cases=5)
    _undeclared(tmp_path)
    _nan(tmp_path)
    write_image(tmp_path / "labelsTr" / "case_2.nii.gz", make_case(2)[1][1:])
    (tmp_path / "imagesTr" / "case_4.nii.gz").unlink()
    write_image(tmp_path / "labelsTr" / "case_4.nii.gz", make_case(4)[1] * np.float32(0.5))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert [line.split()[0] for line in lines[1:-1]] == ["case_1", "case_1", "case_2", "case_4", "case_4"]
    assert lines[-1] == "5 errors and 0 warnings in 3 of 5 cases"


def test_small_differences_of_the_affine_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_decathlon(tmp_path)
    write_image(tmp_path / "labelsTr" / "case_1.nii.gz", make_case(1)[1], origin=(0, 0, 0.09))
    assert check(capsys, tmp_path)[0] == 0
    write_image(tmp_path / "labelsTr" / "case_1.nii.gz", make_case(1)[1], origin=(0, 0, 0.11))
    assert check(capsys, tmp_path)[0] == 1


def test_same_place_in_another_axis_order_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_decathlon(tmp_path)
    turned = sitk.DICOMOrient(to_itk(make_case(1)[1]), "PIR")
    sitk.WriteImage(turned, str(tmp_path / "labelsTr" / "case_1.nii.gz"))
    assert check(capsys, tmp_path)[0] == 0


def test_warnings_do_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_decathlon(tmp_path)
    write_image(tmp_path / "labelsTr" / "case_0.nii.gz", np.zeros_like(make_case(0)[1]))
    write_image(tmp_path / "imagesTr" / "case_2.nii.gz", np.full_like(make_case(2)[0], 5))
    status, lines = check(capsys, tmp_path)
    assert status == 0
    assert "warning: the label is empty" in lines[1]
    assert "warning: channel MRI is 5 everywhere" in lines[2]
    assert lines[3] == "0 errors and 2 warnings in 2 of 3 cases"


def test_channels_on_different_grids(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_nnunet(tmp_path)
    write_image(tmp_path / "imagesTr" / "case_1_0001.nii.gz", make_case(1)[0], origin=(3, 0, 0))
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert "case_1_0001.nii.gz  lies on another grid than case_1_0000.nii.gz" in lines[1]


def test_table_with_dicom_and_faulty_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, label = make_case(0)
    write_dicom(tmp_path / "scan", image.astype(np.int16))
    write_image(tmp_path / "mask.nii.gz", label)
    file = tmp_path / "cases.csv"
    file.write_text("subject,CT,label\na,scan,mask.nii.gz\n")
    assert check(capsys, file, "--classes", "background,organ,lesion")[0] == 0
    file.write_text("subject,CT,label\na,scan,\nb,,mask.nii.gz\nc/d,scan,mask.nii.gz\n")
    status, lines = check(capsys, file)
    assert status == 1
    assert [" ".join(line.split()[:1]) for line in lines[1:-1]] == ["c/d", "a", "b", "a"]
    assert "the name cannot name a folder" in lines[1]
    assert "no label is named" in lines[2]
    assert "no image is named" in lines[3]
    assert "warning: copies of one image: a, c/d" in lines[4]


def test_classes_replace_the_declared_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = write_table(tmp_path)
    assert check(capsys, table, "--classes", "background,organ")[0] == 1
    status, lines = check(capsys, table, "--classes", "background,organ=1,lesion=2")
    assert status == 0
    assert lines[0].endswith("classes: background, organ, lesion")
    assert check(capsys, table)[1][0].endswith("classes: background, label_1, label_2")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_is_found_in_every_format(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, dtype: type
) -> None:
    image, label = make_case(0, shape=(40, 64, 60))  # float64 fills more than one chunk of a megabyte
    image[-1, -1, -1] = np.nan
    write_image(tmp_path / f"image{suffix}", image.astype(dtype))
    write_image(tmp_path / "mask.nii.gz", label)
    file = tmp_path / "cases.csv"
    file.write_text(f"subject,CT,label\na,image{suffix},mask.nii.gz\n")
    status, lines = check(capsys, file)
    assert status == 1
    assert f"image{suffix}  NaN or infinite voxels: 1" in lines[1]


def test_folder_without_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    status, lines = check(capsys, tmp_path)
    assert status == 1
    assert lines == [
        f"pocket: error: {tmp_path}: no images in this folder or below it; give the folder of the data set."
    ]


def test_the_first_class_of_volumes_has_the_value_0() -> None:
    assert list(parse_classes("background=0+3,b=2,a=1").values()) == ["background", "a", "b", "background"]
    with pytest.raises(PocketError, match=r"names 'background' first, but .* value 0, here 'lesion'; name that first"):
        parse_classes("background=255,lesion=0")
    with pytest.raises(PocketError, match="the first class is the background: put 'background' first"):
        parse_classes("liver,background")


def test_parse_classes() -> None:
    assert parse_classes("background, a,b") == {0: "background", 1: "a", 2: "b"}
    assert parse_classes("background,core=1,edema=2,enhancing=4") == {
        0: "background",
        1: "core",
        2: "edema",
        4: "enhancing",
    }
    for wrong in ("background", "a=1,b=2", "background,,b", "background,a,a", "background,a=x", "background,a,b=1"):
        with pytest.raises(PocketError, match="classes: "):
            parse_classes(wrong)


def test_rows_stay_whole_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    long = "word " * 100 + "[bold]end"
    print_table(("name", "n"), [(long, 3), ("b", 12)], title="Title")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert long in lines[2]
    assert [len(line) for line in lines[1:]] == [len(lines[1])] * 3  # numbers end in one column


def test_check_needs_neither_torch_nor_torchio() -> None:
    code = (
        "import sys; from lightning_pocket.commands import check, prepare, plan;"
        "print([name for name in ('torch', 'torchio', 'pytorch_lightning', 'scipy') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout.strip() == "[]"


def test_workers_find_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _undeclared(write_decathlon(tmp_path))
    _, expected = check(capsys, tmp_path)
    with pytest.raises(SystemExit):
        main(["check", str(tmp_path), "--workers", "2"])
    assert capsys.readouterr().out.splitlines() == expected
