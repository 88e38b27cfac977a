"""Phantoms: equal bytes from equal settings, sensible anatomy, and no way to segment them by intensity alone."""

import json
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from lightning_pocket.commands.synthesize import synthesize
from lightning_pocket.data.phantoms import CLASSES, best_intensity_dice, make_phantom, write_phantoms
from lightning_pocket.errors import PocketError

SMALL = (20, 24, 28)


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(0, index) for index in range(6)]


def standardised(image):
    return (image - image.mean()) / image.std()


def test_size_type_and_spacing(phantoms):
    for image, label, spacing in phantoms:
        assert image.shape == label.shape
        assert all(0.89 * n <= found <= 1.11 * n for n, found in zip((40, 60, 60), image.shape, strict=True))
        assert (image.dtype, label.dtype) == (np.int16, np.uint8)
        assert set(np.unique(label)) == set(range(len(CLASSES)))
        assert 2.0 <= spacing[0] <= 2.5
        assert all(1.2 <= s <= 1.3 for s in spacing[1:])
    assert len({phantom.image.shape for phantom in phantoms}) > 1


def test_anatomy(phantoms):
    for image, label, _ in phantoms:
        _, height, width = label.shape
        assert [ndimage.label(label == k)[1] for k in (2, 3)] == [2, 1]  # two kidneys, one aorta
        assert 0.5 < np.mean(image > 0.2 * np.percentile(image, 99)) < 0.85  # a body in air
        centre = {k: ndimage.center_of_mass(label == k) for k in (1, 2, 3)}
        assert centre[1][2] < width / 2  # the liver on the right, at low W
        assert abs(centre[2][2] / width - 0.5) < 0.1  # one kidney on each side
        assert centre[3][1] > height / 2  # the aorta behind the middle, high H
        volumes = np.bincount(label.ravel()) / label.size
        assert volumes[1] > volumes[2] > volumes[3] > 0.005


def test_equal_arguments_give_equal_voxels_and_others_do_not(phantoms):
    again = make_phantom(0, 1)
    assert np.array_equal(again.image, phantoms[1].image)
    assert np.array_equal(again.label, phantoms[1].label)
    other = make_phantom(1, 1)
    assert other.image.shape != again.image.shape or not np.array_equal(other.image, again.image)


@pytest.mark.parametrize("prepare", [np.asarray, standardised])
def test_intensity_alone_cannot_segment(phantoms, prepare):
    images, labels = [prepare(p.image) for p in phantoms], [p.label for p in phantoms]
    assert best_intensity_dice(images, labels) < 0.5
    # The bound itself can tell: with the answer added to the image, it is reached.
    assert best_intensity_dice([p.image + 5000 * p.label.astype(float) for p in phantoms], labels) == 1


def test_best_intensity_dice_is_the_best_of_all_sets_of_bins():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, (6, 6, 6))
    image = label + rng.integers(0, 4, label.shape)  # 0 to 5: one bin each
    every_set = [set(s) for s in chain.from_iterable(combinations(range(6), n) for n in range(1, 7))]

    def dice(chosen, k):
        predicted = np.isin(image, list(chosen))
        return 2 * np.sum(predicted & (label == k)) / (predicted.sum() + (label == k).sum())

    expected = np.mean([max(dice(chosen, k) for chosen in every_set) for k in (1, 2)])
    assert best_intensity_dice([image[:3], image[3:]], [label[:3], label[3:]], 3, bins=6) == pytest.approx(expected)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_written_folder_is_a_decathlon_data_set(tmp_path):
    assert write_phantoms(tmp_path, cases=2, seed=3, size=SMALL)
    declaration = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))
    assert declaration["modality"] == {"0": "MRI"}
    assert declaration["labels"] == {"0": "background", "1": "liver", "2": "kidneys", "3": "aorta"}
    assert declaration["numTraining"] == len(declaration["training"]) == 2
    for index, pair in enumerate(declaration["training"]):
        phantom = make_phantom(3, index, SMALL)
        image, label = (sitk.ReadImage(str(tmp_path / pair[key])) for key in ("image", "label"))
        assert np.array_equal(sitk.GetArrayFromImage(image), phantom.image)
        assert np.array_equal(sitk.GetArrayFromImage(label), phantom.label)
        assert image.GetPixelID() == sitk.sitkInt16
        assert label.GetPixelID() == sitk.sitkUInt8
        assert image.GetSpacing() == pytest.approx(phantom.spacing[::-1])
        assert image.GetDirection() == label.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
    assert len(contents(tmp_path)) == 5


def test_writing_again_changes_nothing_and_repairs_what_is_missing(tmp_path):
    write_phantoms(tmp_path, cases=2, size=SMALL)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert not write_phantoms(tmp_path, cases=2, size=SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    (tmp_path / "labelsTr" / "phantom_001.nii.gz").unlink()
    assert write_phantoms(tmp_path, cases=2, size=SMALL)
    assert contents(tmp_path) == before


def test_command_says_what_it_did(tmp_path, capsys):
    for expected in ("wrote 1 phantoms", "1 phantoms are there already"):
        synthesize(tmp_path / "new" / "folder", cases=1, size=SMALL)
        assert expected in capsys.readouterr().out


def test_other_data_sets_are_not_overwritten(tmp_path):
    write_phantoms(tmp_path, cases=1, size=SMALL)
    before = contents(tmp_path)
    with pytest.raises(PocketError, match=r"dataset.json: found phantoms of \{'cases': 1, .*'seed': 5"):
        write_phantoms(tmp_path, cases=1, seed=5, size=SMALL)
    assert contents(tmp_path) == before
    (tmp_path / "dataset.json").write_text('{"name": "Hippocampus"}')
    with pytest.raises(PocketError, match="found another data set"):
        write_phantoms(tmp_path, cases=1, size=SMALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cases": 0}, "cases: found 0"),
        ({"size": (40, 60)}, r"size: found \[40, 60\]"),
        ({"size": (8, 60, 60)}, "at least 16"),
    ],
)
def test_bad_input_is_named(tmp_path, settings, message):
    with pytest.raises(PocketError, match=message):
        write_phantoms(tmp_path, **settings)
    assert not any(tmp_path.iterdir())
