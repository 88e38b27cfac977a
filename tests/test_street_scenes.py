"""Cityscapes and CamVid from their files to mean IoU."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from mask_datasets import cases_of, found, save
from PIL import Image
from street_datasets import scene, write_cityscapes, write_coloured_camvid, write_segnet_camvid

from lightning_pocket.cli import main
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.coding import MaskCoding
from lightning_pocket.data.layouts.camvid import split_of
from lightning_pocket.metrics import overlap_scores

#: The 19 classes in the order of the train ids, with the id of each in the label files (cityscapesScripts).
TRAIN_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}


def prepare(data: Path, cache: Path, *options: str) -> ImageCache:
    main(["prepare", str(data), f"--output={cache}", "--workers=1", *options])
    return ImageCache.open(cache)


def test_cityscapes_has_nineteen_classes_and_the_rest_does_not_count(tmp_path: Path) -> None:
    root = write_cityscapes(tmp_path / "raw")
    layout = found(root, "cityscapes")
    assert layout.labels is not None
    coding = MaskCoding("values", layout.labels)
    assert coding.classes == list(TRAIN_IDS)
    assert coding.label_values == list(TRAIN_IDS.values())
    ids = np.arange(34)[None]
    label, undeclared = coding.decode(ids)
    expected = [list(TRAIN_IDS.values()).index(i) if i in TRAIN_IDS.values() else 255 for i in range(34)]
    assert label.tolist() == [expected]
    assert not len(undeclared)
    assert coding.decode(np.array([[34]]))[1].tolist() == [34]  # is no id
    again = MaskCoding.from_dict(dict(sorted(coding.to_dict().items())), coding.classes, "x")
    assert again.decode(ids)[0].tolist() == label.tolist()
    cases = cases_of(layout)
    assert len(cases) == 12  # those of test have no public labels
    assert cases["aachen_000001_000019"].split == "train"
    assert cases["lindau_000000_000019"].split == "test"
    assert {case.group for case in cases.values()} == {"aachen", "bochum", "lindau"}
    assert layout.unlisted() == []
    cache = prepare(root, tmp_path / "cache", "--config=cityscapes", "--size=[32,48]")
    assert cache.classes == list(TRAIN_IDS)
    assert cache.ignore_index == 255
    truth = cache.original(0).label()
    names = {cache.classes[index] for index in np.unique(truth) if index != 255}
    assert names == {"sky", "building", "road", "car"}
    assert (truth[0] == 255).all()
    assert (truth[-1] == 255).all()
    data = ImageDataModule(str(cache.path), batch_size=2)
    assert data.info["ignore_index"] == 255
    assert {name.split("_")[0] for name in data.split.test} == {"lindau"}
    parts = [{name.split("_")[0] for name in part} for part in (data.split.train, data.split.val)]
    assert sorted(map(sorted, parts)) == [["aachen"], ["bochum"]]  # a city never parts


def test_files_that_cityscapes_lacks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_cityscapes(tmp_path / "raw", images=2)
    label = root / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    label.unlink()
    (root / "leftImg8bit" / "val" / "lindau" / "lindau_000001_000019_leftImg8bit.png").unlink()
    with pytest.raises(SystemExit):
        main(["check", str(root), "--workers=1"])
    said = capsys.readouterr().out
    assert "1 of 10 image and mask files are missing: aachen_000000_000019_gtFine_labelIds.png" in said
    assert "lindau_000001_000019_gtFine_labelIds.png" in said


def test_camvid_of_segnet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_segnet_camvid(tmp_path / "raw")
    main(["check", str(root), "--workers=1"])
    said = capsys.readouterr().out
    assert "classes: sky (0), building (1), pole (2), road (3)" in said
    assert "train 6, val 2, test 3" in said
    cache = prepare(root, tmp_path / "cache", "--config=camvid", "--size=48")
    assert len(cache.classes) == 11
    for row, subject in enumerate(cache.subjects):
        _, label = scene(int(subject.removeprefix("0016E5_")), (0, 1, 3, 8))
        label[:2] = 255
        np.testing.assert_array_equal(cache.original(row).label(), label)
    save(np.full((48, 64), 12, np.uint8), root / "trainannot" / "0016E5_00000.png")  # is no class
    with pytest.raises(SystemExit):
        main(["check", str(root), "--workers=1"])
    assert "pixels of the mask are no class (12)" in capsys.readouterr().out


def test_camvid_in_colours(tmp_path: Path) -> None:
    colours = {
        (128, 128, 128): "sky",
        (128, 0, 0): "building",
        (64, 192, 0): "building",
        (192, 192, 128): "pole",
        (0, 0, 64): "pole",
        (128, 64, 128): "road",
        (128, 0, 192): "road",
        (0, 0, 192): "pavement",
        (128, 128, 0): "tree",
        (192, 128, 128): "sign",
        (0, 64, 64): "sign",
        (64, 64, 128): "fence",
        (64, 0, 128): "car",
        (192, 128, 192): "car",
        (64, 64, 0): "pedestrian",
        (192, 128, 64): "pedestrian",
        (0, 128, 192): "bicyclist",
        (192, 0, 192): "bicyclist",
        (0, 0, 0): "ignore",
    }
    names = ["0001TP_006690", "0001TP_008550", "0006R0_f00930", "0016E5_07959", "0016E5_08190", "Seq05VD_f00000"]
    names += ["x", "y"]
    root = write_coloured_camvid(tmp_path / "raw", names, list(colours))
    layout = found(root, "camvid")
    assert layout.labels is not None
    assert len(layout.labels) == 32
    splits = ["train", "test", "train", "val", "train", "test", None, None]
    assert [cases_of(layout)[name].split for name in names] == splits
    cache = prepare(root, tmp_path / "cache", "--size=32", "--num_folds=2")
    decoded = cache.original(0).label()[0]
    assert ["ignore" if index == 255 else cache.classes[index] for index in decoded] == list(colours.values())
    other = tmp_path / "other"
    for name in names:
        for source, target in (
            (root / "701_StillsRaw_full" / f"{name}.png", other / "train" / f"{name}.png"),
            (root / "LabeledApproved_full" / f"{name}_L.png", other / "train_labels" / f"{name}_L.png"),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    assert {case.split for case in found(other, "camvid").image_cases()} == {"train"}


@pytest.mark.data
def test_real_camvid_is_read_and_frames_have_the_split_of_their_names(real_data: Path) -> None:
    layout = found(real_data / "camvid_240x180", "camvid")
    cases = cases_of(layout)
    counts = {split: sum(case.split == split for case in cases.values()) for split in ("train", "val", "test")}
    assert counts == {"train": 367, "val": 101, "test": 233}
    assert all(len(case.masks) == 1 for case in cases.values())
    assert all(split_of(name) == case.split for name, case in cases.items())


@pytest.mark.e2e
def test_a_unet_learns_street_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_segnet_camvid(tmp_path / "raw", (12, 3, 4))
    cache = prepare(root, tmp_path / "cache", "--config=camvid", "--size=[48,64]")
    run = tmp_path / "run"
    network = "model.init_args.network.init_args"
    options = {
        "run_dir": run,
        "data.init_args.cache": cache.path,
        f"{network}.widths.base": 4,
        f"{network}.depth": 2,
        "model.init_args.optimizer.init_args.lr": 0.1,
        "trainer.max_epochs": 6,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
    }
    main(["fit", "--config=street_scenes", *(f"--{name}={value}" for name, value in options.items())])
    capsys.readouterr()
    main(["test", f"--run_dir={run}", "--config=prediction_files"])
    said = capsys.readouterr().out
    with (run / "test" / "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    # The same from the files that the test has written.
    pairs = np.zeros((11, 11), int)
    for row, subject in enumerate(cache.subjects):
        if cache.folds[subject].split == "test":
            truth = np.array(Image.open(root / "testannot" / f"{subject}.png"))
            predicted = np.array(Image.open(run / "test" / "predictions" / f"{subject}.png"))
            np.add.at(pairs, (truth[truth != 11], predicted[truth != 11]), 1)
            assert (cache.original(row).label() == 255).sum() == (truth == 11).sum()
    scores = overlap_scores(pairs)
    for name, iou, voxels in zip(cache.classes, scores.iou, scores.voxels, strict=True):
        assert float(rows[name]["iou"]) == pytest.approx(iou, nan_ok=True)
        assert int(rows[name]["voxels"]) == voxels
    assert np.nanmin(scores.iou[[0, 1, 3]]) > 0.6
    assert np.isnan(scores.iou[2])  # no pole is in these pictures
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        logged = list(csv.DictReader(file))
    assert float(logged[-1]["test/miou"]) == pytest.approx(scores.means()["miou"], abs=1e-5)
    assert float(logged[-1]["test/mean_recall"]) == pytest.approx(scores.means()["mean_recall"], abs=1e-5)
    best = max(float(row["val/miou"]) for row in logged if row.get("val/miou"))
    assert 0 < best <= 1
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert f"{100 * scores.means()['miou']:.2f}" in said
    confusion = (run / "test" / "confusion.csv").read_text(encoding="utf-8").splitlines()
    assert confusion[0] == "class," + ",".join(cache.classes)
    assert confusion[1] == "sky," + ",".join(map(str, pairs[0].tolist()))
    with (run / "test" / "cases.csv").open(encoding="utf-8", newline="") as file:
        columns = next(csv.reader(file))
    assert "dice_road" in columns
    assert not [name for name in columns if name.startswith("hd95")]  # surfaces are not measured
    main(["report", str(run)])
    main(["infer", str(run / "checkpoints" / "last.ckpt"), str(root / "test"), f"--output={tmp_path / 'out'}"])
    file = next((run / "test" / "predictions").iterdir())
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / file.name)), np.array(Image.open(file)))
