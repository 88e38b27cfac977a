"""Cross-validation with real trainings, and what is made of it: joined results, ensembles, chosen post-processing."""

import csv
import json
import os
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from in_process import in_this_process
from scipy import ndimage
from started import start_pocket

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.images import read_label
from lightning_pocket.data.original import CachedOriginal
from lightning_pocket.errors import PocketError
from lightning_pocket.inference import remove_islands
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.tested import is_tested, read_tested, record_test
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.segmenter import Segmenter
from lightning_pocket.tasks import load_task

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def two_folds(blobs, tmp_path_factory):
    cache = tmp_path_factory.mktemp("prepared") / "two_folds"
    prepare(str(blobs), output=str(cache), workers=1, num_folds=2)
    return cache


def command(cache, folder, *options):
    return [
        "crossval",
        f"--run_dir={folder}",
        "--config",
        "segment_volumes",
        "--config=pocket",
        "--config=no_augmentation",
        f"--data.init_args.cache={cache}",
        "--data.init_args.patch_size=[8,16,16]",
        "--data.init_args.patches_per_epoch=24",
        "--model.init_args.network.init_args.depth=2",
        "--model.init_args.network.init_args.widths.base=4",
        "--model.init_args.optimizer.init_args.lr=0.02",
        "--trainer.max_epochs=6",
        "--trainer.accelerator=cpu",
        *options,
    ]


@pytest.fixture(scope="module")
def killed(two_folds, tmp_path_factory):
    """A cross-validation of which a fold was done, and whose parent was killed while the other was trained."""
    folder = tmp_path_factory.mktemp("crossval") / "pocket"
    with in_this_process():
        main(command(two_folds, folder, "--only=0"))
    parent = start_pocket(command(two_folds, folder))
    deadline = time.monotonic() + 300
    last = folder / "fold_1" / "checkpoints" / "last.ckpt"
    try:
        while not last.is_file() and parent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child = json.loads((folder / "fold_1" / ".lock").read_text())["pid"]
    finally:
        parent.kill()
        parent.wait()
    return folder, child


@pytest.fixture(scope="module")
def crossvalidated(killed, two_folds):
    """The same, continued to its end."""
    folder, _ = killed
    with in_this_process():
        main(command(two_folds, folder))
    return folder


@pytest.fixture
def copied(crossvalidated, tmp_path):
    return Path(shutil.copytree(crossvalidated, tmp_path / "copy"))


def labels(path):
    return np.asarray(nibabel.load(path).dataobj)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_nothing_outlives_a_killed_parent(killed):
    folder, child = killed
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the training goes on without its parent")
    assert is_tested(folder / "fold_0", "last")
    assert not json.loads((folder / "fold_1" / "manifest.json").read_text())["finished"]


def test_the_killed_fold_continues_and_the_finished_one_is_kept(crossvalidated):
    log = (crossvalidated / "fold_1.log").read_text(encoding="utf-8")
    assert "continuing from" in log
    assert log.count("$ pocket fit") == 2
    assert (crossvalidated / "fold_0.log").read_text(encoding="utf-8").count("$ pocket") == 2
    assert not list(crossvalidated.rglob(".*lock"))


def test_every_case_has_a_fold_and_the_scores_of_its_label_map(crossvalidated, two_folds, blobs, tmp_path):
    table = rows(crossvalidated / "cases.csv")
    folds = {name: str(place.fold) for name, place in Cache.open(two_folds).folds.items()}
    assert {row["subject"]: row["fold"] for row in table} == folds
    assert len(table) == 10
    (tmp_path / "all").mkdir()
    for fold in "01":
        for file in (crossvalidated / f"fold_{fold}" / "test" / "predictions").iterdir():
            shutil.copy(file, tmp_path / "all")
    main(["evaluate", str(tmp_path / "all"), str(blobs), "--workers=1", f"--output={tmp_path / 'scores.csv'}"])
    scored = {row["subject"]: row for row in rows(tmp_path / "scores.csv")}
    for row in table:
        for column in ("dice_shell", "dice_core", "hd95_mm", "asd_mm", "surface_dice", "predicted_core"):
            assert float(row[column]) == pytest.approx(float(scored[row["subject"]][column]), rel=1e-9), column
    assert np.mean([float(row["dice_shell"]) for row in table]) > 0.5  # the label maps are not empty


def test_a_cross_validation_is_read_like_a_run(crossvalidated):
    result = read_run(crossvalidated)
    folds = [read_run(crossvalidated / f"fold_{fold}") for fold in range(2)]
    assert result.name == "pocket"
    assert result.parameters == folds[0].parameters
    assert result.step_ms == pytest.approx(np.median([fold.step_ms for fold in folds]))
    assert result.train_s == pytest.approx(sum(fold.train_s for fold in folds))
    assert sorted(result.subjects) == sorted(subject for fold in folds for subject in fold.subjects)
    expected = folds[0].by_case("dice") | folds[1].by_case("dice")
    assert result.by_case("dice") == expected
    epoch = result.curves["val/dice"][-1]
    assert epoch[1] == pytest.approx(np.mean([fold.curves["val/dice"][-1][1] for fold in folds]))


def test_an_ensemble_is_the_mean_of_the_logits(crossvalidated, blobs, two_folds, tmp_path):
    image = blobs / "imagesTr" / "case_03.nii.gz"
    out = tmp_path / "out"
    main(["infer", str(crossvalidated), str(image), f"--output={out}", "--device=cpu", "--probabilities"])
    prepared = torch.from_numpy(np.array(Cache.open(two_folds).case("case_03").image()))[None]
    tasks = [load_task(crossvalidated / f"fold_{fold}" / "checkpoints" / "last.ckpt") for fold in range(2)]
    with torch.inference_mode():
        logits = sum(task.logits(prepared) for task in tasks) / 2
    expected = logits[0].softmax(0).numpy()
    for index, name in enumerate(("background", "shell", "core")):
        found = read_label(out / "probabilities" / "case_03" / f"{name}.nii.gz").array
        np.testing.assert_allclose(found, expected[index], atol=1e-4)
    record = json.loads((out / "infer.json").read_text(encoding="utf-8"))
    assert [Path(path).parts[-3] for path in record["checkpoint"]] == ["fold_0", "fold_1"]
    assert len(set(record["checkpoint_sha256"])) == 2


def test_networks_that_do_not_belong_together_are_no_ensemble(copied):
    last = copied / "fold_1" / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    content["hyper_parameters"]["dataset"]["classes"] = ["background", "core", "shell"]
    torch.save(content, last)
    with pytest.raises(PocketError, match=r"fold_1.*has another classes than .*fold_0"):
        Segmenter([copied / f"fold_{fold}" / "checkpoints" / "last.ckpt" for fold in range(2)], "cpu")


def test_an_unfinished_cross_validation_is_no_ensemble(copied, blobs, tmp_path, fails):
    record = json.loads((copied / "crossval.json").read_text())
    del record["runs"]["1"]
    (copied / "crossval.json").write_text(json.dumps(record))
    message = fails(["infer", str(copied), str(blobs / "imagesTr"), f"--output={tmp_path / 'out'}"])
    assert "1 of 2 folds are not done (1). Continue with: pocket crossval" in message


def largest(mask):
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return mask if count < 2 else parts == 1 + np.argmax([(parts == i + 1).sum() for i in range(count)])


def dice_of(found, truth):
    total = found.sum() + truth.sum()
    return 2 * (found & truth).sum() / total if total else 1.0


def disturb(folder, blobs):
    """Replace the predictions: islands of shell outside, and cores in two parts of which the smaller is no error."""
    truths, found = {}, {}
    for row in rows(folder / "cases.csv"):
        subject = row["subject"]
        file = folder / f"fold_{row['fold']}" / "test" / "predictions" / f"{subject}.nii.gz"
        source = nibabel.load(blobs / "labelsTr" / f"{subject}.nii.gz")
        truth = np.asarray(source.dataobj).astype(np.uint8)
        label = truth.copy()
        core = np.argwhere(truth == 2)
        label[tuple(core[len(core) // 2])] = 1
        cut = core[:, 0] == int(np.median(core[:, 0]))
        label[tuple(core[cut].T)] = 1  # the core falls into two halves
        corner = tuple(slice(0, 2) if truth[:2, :2, :2].sum() == 0 else slice(-2, None) for _ in range(3))
        label[corner] = 1 if int(subject[-1]) % 2 else 0
        nibabel.save(nibabel.Nifti1Image(label, source.affine, source.header), file)
        truths[subject], found[subject] = truth, label
    return truths, found


def brute_force(truths, found):
    """Follow the rule with whole label maps, step by step."""

    def mean(maps, classes):
        return np.mean([np.mean([dice_of(maps[s] == c, truths[s] == c) for c in classes]) for s in truths])

    def clean(label, step):
        cleaned = label.copy()
        mask = label != 0 if step == "foreground" else label == {"shell": 1, "core": 2}[step]
        cleaned[mask & ~largest(mask)] = 0
        return cleaned

    chosen, current, table = [], found, {}
    for step, classes in (("foreground", (1, 2)), ("shell", (1,)), ("core", (2,))):
        tried = {subject: clean(label, step) for subject, label in current.items()}
        table[step] = mean(current, classes), mean(tried, classes)
        if mean(tried, (1, 2)) > mean(current, (1, 2)):
            chosen.append(step)
            current = tried
    return chosen, table


def test_post_processing_is_chosen_as_by_brute_force(copied, blobs, tmp_path, capsys):
    truths, found = disturb(copied, blobs)
    chosen, table = brute_force(truths, found)
    assert chosen == ["foreground"]  # the case says something: islands go, the halves of the cores stay
    files = [copied / f"fold_{fold}" / "checkpoints" / "last.ckpt" for fold in range(2)]
    before = [file.read_bytes() for file in files]
    main(["postprocess", str(copied), "--workers=1", "--dry_run"])
    assert "would be chosen: foreground" in capsys.readouterr().out
    assert [file.read_bytes() for file in files] == before
    assert not (copied / "postprocessing.json").exists()

    main(["postprocess", str(copied), "--workers=1"])
    record = json.loads((copied / "postprocessing.json").read_text())
    assert record["largest_component"] == chosen
    for step in record["steps"]:
        assert (step["before"], step["after"]) == pytest.approx(table[step["name"]], abs=1e-12)
    steps = {step["name"]: step for step in record["steps"]}
    assert steps["foreground"]["better"] == 5
    assert steps["core"]["worse"] == 10
    for file, old in zip(files, before, strict=True):
        content = torch.load(file, weights_only=True)
        assert content["hyper_parameters"]["largest_component"] == ["foreground"]
        (tmp_path / "old.ckpt").write_bytes(old)
        expected = torch.load(tmp_path / "old.ckpt", weights_only=True)
        assert all(torch.equal(v, content["state_dict"][k]) for k, v in expected["state_dict"].items())
        assert content["loops"] == expected["loops"]
        config = yaml.safe_load((file.parents[1] / "config.yaml").read_text())
        assert config["model"]["init_args"]["largest_component"] == ["foreground"]
    after = [file.stat().st_mtime_ns for file in files]
    main(["postprocess", str(copied), "--workers=1"])
    assert [file.stat().st_mtime_ns for file in files] == after
    assert json.loads((copied / "postprocessing.json").read_text()) == record


def test_what_was_chosen_is_applied_by_infer(copied, blobs, tmp_path):
    disturb(copied, blobs)
    images = [str(blobs / "imagesTr" / f"case_0{n}.nii.gz") for n in range(3)]
    main(["infer", str(copied), *images, f"--output={tmp_path / 'raw'}", "--device=cpu"])
    main(["postprocess", str(copied), "--workers=1"])
    main(["infer", str(copied), *images, f"--output={tmp_path / 'clean'}", "--device=cpu"])
    assert json.loads((tmp_path / "clean" / "infer.json").read_text())["largest_component"] == ["foreground"]
    for n in range(3):
        raw, clean = (labels(tmp_path / name / f"case_0{n}.nii.gz") for name in ("raw", "clean"))
        np.testing.assert_array_equal(clean, np.where(largest(raw != 0), raw, 0))


def test_processed_or_missing_label_maps_are_refused(copied, fails):
    run = copied / "fold_1"
    raw = read_tested(run)
    assert raw["label_maps"]
    record_test(run, raw | {"largest_component": ["shell"]})
    message = fails(["postprocess", str(copied)])
    assert "is post-processed already" in message
    assert "--model.init_args.largest_component=false" in message
    for change in ({"checkpoint": "best"}, {"label_maps": False}):
        record_test(run, raw | change)
        assert "no label maps of this fold from its last checkpoint" in fails(["postprocess", str(copied)])
    assert "no cross-validation here" in fails(["postprocess", str(run)])


def test_a_test_by_hand_is_not_taken_for_that_of_the_fold(copied, two_folds, capsys):
    """Neither other weights, nor what `postprocess` has stored; the command that `postprocess` prints is the same."""
    run, expected = copied / "fold_1", rows(copied / "cases.csv")
    assert read_tested(run)["checkpoint"] == "last"
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    config["model"]["init_args"]["largest_component"] = ["foreground"]
    (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    quiet = "--trainer.enable_progress_bar=false"
    main(["test", f"--run_dir={run}", "--ckpt_path=best", quiet])
    by_hand = read_tested(run)
    assert (by_hand["checkpoint"], by_hand["largest_component"]) == ("best", ["foreground"])
    assert (by_hand["changed"], by_hand["label_maps"], by_hand["epochs"]) == ("", False, 6)
    capsys.readouterr()
    with in_this_process():
        main(command(two_folds, copied))
    assert "fold 0: is trained and tested" in capsys.readouterr().out
    after = read_tested(run)
    assert (after["checkpoint"], after["largest_component"], after["label_maps"]) == ("last", False, True)
    assert rows(copied / "cases.csv") == expected
    main(["test", f"--run_dir={run}", "--model.init_args.largest_component=false", quiet])
    assert is_tested(run, "last", {})
    main(["test", f"--run_dir={run}", "--model.init_args.tolerance_mm=2", quiet])
    assert "model.init_args.tolerance_mm: 1.0 -> 2.0" in read_tested(run)["changed"]


def test_data_that_were_prepared_otherwise_are_refused(copied, two_folds, blobs, tmp_path, fails):
    """The same cache, made again in another way."""
    cache = Path(shutil.copytree(two_folds, tmp_path / "cache"))
    for fold in range(2):
        for file in ("config.yaml", "manifest.json"):
            path = copied / f"fold_{fold}" / file
            path.write_text(path.read_text(encoding="utf-8").replace(str(two_folds), str(cache)), encoding="utf-8")
    before = (copied / "cases.csv").read_bytes()
    with in_this_process():
        main(command(cache, copied))
        prepare(str(blobs), output=str(cache), workers=1, num_folds=2, normalization="nonzero_zscore", fresh=True)
        message = fails(command(cache, copied))
    assert "fold_0: the data changed since this run began" in message
    assert (copied / "cases.csv").read_bytes() == before


def test_wrong_options_fail_before_any_fold(two_folds, tmp_path, fails):
    with in_this_process():
        message = fails(command(two_folds, tmp_path / "out", "--trainer.max_epoch=3"))
    assert "unrecognized arguments: --trainer.max_epoch=3. Did you mean --trainer.max_epochs?" in message
    assert not (tmp_path / "out").exists()


def test_two_trainings_in_one_folder_are_refused(options, tmp_path, fails):
    run = RunFolder(tmp_path / "run")
    with run.locked():
        message = fails(["fit", *options])
        assert f"run: process {os.getpid()} on " in message
        assert "is training here. Wait until it has ended, or name another folder." in message
    assert not (tmp_path / "run").exists()  # nothing was trained, and no lock is left


def test_a_label_map_is_written_without_the_raw_image_too(tmp_path, two_folds, blobs):
    """Where the raw image is gone the recorded grid must do."""
    original = CachedOriginal(Cache.open(two_folds).case("case_02"))
    prepared = np.array(Cache.open(two_folds).case("case_02").label())
    original.write(prepared, tmp_path / "with.nii.gz")
    moved = tmp_path / "cache"
    shutil.copytree(two_folds, moved)
    record = moved / "cases" / "case_02" / "case.json"
    record.write_text(record.read_text().replace(str(blobs), "/gone"))
    CachedOriginal(Cache.open(moved).case("case_02")).write(prepared, tmp_path / "without.nii.gz")
    truth = labels(blobs / "labelsTr" / "case_02.nii.gz")
    for name in ("with", "without"):
        written = nibabel.load(tmp_path / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(written.dataobj), truth)
        np.testing.assert_allclose(written.affine, nibabel.load(blobs / "labelsTr" / "case_02.nii.gz").affine)


def test_islands_are_removed_by_name():
    label = np.zeros((3, 12), np.uint8)
    label[1, [0, 1, 5, 6, 7]] = [1, 2, 1, 2, 2]  # two objects; the right one is larger
    label[1, 10] = 2
    classes = ["background", "a", "b"]
    expected = {
        "none": [0, 1, 5, 6, 7, 10],
        "foreground": [5, 6, 7],
        "b": [0, 5, 6, 7],
        "a": [0, 1, 6, 7, 10],  # of two equally large ones the first
    }
    for name, columns in expected.items():
        found = remove_islands(label, [] if name == "none" else [name], classes)
        assert np.flatnonzero(found[1]).tolist() == columns, name
    assert np.flatnonzero(remove_islands(label, True, classes)[1]).tolist() == [0, 6, 7]
    assert np.flatnonzero(remove_islands(label, ["a", "foreground"], classes)[1]).tolist() == [5, 6, 7]
    with pytest.raises(PocketError, match="there is no class 'c'; give true, false, or some of a, b, foreground"):
        remove_islands(label, ["c"], classes)
