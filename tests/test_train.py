"""Training and testing through the command line."""

import csv
import json
import shutil

import pytest
import SimpleITK as sitk
import torch
import yaml
from conftest import quick_options, write_blobs

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data.cache import Cache
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import dice_per_class
from lightning_pocket.tasks import SegmentationTask, load_task

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def finished(blobs_cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    main(["fit", *quick_options(blobs_cache, run)])
    return run


@pytest.fixture
def run(finished, tmp_path):
    """A finished run with the settings of ``options``, which the test may change."""
    run = shutil.copytree(finished, tmp_path / "run")
    for name in ("config.yaml", "manifest.json"):
        text = (run / name).read_text(encoding="utf-8")
        (run / name).write_text(text.replace(str(finished), str(run)), encoding="utf-8")
    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_fit_leaves_what_the_run_needs_to_be_repeated_and_test_scores_it(run, capsys):
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    assert config["model"]["init_args"]["network"]["init_args"]["widths"] == {
        "base": 4,
        "doublings": 0,
        "ceiling": None,
    }
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["finished"] is True
    assert manifest["seed"] == 0
    assert manifest["versions"]["torch"] == torch.__version__
    assert len(manifest["data"]["hash"]) == 64
    assert manifest["steps"] == 2 * (
        len(manifest["data"]["split"]["train"]) // 2 + len(manifest["data"]["split"]["train"]) % 2
    )
    metrics = rows(run / "metrics.csv")
    assert [row["epoch"] for row in metrics] == ["0", "1"]
    assert all(0 < float(row["train/loss"]) < 1 for row in metrics)
    assert float(metrics[-1]["profile/step_ms"]) > 0
    assert (run / "checkpoints" / "best.ckpt").is_file()

    capsys.readouterr()
    main(["test", f"--run_dir={run}"])
    printed = capsys.readouterr().out
    cases = rows(run / "test" / "cases.csv")
    assert [case["subject"] for case in cases] == sorted(manifest["data"]["split"]["test"])
    assert f"mean of {len(cases)}" in printed

    # The table agrees with the network applied by hand.
    task = load_task(run / "checkpoints" / "last.ckpt")
    cache = Cache.open(manifest["data"]["cache"])
    for case in cases:
        cached = cache.case(case["subject"])
        image = torch.from_numpy(cached.image().copy())[None]
        with torch.inference_mode():
            predicted = task.logits(image).argmax(1)
        dice = dice_per_class(predicted, torch.from_numpy(cached.label().copy())[None], 3).scores[0]
        assert float(case["dice_shell"]) == pytest.approx(dice[1].item(), abs=1e-6)
        assert float(case["dice_core"]) == pytest.approx(dice[2].item(), abs=1e-6)
        assert int(case["voxels_core"]) == int((cached.label() == 2).sum())


def test_a_checkpoint_describes_itself(run):
    task = load_task(run / "checkpoints" / "last.ckpt")
    assert isinstance(task, SegmentationTask)
    assert not task.training
    assert task.info.classes == ["background", "shell", "core"]
    assert task.info.patch_size == [8, 16, 16]
    assert task.info.preprocessing["normalization"]
    saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(saved[name], value) for name, value in task.state_dict().items())


def test_options_win_over_the_checkpoint(run, options, fails):
    message = fails(
        [
            "fit",
            *options,
            "--run_dir=" + str(run) + "2",
            f"--ckpt_path={run}/checkpoints/last.ckpt",
            "--model.init_args.network.init_args.widths.base=6",
        ]
    )
    assert "does not fit this network" in message


def test_a_finished_run_is_left_alone_and_fresh_starts_over(run, options, capsys):
    last = run / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns
    main(["fit", *options])
    assert "already finished" in capsys.readouterr().out
    assert last.stat().st_mtime_ns == before
    main(["fit", *options, "--fresh"])
    assert last.stat().st_mtime_ns > before


def test_fresh_deletes_only_what_a_run_writes(run, options):
    (run / "notes.md").write_text("mine", encoding="utf-8")
    (run / "test").mkdir()
    (run / "test" / "cases.csv").write_text("old", encoding="utf-8")
    main(["fit", *options, "--fresh"])
    assert (run / "notes.md").read_text(encoding="utf-8") == "mine"
    assert not (run / "test").exists()


def test_cases_that_were_trained_on_are_not_tested(run, fails):
    message = fails(["test", f"--run_dir={run}", "--data.init_args.split.fold=1"])
    assert "of the cases to test were used for training or validation" in message
    assert not (run / "test").exists()


def test_a_checkpoint_of_another_network_is_refused(run, options, fails, tmp_path):
    other = tmp_path / "other"
    main(["fit", *options, f"--run_dir={other}", "--model.init_args.network.init_args.widths.base=6"])
    message = fails(["test", f"--run_dir={run}", f"--ckpt_path={other}/checkpoints/last.ckpt"])
    assert "does not fit this network" in message


def test_fresh_deletes_nothing_while_something_is_wrong(run, options, fails):
    assert "no such cache" in fails(["fit", *options, "--fresh", "--data.init_args.cache=nowhere"])
    assert (run / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.usefixtures("run")
def test_other_settings_are_refused_with_the_difference(options, fails):
    message = fails(["fit", *options, "--model.init_args.optimizer.init_args.lr=0.01"])
    assert "model.init_args.optimizer.init_args.lr: 0.001 -> 0.01" in message
    assert "--fresh" in message


def test_a_run_is_tested_from_any_folder(options, blobs_cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(blobs_cache.parent)
    main(["fit", *options, f"--data.init_args.cache={blobs_cache.name}"])
    monkeypatch.chdir(tmp_path)
    main(["test", f"--run_dir={tmp_path / 'run'}"])
    assert "mean of" in capsys.readouterr().out


def test_best_is_tested_on_request(run, capsys):
    main(["test", f"--run_dir={run}", "--ckpt_path=best"])
    assert "mean of" in capsys.readouterr().out


def test_validate_repeats_the_last_epoch(run, capsys):
    before = (run / "metrics.csv").read_bytes()
    main(["validate", f"--run_dir={run}", "--model.init_args.inference.overlap=0"])
    assert (run / "metrics.csv").read_bytes() == before  # the curves are the training's
    capsys.readouterr()
    main(["validate", f"--run_dir={run}"])
    expected = rows(run / "metrics.csv")[-1]["val/dice"]
    assert expected[:8] in capsys.readouterr().out


@pytest.mark.parametrize(
    "extra",
    [
        ["--config=full"],
        ["--config=hrnet"],
        ["--config=deep_supervision", "--config=dice_ce", "--model.init_args.network.init_args.deep_supervision=1"],
        ["--config=queue", "--data.init_args.queue.num_workers=0"],
        ["--config=validate_patches", "--config=strong_augmentation"],
        ["--data.init_args.num_workers=2", "--trainer.precision=bf16-mixed", "--data.init_args.patch_size=[16,16,16]"],
    ],
    ids=["full", "hrnet", "deep_supervision", "queue", "augmented", "workers"],
)
def test_variants_train(options, tmp_path, extra):
    main(["fit", *options, *extra, "--trainer.max_epochs=1"])
    assert float(rows(tmp_path / "run" / "metrics.csv")[-1]["train/loss"]) > 0


def test_a_schedule_waits_for_validations_that_are_rarer_than_epochs(options, tmp_path):
    main(["fit", *options, "--trainer.check_val_every_n_epoch=2", "--data.init_args.patches_per_epoch=2"])
    assert [bool(row.get("val/dice")) for row in rows(tmp_path / "run" / "metrics.csv")] == [False, True]


def test_load_task_refuses_what_is_not_a_checkpoint(tmp_path):
    with pytest.raises(PocketError, match="no such checkpoint"):
        load_task(tmp_path / "no.ckpt")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(PocketError, match="not a checkpoint"):
        load_task(tmp_path / "text.ckpt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(PocketError, match="not a checkpoint of lightning_pocket"):
        load_task(tmp_path / "other.ckpt")


def test_scores_are_those_of_the_original_images(options, tmp_path):
    """Prepared at another spacing, `test` agrees with `infer` and `evaluate` on the raw files."""
    raw = write_blobs(tmp_path / "raw", cases=6)
    for path in [*raw.glob("imagesTr/*"), *raw.glob("labelsTr/*")]:
        image = sitk.ReadImage(path)
        image.SetSpacing((1.0, 0.8, 2.0))
        sitk.WriteImage(image, path)
    cache, run = tmp_path / "cache", tmp_path / "run"
    prepare(str(raw), output=str(cache), workers=1, spacing=[1.5, 1.0, 1.0])
    quick = ["--data.init_args.patches_per_epoch=24", "--model.init_args.optimizer.init_args.lr=0.02"]
    main(["fit", *options, f"--data.init_args.cache={cache}", *quick])
    main(["test", f"--run_dir={run}"])
    tested = {row["subject"]: row for row in rows(run / "test" / "cases.csv")}
    images = [str(raw / "imagesTr" / f"{subject}.nii.gz") for subject in tested]
    main(["infer", str(run), *images, f"--output={tmp_path / 'out'}", "--device=cpu"])
    truth = tmp_path / "truth"
    truth.mkdir()
    for subject in tested:
        (truth / f"{subject}.nii.gz").symlink_to(raw / "labelsTr" / f"{subject}.nii.gz")
    names = "--classes=background,shell,core"
    main(["evaluate", str(tmp_path / "out"), str(truth), names, f"--output={tmp_path / 'scores.csv'}"])
    evaluated = rows(tmp_path / "scores.csv")
    assert [row["subject"] for row in evaluated] == list(tested)
    for row in evaluated:
        for name in ("dice_shell", "hd95_mm_core", "asd_mm", "surface_dice", "voxels_core", "predicted_shell"):
            assert float(row[name]) == pytest.approx(float(tested[row["subject"]][name]), abs=1e-6), name
    assert any(0 < float(row["dice_shell"]) < 1 for row in evaluated)


def test_groups_of_another_size_are_told_once(options, capsys):
    main(["fit", *options, "--config=grouped_8", "--model.init_args.network.init_args.widths.base=12"])
    told = [line for line in capsys.readouterr().out.splitlines() if "group_size" in line]
    assert len(told) == 1
    assert told[0].startswith("group_size 8 does not divide the input channels of")
    assert told[0].endswith("groups of 6 in those with 12 channels.")
