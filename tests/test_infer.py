"""`pocket infer`: label maps of new images on the images' own grids."""

import csv
import itertools
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from datasets import write_dicom
from inferring import infer, labels
from scipy import ndimage

from lightning_pocket.cli import main
from lightning_pocket.data.images import read_label
from lightning_pocket.data.inputs import find_inputs
from lightning_pocket.errors import PocketError
from lightning_pocket.inference import keep_largest
from lightning_pocket.segmenter import Segmenter

pytestmark = pytest.mark.e2e


def dice(a, b):
    return 2 * np.logical_and(a, b).sum() / (a.sum() + b.sum())


def test_the_label_map_lies_on_the_image_and_is_right(trained, image, blobs, tmp_path, capsys):
    infer(trained, [image], tmp_path / "out")
    assert "shell" in capsys.readouterr().out
    written = tmp_path / "out" / "case_01.nii.gz"
    np.testing.assert_array_equal(nibabel.load(written).affine, nibabel.load(image).affine)
    truth = labels(blobs / "labelsTr" / "case_01.nii.gz")
    assert labels(written).dtype == np.uint8
    assert dice(labels(written) == 1, truth == 1) > 0.8
    assert dice(labels(written) == 2, truth == 2) > 0.5


def test_the_scores_are_those_of_the_test(trained, blobs, tmp_path):
    main(["test", f"--run_dir={trained}"])
    with (trained / "test" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        infer(trained, [blobs / "imagesTr" / f"{row['subject']}.nii.gz"], tmp_path / "out")
        found = labels(tmp_path / "out" / f"{row['subject']}.nii.gz")
        truth = labels(blobs / "labelsTr" / f"{row['subject']}.nii.gz")
        assert dice(found == 1, truth == 1) == pytest.approx(float(row["dice_shell"]), abs=1e-6)


@pytest.mark.parametrize(
    ("axes", "flipped"), [((2, 0, 1), (0, 2)), ((1, 0, 2), ()), ((0, 1, 2), (0, 1, 2)), ((2, 1, 0), (1,))]
)
def test_axis_order_and_direction_change_nothing(trained, image, tmp_path, axes, flipped):
    source = nibabel.load(image)
    source = nibabel.Nifti1Image(source.get_fdata(dtype=np.float32), np.diag([0.8, 1.1, 0.9, 1]))
    steps = [[axis, -1 if axis in flipped else 1] for axis in range(3)]
    orientation = np.array([steps[axes.index(axis)] for axis in range(3)])
    orientation[:, 0] = [axes.index(axis) for axis in range(3)]
    moved = source.as_reoriented(orientation)
    assert moved.shape == tuple(source.shape[axis] for axis in axes)
    nibabel.save(source, tmp_path / "straight.nii.gz")
    nibabel.save(moved, tmp_path / "moved.nii.gz")
    infer(trained, [tmp_path / "straight.nii.gz", tmp_path / "moved.nii.gz"], tmp_path / "out")
    straight, found = (nibabel.load(tmp_path / "out" / f"{name}.nii.gz") for name in ("straight", "moved"))
    np.testing.assert_array_equal(found.affine, nibabel.load(tmp_path / "moved.nii.gz").affine)
    undone = np.asarray(
        found.as_reoriented(nibabel.io_orientation(np.linalg.inv(source.affine) @ found.affine)).dataobj
    )
    np.testing.assert_array_equal(undone, np.asarray(straight.dataobj))
    assert (undone > 0).any()


def test_a_dicom_series_gives_the_labels_of_its_nifti(trained, image, tmp_path):
    volume = sitk.ReadImage(str(image))
    whole = sitk.Cast(sitk.RescaleIntensity(volume, -200, 2000), sitk.sitkInt16)
    whole.SetSpacing((0.9, 1.0, 1.2))
    sitk.WriteImage(whole, str(tmp_path / "scan.nii.gz"))
    series = write_dicom(tmp_path / "series", sitk.GetArrayFromImage(whole), (1.2, 1.0, 0.9))
    infer(trained, [tmp_path / "scan.nii.gz", series], tmp_path / "out")
    nifti, dicom = (read_label(tmp_path / "out" / name) for name in ("scan.nii.gz", "series.nii.gz"))
    np.testing.assert_array_equal(nifti.array, dicom.array)
    assert nifti.grid.distance(dicom.grid) < 1e-4
    assert (nifti.array > 0).any()


def test_probabilities_sum_to_one_and_agree_with_the_labels(trained, image, tmp_path):
    infer(trained, [image], tmp_path / "out", "--probabilities")
    folder = tmp_path / "out" / "probabilities"
    maps = np.stack([labels(folder / "case_01" / f"{name}.nii.gz") for name in ("background", "shell", "core")])
    np.testing.assert_allclose(maps.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(maps.argmax(axis=0), labels(tmp_path / "out" / "case_01.nii.gz"))


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".mha"])
def test_results_keep_the_format_of_the_image(trained, image, tmp_path, suffix):
    volume = sitk.ReadImage(str(image))
    volume.SetOrigin((0.1, 1 / 3, -70.123456789))
    volume.SetSpacing((1.0000001, 0.7, 1 / 3))
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(volume, str(path))
    infer(trained, [path], tmp_path / "out")
    source, found = sitk.ReadImage(str(path)), sitk.ReadImage(str(tmp_path / "out" / path.name))
    for quantity in ("GetOrigin", "GetSpacing", "GetDirection", "GetSize"):
        assert getattr(found, quantity)() == getattr(source, quantity)()


def test_a_header_with_codes_and_scaling_is_taken_over(trained, image, tmp_path):
    source = nibabel.load(image)
    header = nibabel.Nifti1Header()
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"scanner 7"
    moved = nibabel.Nifti1Image((source.get_fdata() * 100).astype(np.int16), None, header)
    angle = np.deg2rad(12.3)
    affine = np.array(
        [
            [-np.cos(angle), np.sin(angle), 0, 11.1],
            [np.sin(angle), np.cos(angle), 0, -3.3],
            [0, 0, 1, 1 / 3],
            [0, 0, 0, 1],
        ]
    )
    moved.set_sform(affine, code=2)
    moved.set_qform(affine, code=1)
    moved.header.set_slope_inter(0.01, -3)
    nibabel.save(moved, tmp_path / "scan.nii.gz")
    infer(trained, [tmp_path / "scan.nii.gz"], tmp_path / "out")
    written, stored = nibabel.load(tmp_path / "out" / "scan.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    for key in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"):
        np.testing.assert_array_equal(written.header[key], stored.header[key])
    np.testing.assert_array_equal(written.header["pixdim"][:4], stored.header["pixdim"][:4])
    assert set(np.unique(written.get_fdata())) <= {0, 1, 2}  # the scaling of the intensities is not


def test_a_file_is_not_read_from_its_sibling(trained, blobs, tmp_path):
    for name, number in (("scan.nii.gz", 0), ("scan.nii", 3)):
        sitk.WriteImage(sitk.ReadImage(str(blobs / "imagesTr" / f"case_0{number}.nii.gz")), str(tmp_path / name))
    infer(trained, [tmp_path / "scan.nii.gz"], tmp_path / "both")
    infer(trained, [blobs / "imagesTr" / "case_00.nii.gz"], tmp_path / "alone")
    np.testing.assert_array_equal(
        labels(tmp_path / "both" / "scan.nii.gz"), labels(tmp_path / "alone" / "case_00.nii.gz")
    )


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_voxels_that_are_no_numbers_are_refused(trained, image, tmp_path, fails, suffix):
    array = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    array[0, 0, 0] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"scan{suffix}"))
    message = fails(["infer", str(trained), str(tmp_path / f"scan{suffix}"), f"--output={tmp_path / 'out'}"])
    assert "NaN or infinite voxels: 1" in message


def test_a_network_whose_output_is_not_finite_is_refused(trained, image, tmp_path, fails):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    name = next(name for name in content["state_dict"] if "heads" in name and name.endswith("bias"))
    content["state_dict"][name][1] = torch.nan
    torch.save(content, tmp_path / "broken.ckpt")
    message = fails(["infer", str(tmp_path / "broken.ckpt"), str(image), f"--output={tmp_path / 'out'}"])
    assert "the network's output is not finite" in message
    assert not (tmp_path / "out" / "case_01.nii.gz").exists()


def test_images_unlike_the_training_are_remarked_upon(trained, image, tmp_path, capsys, fails):
    volume = sitk.ReadImage(str(image))
    volume.SetSpacing((1, 1, 8))
    sitk.WriteImage(volume, str(tmp_path / "thick.nii.gz"))
    infer(trained, [tmp_path / "thick.nii.gz"], tmp_path / "out")
    assert "warning: its voxels are 8 x 1 x 1 mm, those of the training 1 x 1 x 1 mm" in capsys.readouterr().err
    volume.SetSpacing((1000, 1000, 1000))
    sitk.WriteImage(volume, str(tmp_path / "metres.nii.gz"))
    message = fails(["infer", str(trained), str(tmp_path / "metres.nii.gz"), f"--output={tmp_path / 'out'}"])
    assert "its voxels of 1000 x 1000 x 1000 mm would become billions" in message
    assert "mend the spacing or the units" in message
    black = sitk.Image(16, 20, 12, sitk.sitkFloat32)
    sitk.WriteImage(black, str(tmp_path / "black.nii.gz"))
    infer(trained, [tmp_path / "black.nii.gz"], tmp_path / "out")
    assert ("warning: nothing was found" in capsys.readouterr().err) == (
        not labels(tmp_path / "out" / "black.nii.gz").any()
    )


def test_results_do_not_go_among_the_slices_of_a_series(trained, tmp_path, fails):
    series = write_dicom(tmp_path / "series", np.zeros((4, 16, 16), np.int16))
    message = fails(["infer", str(trained), str(series), f"--output={series}"])
    assert "name a folder of its own" in message


def test_pictures_and_hidden_files_do_not_hide_a_series(tmp_path):
    series = write_dicom(tmp_path / "series", np.zeros((4, 16, 16), np.int16))
    sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(series / "thumb.png"))
    (series / ".hidden.nii.gz").write_bytes(b"")
    assert [case.images for case in find_inputs([str(series)], ["CT"])] == [(series,)]


@pytest.mark.parametrize(
    ("names", "given", "channels", "expected"),
    [
        (["a_0000", "a_0001"], ".", 2, {"a": ["a_0000", "a_0001"]}),
        (["a_0000", "a_0001"], "a_0001", 2, {"a": ["a_0000", "a_0001"]}),
        (["a_0000", "a_0001"], "a_0000", 1, {"a": ["a_0000"]}),
        (["a_0001", "a_0002"], "a_0001", 1, {"a_0001": ["a_0001"]}),
        (["a_0001", "a_0002"], ".", 1, {"a_0001": ["a_0001"], "a_0002": ["a_0002"]}),
        (["a_0001", "a_0002"], ".", 2, {"a_0001": ["a_0001"], "a_0002": ["a_0002"]}),  # two 4D files
        (["a_0000"], ".", 2, {"a": ["a_0000", "a_0001"]}),  # the second is reported as missing
        (["a_0000", "a_0001", "a_0002"], ".", 2, {"a": ["a_0000", "a_0001", "a_0002"]}),  # one too many
    ],
)
def test_files_of_one_case_belong_together(tmp_path, names, given, channels, expected):
    for name in names:
        (tmp_path / f"{name}.nii.gz").write_bytes(b"")
    path = tmp_path if given == "." else tmp_path / f"{given}.nii.gz"
    cases = find_inputs([str(path)], ["x"] * channels)
    found = {case.subject: [image.name.removesuffix(".nii.gz") for image in case.images] for case in cases}
    assert found == expected


@pytest.mark.parametrize(
    ("subject", "message"),
    [("../evil", "use letters"), ("", "the subject is blank"), (".x", "use letters")],
)
def test_names_in_a_table_stay_in_the_folder(image, tmp_path, subject, message):
    (tmp_path / "table.csv").write_text(f"subject,MRI\n{subject},{image}\n", encoding="utf-8")
    with pytest.raises(PocketError, match=message):
        find_inputs([str(tmp_path / "table.csv")], ["MRI"])


def channels_of(trained, tmp_path, image, names):
    """Return a checkpoint of an untrained network for several channels, and a file per channel."""
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    network = content["hyper_parameters"]["network"]["init_args"]
    network["in_channels"] = len(names)
    content["hyper_parameters"]["dataset"]["channels"] = names
    normalization = content["hyper_parameters"]["dataset"]["preprocessing"]
    normalization["channels"] = names
    normalization["normalization"] *= len(names)
    first = next(name for name, value in content["state_dict"].items() if value.ndim == 5 and value.shape[1] == 1)
    content["state_dict"][first] = content["state_dict"][first].repeat(1, len(names), 1, 1, 1) / len(names)
    torch.save(content, tmp_path / "channels.ckpt")
    volume = sitk.ReadImage(str(image))
    for index in range(len(names)):
        sitk.WriteImage(volume, str(tmp_path / f"scan_{index:04d}.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([volume] * len(names)), str(tmp_path / "whole.nii.gz"))
    return tmp_path / "channels.ckpt"


def test_channels_as_files_as_4d_file_and_as_table(trained, image, tmp_path):
    checkpoint = channels_of(trained, tmp_path, image, ["t1", "t2"])
    (tmp_path / "table.csv").write_text("subject,t1,t2\nnamed,scan_0000.nii.gz,scan_0001.nii.gz\n")
    infer(checkpoint, [tmp_path / n for n in ("scan_0001.nii.gz", "whole.nii.gz", "table.csv")], tmp_path / "out")
    found = [labels(tmp_path / "out" / f"{name}.nii.gz") for name in ("scan", "whole", "named")]
    infer(trained, [image], tmp_path / "one")
    for label in found:  # equal channels with halved weights: the network of one channel
        assert (label == labels(tmp_path / "one" / "case_01.nii.gz")).mean() > 0.999


def test_wrong_channels_and_dimensions_are_named(trained, image, tmp_path, fails):
    checkpoint = channels_of(trained, tmp_path, image, ["t1", "t2", "flair"])
    (tmp_path / "scan_0002.nii.gz").unlink()
    command = ["infer", str(checkpoint), str(tmp_path / "scan_0000.nii.gz"), f"--output={tmp_path / 'out'}"]
    assert "scan_0002.nii.gz: no such file" in fails(command)
    for number in (2, 3):
        sitk.WriteImage(sitk.ReadImage(str(image)), str(tmp_path / f"scan_{number:04d}.nii.gz"))
    assert "is one of 4 files of its case, but the network needs 3 channels (t1, t2, flair)" in fails(command)
    one = ["infer", str(checkpoint), str(image), f"--output={tmp_path / 'out'}"]
    assert "with 1 channel, expected 3" in fails(one)
    flat = tmp_path / "flat.png"
    sitk.WriteImage(sitk.Image(16, 16, sitk.sitkUInt8), str(flat))
    assert "is a 2D" in fails(["infer", str(trained), str(flat), f"--output={tmp_path / 'out'}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.ckpt", "IMAGE", "--output=out"], "nowhere.ckpt: no such checkpoint"),
        (["IMAGE", "IMAGE", "--output=out"], "not a checkpoint"),
        (["RUN", "IMAGE"], "output: is missing"),
        (["RUN", "nowhere", "--output=out"], "nowhere: no such file or folder"),
        (["RUN", "EMPTY", "--output=out"], "holds no images"),
        (["RUN", "IMAGE", "--output=IMAGE/out"], "cannot be made"),
        (["RUN", "IMAGE", "--output=out", "--device=cuda:9"], "device: cuda:9 cannot be used on this machine"),
        (["RUN", "IMAGE", "--output=out", "--overlap=1.5"], "overlap: found 1.5"),
    ],
)
def test_errors_are_one_clear_line(trained, image, tmp_path, monkeypatch, fails, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = {"RUN": trained, "IMAGE": image, "EMPTY": tmp_path / "empty"}
    for name, place in places.items():
        arguments = [argument.replace(name, str(place)) for argument in arguments]
    found = fails(["infer", *arguments])
    assert message in found
    assert len(found.splitlines()) == 1


def test_a_checkpoint_of_another_kind_is_refused(trained, tmp_path):
    content = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    content["hyper_parameters"]["dataset"]["preprocessing"] = {}
    torch.save(content, tmp_path / "patches.ckpt")
    with pytest.raises(PocketError, match="no preprocessing is recorded"):
        Segmenter(tmp_path / "patches.ckpt", "cpu")
    del content["hyper_parameters"]["_class_path"]
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(PocketError, match="does not say how to rebuild"):
        Segmenter(tmp_path / "other.ckpt", "cpu")


def test_the_record_says_what_the_label_maps_are(trained, image, tmp_path):
    infer(trained, [image], tmp_path / "out", "--flips", "--largest_component")
    record = json.loads((tmp_path / "out" / "infer.json").read_text(encoding="utf-8"))
    assert record["window"]["flips"] is True
    assert record["largest_component"] is True
    assert record["classes"] == {"0": "background", "1": "shell", "2": "core"}
    components = ndimage.label(labels(tmp_path / "out" / "case_01.nii.gz") == 1, np.ones((3, 3, 3)))[1]
    assert components == 1


@pytest.mark.parametrize("shape", [(7, 9, 8), (13, 11)])
@pytest.mark.parametrize("seed", range(3))
def test_largest_components_by_flood_fill(shape, seed):
    label = np.random.default_rng(seed).choice(3, shape, p=[0.75, 0.15, 0.1]).astype(np.uint8)
    expected = np.zeros_like(label)
    for index in (1, 2):
        todo, best = set(map(tuple, np.argwhere(label == index))), []
        for start in sorted(todo):
            piece, front = [], [start] if start in todo else []
            todo.discard(start)
            while front:
                here = front.pop()
                piece.append(here)
                for step in itertools.product((-1, 0, 1), repeat=len(shape)):
                    there = tuple(int(a + b) for a, b in zip(here, step, strict=True))
                    if there in todo:
                        todo.discard(there)
                        front.append(there)
            best = max(best, piece, key=len)
        for voxel in best:
            expected[voxel] = index
    before = label.copy()
    np.testing.assert_array_equal(keep_largest(label), expected)
    np.testing.assert_array_equal(label, before)
