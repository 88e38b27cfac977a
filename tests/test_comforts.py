"""Early stopping, clipping, accumulation, precision and class weights, each from the command line."""

import csv
import json
import math

import pytest
import torch
from interruption import kill_after
from torch.optim.optimizer import register_optimizer_step_post_hook

from lightning_pocket.cli import main
from lightning_pocket.commands.train import PocketCLI, train
from lightning_pocket.data.cache import Cache
from lightning_pocket.losses import L2Dice
from lightning_pocket.tasks import load_task

pytestmark = pytest.mark.e2e

SGD = ["--model.init_args.optimizer.class_path=torch.optim.SGD", "--model.init_args.lr_scheduler=null"]


def rate(lr):
    return f"--model.init_args.optimizer.init_args.lr={lr}"


def weights(run):
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value.double() for name, value in state.items() if name.endswith(("weight", "bias"))}


def distance(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


def rows(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_presets_add_to_the_default_callbacks_and_to_each_other(options, monkeypatch):
    built = {}
    monkeypatch.setattr(PocketCLI, "_run_subcommand", lambda self, _name: built.update(trainer=self.trainer))
    train(["fit", *options])
    plain = [type(callback).__name__ for callback in built["trainer"].callbacks]
    presets = ("early_stopping", "ema", "clip_gradients", "accumulate", "bfloat16")
    train(["fit", *options, *[f"--config={preset}" for preset in presets]])
    trainer = built["trainer"]
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert sorted(names) == sorted([*plain, "EarlyStop", "WeightAverage"])
    assert {"BestCheckpoint", "LastCheckpoint", "RunManifest"} <= set(names)
    assert (trainer.gradient_clip_val, trainer.gradient_clip_algorithm) == (12, "norm")
    assert trainer.accumulate_grad_batches == 4
    assert trainer.precision == "bf16-mixed"


# Early stopping.


def stalled(options, run):
    """Options of a run in which nothing counts as progress after the first epoch, and three more are waited for."""
    callback = json.dumps([{"class_path": "EarlyStop", "init_args": {"patience": 3, "min_delta": 2.0}}])
    return ["fit", *options, f"--run_dir={run}", "--trainer.max_epochs=20", f"--trainer.callbacks+={callback}"]


def finished(run):
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return manifest["finished"], manifest["epochs"]


def test_a_run_that_stalls_ends_early_says_so_and_is_finished(options, tmp_path, capsys):
    arguments = stalled(options, tmp_path / "run")
    main(arguments)
    said = [line for line in capsys.readouterr().out.splitlines() if "stopped early" in line]
    assert said == [
        "stopped early after 4 epochs: Monitored metric val/dice did not improve in the last 3 records. "
        f"Best score: {float(rows(tmp_path / 'run')[0]['val/dice']):.3f}."
    ]
    assert finished(tmp_path / "run") == (True, 4)
    main(arguments)
    assert "already finished" in capsys.readouterr().out


@pytest.mark.parametrize("saves", [2, 4])
def test_a_killed_run_keeps_its_patience(options, tmp_path, capsys, saves):
    """Killed after two epochs, and after it had decided to stop but before it was marked as finished."""
    run = tmp_path / "run"
    arguments = stalled(options, run)
    kill_after(arguments, saves)
    assert not finished(run)[0]
    capsys.readouterr()
    main(arguments)
    assert "stopped early after 4 epochs" in capsys.readouterr().out
    assert finished(run) == (True, 4)
    assert [row["epoch"] for row in rows(run)] == ["0", "1", "2", "3"]


def test_progress_resets_the_patience(options, tmp_path, capsys):
    main(["fit", *options, "--config=early_stopping", rate(0.005), "--trainer.max_epochs=3"])
    assert "stopped early" not in capsys.readouterr().out
    assert finished(tmp_path / "run") == (True, 3)


def test_early_stopping_without_validation_is_refused(options, fails):
    message = fails(["fit", *options, "--config=early_stopping", "--data.init_args.split.val_fraction=0"])
    assert "watches 'val/dice', but there are no validation cases" in message


# Gradients.


def test_accumulated_batches_are_one_large_batch(options, tmp_path):
    # Gradients of instance norm on the noise of dead channels are large: a small rate keeps float32 exact enough.
    common = ["fit", *options, *SGD, rate(0.05), "--config=instance_norm", "--data.init_args.patches_per_epoch=8"]
    runs = {
        "large": ["--data.init_args.batch_size=4"],
        "accumulated": ["--config=accumulate", "--data.init_args.batch_size=1"],
        "small": ["--data.init_args.batch_size=1"],
    }
    for name, extra in runs.items():
        main([*common, *extra, f"--run_dir={tmp_path / name}"])
    large, accumulated, small = (weights(tmp_path / name) for name in runs)
    assert distance(large, accumulated) < 1e-5
    assert distance(large, small) > 1e-3


def test_no_gradient_exceeds_the_limit(options, tmp_path):
    norms: list[float] = []

    def record(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(math.sqrt(sum(gradient.double().square().sum().item() for gradient in gradients)))

    hook = register_optimizer_step_post_hook(record)
    try:
        main(["fit", *options])
        free = list(norms)
        norms.clear()
        clipped = ["--config=clip_gradients", "--trainer.gradient_clip_val=0.05", f"--run_dir={tmp_path / 'clipped'}"]
        main(["fit", *options, *clipped])
    finally:
        hook.remove()
    assert max(free) > 0.05
    assert len(norms) == len(free)
    assert max(norms) <= 0.05 * (1 + 1e-6)
    assert max(norms) > 0.0499


# Precision.


@pytest.mark.parametrize("preset", ["bfloat16", "mixed_precision"])  # the latter falls back to the former on a CPU
def test_mixed_precision_computes_in_half_and_keeps_whole_weights(options, tmp_path, monkeypatch, preset):
    forward, kinds = L2Dice.forward, set()

    def record(self, logits_BKS, label_BS):
        kinds.add(logits_BKS.dtype)
        loss = forward(self, logits_BKS, label_BS)
        assert loss.dtype == torch.float32
        return loss

    monkeypatch.setattr(L2Dice, "forward", record)
    patch = "--data.init_args.patch_size=[12,16,16]"  # 2 planes at the coarsest level would be refused
    main(["fit", *options, patch, f"--config={preset}"])
    assert torch.bfloat16 in kinds
    saved = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}
    assert all(math.isfinite(float(row["train/loss"])) for row in rows(tmp_path / "run"))


# Class weights.

CLASS_WEIGHTS = "--model.init_args.loss.init_args.class_weights"


def test_class_weights_are_the_weighted_mean_of_the_classes(options, tmp_path):
    def first_loss(*given):
        run = tmp_path / "_".join(map(str, given))
        main(["fit", *options, "--trainer.max_steps=1", f"--run_dir={run}", f"{CLASS_WEIGHTS}={list(given)}"])
        return float(rows(run)[0]["train/loss"])

    single = [first_loss(*unit) for unit in ([1, 0, 0], [0, 1, 0], [0, 0, 1])]
    weighted = first_loss(1, 2, 5)
    assert max(single) - min(single) > 0.1
    assert weighted == pytest.approx((single[0] + 2 * single[1] + 5 * single[2]) / 8, abs=1e-6)


def test_a_heavy_class_is_found_earlier(options, tmp_path, blobs_cache):
    """Recall of the core, the smallest class, after a short training."""

    def recall(name, *extra):
        run = tmp_path / name
        main(["fit", *options, "--config=dice_ce", rate(0.005), f"--run_dir={run}", "--trainer.max_epochs=3", *extra])
        task = load_task(run / "checkpoints" / "last.ckpt")
        found = present = 0
        for case in map(Cache.open(blobs_cache).case, ("case_00", "case_05")):
            with torch.inference_mode():
                core = task.logits(torch.from_numpy(case.image().copy())[None])[0].argmax(0).numpy() == 2
            found += int((core & (case.label() == 2)).sum())
            present += int((case.label() == 2).sum())
        return found / present

    assert recall("heavy", f"{CLASS_WEIGHTS}=[1,1,20]") > recall("equal") + 0.05


def test_as_many_weights_as_classes(options, fails):
    assert "found 2 weights for 3 classes" in fails(["fit", *options, f"{CLASS_WEIGHTS}=[1,2]"])
