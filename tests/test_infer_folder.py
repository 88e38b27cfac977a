"""`pocket infer`: results that are there already, in parts, or made by somebody else."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk
from inferring import infer, labels

from lightning_pocket.cli import main
from lightning_pocket.results_folder import ResultsFolder


def test_finished_images_are_not_done_again(trained, blobs, tmp_path, capsys):
    images = [blobs / "imagesTr" / f"case_0{n}.nii.gz" for n in range(3)]
    infer(trained, images[:2], tmp_path / "out")
    kept = tmp_path / "out" / "case_00.nii.gz"
    lost = tmp_path / "out" / "case_01.nii.gz"
    before = kept.stat().st_mtime_ns
    expected = labels(lost)
    lost.unlink()
    capsys.readouterr()
    infer(trained, images, tmp_path / "out")
    assert capsys.readouterr().out.count("already segmented") == 1
    assert kept.stat().st_mtime_ns == before
    np.testing.assert_array_equal(labels(lost), expected)
    infer(trained, images, tmp_path / "out", "--fresh")
    assert kept.stat().st_mtime_ns > before


def test_what_is_left_out_is_said_in_plain_words(trained, image, tmp_path, capsys):
    for name in ("a.nii.gz", "sub/b.nii.gz", "sub/c.nii.gz"):
        (tmp_path / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "new" / name)
    main(["infer", str(trained), str(tmp_path / "new"), f"--output={tmp_path / 'out'}", "--device=cpu"])
    said = capsys.readouterr().err
    assert f"warning: {tmp_path / 'new'}: 2 images in subfolders are left out (sub/b.nii.gz); give the folders" in said
    assert "inputs.py" not in said


def test_a_changed_image_is_done_again(trained, image, tmp_path):
    scan = tmp_path / "scan.nii.gz"
    volume = sitk.ReadImage(str(image))
    sitk.WriteImage(volume, str(scan))
    infer(trained, [scan], tmp_path / "out")
    first = labels(tmp_path / "out" / "scan.nii.gz")
    sitk.WriteImage(sitk.Flip(volume, (True, False, False), False), str(scan))
    infer(trained, [scan], tmp_path / "out")
    assert (labels(tmp_path / "out" / "scan.nii.gz") != first).any()


def test_other_settings_do_not_mix(trained, image, tmp_path, fails):
    infer(trained, [image], tmp_path / "out")
    command = ["infer", str(trained), str(image), f"--output={tmp_path / 'out'}"]
    assert "results with another window" in fails([*command, "--overlap=0.25"])
    assert "results with another checkpoint;" in fails(
        [*command[:1], str(trained / "checkpoints" / "best.ckpt"), *command[2:]]
    )
    infer(trained, [image], tmp_path / "out", "--overlap=0.25", "--fresh")


def test_foreign_files_and_inputs_are_not_overwritten(trained, image, tmp_path, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "case_01.nii.gz").write_text("mine")
    assert "already exists" in fails(["infer", str(trained), str(image), f"--output={tmp_path / 'out'}"])
    assert (tmp_path / "out" / "case_01.nii.gz").read_text() == "mine"
    assert "holds the image" in fails(["infer", str(trained), str(image), f"--output={image.parent}"])
    assert not (image.parent / "infer.json").exists()


def test_an_unreadable_image_does_not_stop_the_others(trained, blobs, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for n in range(3):
        (folder / f"case_0{n}.nii.gz").write_bytes((blobs / "imagesTr" / f"case_0{n}.nii.gz").read_bytes())
    (folder / "case_01.nii.gz").write_bytes(b"not an image")
    with pytest.raises(SystemExit) as caught:
        infer(trained, [folder], tmp_path / "out")
    assert caught.value.code == 1
    errors = capsys.readouterr().err
    assert "2/3 case_01: error:" in errors
    assert "case_01.nii.gz: truncated or damaged" in errors
    assert "1 of 3 images could not be segmented" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "case_00.nii.gz",
        "case_02.nii.gz",
        "infer.json",
        "records",
    ]


def test_fresh_results_of_other_settings_replace_all(trained, blobs, tmp_path):
    images = [blobs / "imagesTr" / f"case_0{n}.nii.gz" for n in range(2)]
    infer(trained, images, tmp_path / "out", "--probabilities")
    infer(trained, images[:1], tmp_path / "out", "--overlap=0", "--fresh")
    left = sorted(path.name for path in (tmp_path / "out").rglob("*.nii.gz"))
    assert left == ["case_00.nii.gz"]
    infer(trained, images, tmp_path / "out", "--overlap=0")


def test_a_kill_before_the_record_is_complete_blocks_nothing(trained, image, tmp_path, monkeypatch, capsys):
    finish = ResultsFolder.finish
    monkeypatch.setattr(ResultsFolder, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(SystemExit) as caught:
        infer(trained, [image], tmp_path / "out")
    assert caught.value.code == 130
    assert (tmp_path / "out" / "case_01.nii.gz").is_file()
    monkeypatch.setattr(ResultsFolder, "finish", finish)
    capsys.readouterr()
    infer(trained, [image], tmp_path / "out")
    assert "already segmented" not in capsys.readouterr().out
    infer(trained, [image], tmp_path / "out")
    assert "already segmented" in capsys.readouterr().out


def test_lost_probabilities_are_made_again(trained, image, tmp_path):
    infer(trained, [image], tmp_path / "out", "--probabilities")
    lost = tmp_path / "out" / "probabilities" / "case_01" / "core.nii.gz"
    lost.unlink()
    infer(trained, [image], tmp_path / "out", "--probabilities")
    assert lost.is_file()


def test_several_commands_can_fill_one_folder(tmp_path):
    scan = tmp_path / "scan.nii"
    scan.write_bytes(b"")
    one, two = (ResultsFolder(tmp_path / "out", {"checkpoint_sha256": "1"}) for _ in range(2))
    for folder, name in ((one, "a"), (two, "b")):
        folder.begin(name, [scan], [folder.path / f"{name}.nii"])
        (folder.path / f"{name}.nii").write_bytes(b"")
        folder.finish(name)
    after = ResultsFolder(tmp_path / "out", {"checkpoint_sha256": "1"})
    assert after.is_done("a", [scan])
    assert after.is_done("b", [scan])


def test_what_killed_commands_left_is_removed(tmp_path):
    out = tmp_path / "out"
    (out / "probabilities" / "a").mkdir(parents=True)
    dead = subprocess.Popen(["true"])
    dead.wait()
    alive = out / f".b.nii.gz.{os.getppid()}.partial.nii.gz"
    left = [
        out / f".a.nii.gz.{dead.pid}.partial.nii.gz",
        out / "probabilities" / "a" / f".c.nii.{dead.pid}.partial.nii",
    ]
    for file in [alive, *left]:
        file.write_bytes(b"half")
    ResultsFolder(out, {}).claim([])
    assert not any(file.exists() for file in left)
    assert alive.exists()
