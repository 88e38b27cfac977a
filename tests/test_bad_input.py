"""Mistakes in configs: one clear message, a status that is not 0, nothing half-written."""

import pytest

from lightning_pocket.cli import main


@pytest.fixture(autouse=True)
def nothing_written(tmp_path):
    yield
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--trainer.max_epochs=3.5x", "trainer.max_epochs: Expected a <class 'int'>; found 3.5x"),
        ("--model.init_args.lr_interval=sometimes", "model.lr_interval: expected epoch or step."),
        ("--trainer.max_epoks=3", "Did you mean --trainer.max_epochs?"),
        ("--model.init_args.netwrk=x", "SegmentationTask has no option 'netwrk'. Did you mean network?"),
        ("--model.init_args.network.init_args.dept=3", "UNet has no option 'dept'. Did you mean depth?"),
        ("--model.init_args.monitor=val/dise", "no metric is called 'val/dise'. SegmentationTask logs train/loss"),
        ("--model.init_args.optimizer.init_args.lr=-1", "optimizer or lr_scheduler: Invalid learning rate"),
        ("--model.init_args.lr_scheduler.init_args.factor=2", "lr_scheduler: Factor should be < 1.0"),
        ("--config=pockt", "Did you mean pocket"),
        ("--data.init_args.cache=nowhere", "nowhere: no such cache"),
        ("--data.init_args.split.fold=9", "there is no fold 9"),
        ("--data.init_args.split.val_fraction=0", "watches 'val/dice', but there are no validation cases"),
        ("--data.init_args.num_workers=-1", "num_workers: expected 0 or more, got -1"),
        ("--data.init_args.batch_size=0", "batch_size: expected at least 1, got 0"),
        ("--trainer.accumulate_grad_batches=-2", "trainer.accumulate_grad_batches: found -2; give at least 1 batch"),
        ("--trainer.devices=0", "trainer: "),
        ("--model.init_args.loss.init_args.class_weights=[1,2]", "found 2 weights for 3 classes"),
        ("--data.init_args.patch_size=8", "data.patch_size: expected a list such as [8]; found 8"),
        ("--data.init_args.patch_size=[8,16]", "expected three positive numbers of voxels"),
        ("--data.init_args.patch_size=[9,16,16]", "The next that fits is [12, 16, 16]"),
        ("--data.init_args.sampler.init_args.probability=2", "from 0 to 1, got 2"),
        ("--model.init_args.inference.overlap=1", "overlap"),
        ("--ckpt_path=nowhere.ckpt", "nowhere.ckpt: no such checkpoint"),
    ],
    ids=lambda value: value.partition("=")[0] if value.startswith("--") else "",
)
def test_a_mistake_is_named(options, fails, option, expected):
    assert expected in fails(["fit", *options, option])


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--color=RGB", "color: expected grey or rgb; found RGB"),
        ("--crop=box", "crop: expected none or nonzero. Got value: box"),
        (
            "--normalization=z",
            "normalization: expected auto, zscore, nonzero_zscore, foreground_zscore, window, unit or",
        ),
    ],
)
def test_choices_are_listed_as_one_writes_them(fails, tmp_path, option, expected):
    assert expected in fails(["prepare", str(tmp_path), f"--output={tmp_path / 'cache'}", option])


def test_an_unknown_key_in_a_file_is_named(options, fails, tmp_path):
    (tmp_path / "x.yaml").write_text("trainer: {max_epoch: 3}\n")
    assert "trainer.max_epoch" in fails(["fit", *options, f"--config={tmp_path / 'x.yaml'}"])


def test_broken_yaml_is_named(options, fails, tmp_path):
    (tmp_path / "x.yaml").write_text("trainer: {max_epochs: 3\n")
    assert "x.yaml" in fails(["fit", *options, f"--config={tmp_path / 'x.yaml'}"])


def test_a_monitor_of_a_callback_is_checked(options, fails, tmp_path):
    (tmp_path / "x.yaml").write_text(
        "trainer:\n  callbacks+:\n  - {class_path: EarlyStopping, init_args: {monitor: val/nothing}}\n"
    )
    message = fails(["fit", *options, f"--config={tmp_path / 'x.yaml'}"])
    assert "EarlyStopping: no metric is called 'val/nothing'" in message


def test_a_folder_without_a_run_cannot_be_tested(fails, tmp_path):
    assert "no run here" in fails(["test", f"--run_dir={tmp_path / 'empty'}"])


def test_a_file_that_is_no_checkpoint_cannot_be_tested(options, fails, tmp_path):
    bad = tmp_path / "bad.ckpt"
    bad.write_bytes(b"\x00" * 100)
    assert "bad.ckpt: not a checkpoint" in fails(["fit", *options, f"--ckpt_path={bad}"])


def test_fresh_does_not_delete_a_folder_that_is_no_run(options, fails, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    for extra in ([], ["--fresh"]):
        message = fails(["fit", *options, f"--run_dir={precious}", *extra])
        assert "does not look like a run, it holds thesis.txt" in message
    assert (precious / "thesis.txt").read_text(encoding="utf-8") == "years of work"


def test_a_large_patch_is_padded_and_said_once(options, tmp_path, caplog):
    main(["fit", *options, "--data.init_args.patch_size=[16,16,16]", f"--run_dir={tmp_path / 'padded'}"])
    said = [record.message for record in caplog.records if "padded with zeros" in record.message]
    assert len(said) == 1
    assert "16x16x16" in said[0]
