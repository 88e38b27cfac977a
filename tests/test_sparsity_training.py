"""Structured sparsity inside a training: steps, phases, checkpoints, processes, mistakes."""

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from interruption import kill_after
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import FSDPStrategy
from started import Started
from torch import nn
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import BestCheckpoint, LastCheckpoint, StructuredSparsity, WeightAverage
from lightning_pocket.callbacks.sparsity_checks import check_surroundings, plain_copy, without_decay
from lightning_pocket.cli import main
from lightning_pocket.compact.reduce import reduce_network
from lightning_pocket.errors import PocketError
from lightning_pocket.regularizers import KernelNumber, KernelSize, KernelwiseAdam, Phases
from lightning_pocket.regularizers.layer import LayerPenalty
from lightning_pocket.speed import Levers, Runner


class Small(nn.Module):
    """Three units, of which the middle ones are penalized, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels, self.divisor = 1, (4, 4)
        self.first = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x):
        return self.head(self.third(self.second(self.first(x))))

    def outputs(self, x):
        return [self(x)]


class Shortcut(Small):
    """The penalized units may go."""

    def forward(self, x):
        x = self.first(x)
        return self.head(x + self.third(self.second(x)))


class Task(LightningModule):
    def __init__(self, optimizer=None, network=Small) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.network = network()
        self.runner = Runner(self.network, Levers())
        self.make_optimizer = optimizer or (lambda p: torch.optim.SGD(p, 0.05, momentum=0.9))
        self.score = "val/dice"

    def training_loss(self, batch):
        return (self.runner.outputs(batch)[0] - batch.roll(1, 2)).square().mean()

    def training_step(self, batch):
        return self.training_loss(batch)

    def validation_step(self, *_):
        self.log("val/dice", 1.0 / (1 + self.current_epoch))

    def configure_optimizers(self):
        return self.make_optimizer(self.network.parameters())


class Watch(Callback):
    """Counts the proxes of a layer and remembers the zeros and the weights after every batch."""

    def __init__(self, sparsity):
        self.sparsity, self.alive, self.strengths, self.weights = sparsity, [], [], []

    def on_train_batch_start(self, *_):
        self.strengths.append(self.sparsity.strength)

    def on_train_batch_end(self, *arguments):
        weight = arguments[1].network.second[0].weight.detach()
        self.alive.append(int((weight.flatten(1) != 0).any(1).sum()))
        self.weights.append(weight.clone())


def images():
    torch.manual_seed(5)
    return torch.randn(24, 1, 8, 8)


def train(tmp_path, sparsity, task=None, callbacks=(), epochs=2, **options):
    task, watch = task or Task(), Watch(sparsity)
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_epochs=epochs,
        callbacks=[*callbacks, sparsity, watch],
        logger=False,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        **options,
    )
    trainer.fit(task, DataLoader(images(), batch_size=4), DataLoader(images()[:4]))
    return task, watch, trainer


ALWAYS = Phases(warmup=0, finetune=0)
QUARTERS = Phases(warmup=0.25, finetune=0.25)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_the_penalty_takes_part_in_every_optimizer_step(tmp_path, monkeypatch, accumulate, precision, solver):
    calls = []
    prox = LayerPenalty.prox
    monkeypatch.setattr(LayerPenalty, "prox", lambda self, *a: (calls.append(self.name), prox(self, *a)))
    sparsity = StructuredSparsity(KernelNumber(), alpha=0.05, solver=solver, phases=ALWAYS)
    _, _, trainer = train(
        tmp_path, sparsity, accumulate_grad_batches=accumulate, precision=precision, gradient_clip_val=1.0
    )
    assert trainer.global_step == 12 / accumulate
    assert sparsity.steps == sparsity.solved == trainer.global_step
    expected = trainer.global_step if solver == "proximal" else 0
    assert calls.count("second.0") == calls.count("third.0") == expected


def test_the_subgradient_is_that_of_the_penalty(tmp_path):
    """One step of plain descent with it is one of the loss with the penalty added, clipped together."""
    sparsity = StructuredSparsity(
        KernelSize(), alpha=0.05, solver="subgradient", tau=0.0, norm_aware="joint", phases=ALWAYS
    )
    descent = lambda p: torch.optim.SGD(p, 0.1)  # noqa: E731
    task, _, _ = train(tmp_path, sparsity, Task(descent), epochs=1, limit_train_batches=1, gradient_clip_val=0.05)
    other = Task(descent)
    batch = images()[:4]
    loss = other.training_loss(batch)
    for layer, norm in ((other.network.second[0], other.network.second[1]), (other.network.third[0], None)):
        outer = layer.weight.flatten(2)[:, :, [0, 1, 2, 3, 5, 6, 7, 8]].flatten(1)
        root = layer.weight.flatten(1).square().sum(1)
        if norm is not None:
            root = root + norm.weight.square() + norm.bias.square()
        loss = loss + 0.05 * (outer.norm(dim=1).sum() + root.sqrt().sum())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(other.network.parameters(), 0.05)
    torch.optim.SGD(other.network.parameters(), 0.1).step()
    for found, expected in zip(task.network.parameters(), other.network.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


OPTIMIZERS = {
    "momentum": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, 0.02),
    "kernelwise": lambda p: KernelwiseAdam(p, 0.02),
    "fused": lambda p: torch.optim.AdamW(p, 0.02, fused=True),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_phases_follow_each_other_and_frozen_zeros_stay(tmp_path, optimizer):
    regularizer = KernelSize() if optimizer == "kernelwise" else KernelNumber()
    sparsity = StructuredSparsity(regularizer, alpha=0.3, phases=QUARTERS)
    task, watch, _ = train(tmp_path, sparsity, Task(OPTIMIZERS[optimizer], Shortcut), epochs=4)
    assert [strength > 0 for strength in watch.strengths] == [False] * 6 + [True] * 12 + [False] * 6
    assert watch.alive[:6] == [8] * 6  # warm-up
    frozen = watch.alive[17]
    assert 0 <= frozen < 8
    assert watch.alive[17:] == [frozen] * 7
    moved = watch.weights[-1] != watch.weights[17]
    assert torch.equal(moved.any(), (watch.weights[17] != 0).any())  # the rest is trained on
    assert not (moved & (watch.weights[17] == 0)).any()
    dead = (watch.weights[-1].flatten(1) == 0).all(1)
    norm = task.network.second[1]
    for values in (norm.weight, norm.bias):
        assert (values[dead] == 0).all()


def test_the_threshold_is_applied_when_sparsifying_ends(tmp_path):
    sparsity = StructuredSparsity(KernelNumber(), alpha=0.3, solver="subgradient", tau=10.0, phases=QUARTERS)
    _, watch, _ = train(tmp_path, sparsity, Task(network=Shortcut), epochs=4)
    assert watch.alive[:17] == [8] * 17
    assert watch.alive[17:] == [0] * 7  # a threshold of 10 is above every norm


class Overflowing(Task):
    """Some losses are too large for half precision."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch) * (float("inf") if batch_idx in (1, 5) else 1)


def test_zeros_are_frozen_though_steps_are_left_out(tmp_path):
    phases = Phases(warmup=0, finetune=0)
    settings = {"solver": "subgradient", "tau": 10.0, "batches": 1}
    sparsity = StructuredSparsity(KernelNumber(), alpha=1e-3, phases=phases, **settings)
    scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    _, watch, trainer = train(tmp_path, sparsity, Overflowing(network=Shortcut), plugins=[scaled])
    assert sparsity.solved == 12 - 4
    assert sparsity.steps == trainer.global_step == 12
    assert watch.alive == [8] * 11 + [0], "the threshold is taken, though the last step was left out"


def test_alpha_max_is_measured_at_the_first_weights(tmp_path):
    """The mean gradient of the first batches, the networks' weights and random numbers left alone meanwhile."""
    sparsity = StructuredSparsity(KernelNumber(), alpha_relative=0.1, norm_aware="none", phases=ALWAYS, batches=3)
    _, watch, _ = train(tmp_path, sparsity, epochs=1)
    task = Task()
    loss = sum(task.training_loss(images()[4 * i : 4 * i + 4]) for i in range(3)) / 3
    weights = [task.network.second[0].weight, task.network.third[0].weight]
    norms = [gradient.flatten(1).norm(dim=1) for gradient in torch.autograd.grad(loss, weights)]
    assert sparsity.alpha_max == pytest.approx(float(torch.cat(norms).max()), rel=1e-4)
    assert watch.strengths[:2] == [0.0, 0.0]  # not known yet
    assert watch.strengths[3] == pytest.approx(0.1 * sparsity.alpha_max)
    _, plain, _ = train(tmp_path, StructuredSparsity(KernelNumber(), alpha=0.0, phases=ALWAYS), epochs=1)
    assert torch.equal(plain.weights[1], watch.weights[1])


def test_the_table_and_the_degenerate_penalty_are_told(tmp_path, capsys, caplog):
    train(tmp_path, StructuredSparsity(KernelNumber(), alpha=0.1, norm_aware="none"), epochs=1)
    told = [record.message for record in caplog.records if record.message.startswith("sparsity:")]
    assert len(told) == 1
    assert "the norm behind second.0 undoes the size of kernels" in told[0]
    lines = capsys.readouterr().out.splitlines()
    assert "first.0   6x1 of 3x3  no     stem: reads the image" in lines
    assert "second.0  8x6 of 3x3  yes    second.1, ignored" in lines
    assert "third.0   6x8 of 3x3  yes    none found" in lines
    assert "head      2x6 of 1x1  no     head: makes an output" in lines
    assert any(re.match(r"sparsity: alpha_max \S+ \((second|third).0; the least", line) for line in lines)
    assert "sparsity: warm-up to step 1, sparsify to step 4, freeze, fine-tune to step 6" in lines


def test_weight_decay_leaves_the_kernels_alone_unless_it_is_decoupled():
    decayed, free = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    made = without_decay(lambda p: torch.optim.Adam(p, weight_decay=0.1), [decayed, free], {free})
    assert [(group["params"], group["weight_decay"]) for group in made.param_groups] == [
        ([decayed], 0.1),
        ([free], 0.0),
    ]
    for kind in (lambda p: torch.optim.AdamW(p, weight_decay=0.1), lambda p: torch.optim.Adam(p)):
        assert len(without_decay(kind, [decayed, free], {free}).param_groups) == 1


def test_the_best_checkpoint_is_a_sparse_one(tmp_path):
    """The score falls with the epochs, so the first one would be the best of all."""
    best = BestCheckpoint()
    sparsity = StructuredSparsity(KernelNumber(), alpha=0.3, phases=QUARTERS)
    train(tmp_path, sparsity, Task(network=Shortcut), callbacks=[best, LastCheckpoint()], epochs=4)
    assert best.epoch == 3  # the first that ends frozen, counted from 1
    for name in ("best", "last"):
        weights = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        zero = (weights["network.second.0.weight"].flatten(1) == 0).all(1)
        assert zero.any()
        assert (weights["network.second.1.weight"][zero] == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "alpha or alpha_relative: neither is given, expected one of them"),
        ({"alpha": 0.1, "alpha_relative": 0.1}, "alpha or alpha_relative: found 0.1 and 0.1"),
        ({"alpha": -0.1}, r"StructuredSparsity.alpha: found -0.1, expected 0 or more"),
        ({"alpha_relative": float("nan")}, r"StructuredSparsity.alpha_relative: found nan"),
        ({"alpha": 0.1, "tau": -1.0, "solver": "subgradient"}, r"StructuredSparsity.tau: found -1.0"),
        ({"alpha": 0.1, "tau": 0.1}, "tau: found 0.1, but the proximal solver has exact zeros"),
        ({"alpha": 0.1, "solver": "magic"}, "solver: found 'magic', expected proximal or subgradient"),
        ({"alpha": 0.1, "batches": 0}, "batches: found 0, expected at least 1"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(PocketError, match=message):
        StructuredSparsity(KernelNumber(), **settings)


def test_phases_out_of_range_are_named():
    with pytest.raises(PocketError, match=r"phases.warmup: found -1"):
        Phases(warmup=-1)
    with pytest.raises(PocketError, match="leave no time to become sparse"):
        Phases(warmup=0.5, finetune=0.5)
    with pytest.raises(PocketError, match="the run has no end"):
        Phases().plan(float("inf"), 10)
    with pytest.raises(PocketError, match="leave no step of 40"):
        Phases(warmup=2, finetune=3, unit="epochs").plan(40, 10)
    with pytest.raises(PocketError, match=r"phases.unit: is epochs, but an epoch of this data has no known number"):
        Phases(warmup=2, finetune=3, unit="epochs").plan(40, float("inf"))
    plan = Phases(warmup=1, finetune=2, unit="epochs").plan(50, 10)
    assert (plan.begin, plan.end) == (10, 30)
    assert [plan.phase(step) for step in (9, 10, 29, 30)] == ["warmup", "sparsify", "sparsify", "finetune"]


def test_what_cannot_be_sparsified_is_refused(tmp_path):
    own = StructuredSparsity(KernelNumber(), alpha=0.1)
    with pytest.raises(
        PocketError, match=r"trainer.strategy: FSDPStrategy keeps parts of a kernel on different devices"
    ):
        check_surroundings(own, SimpleNamespace(strategy=FSDPStrategy(), callbacks=[own]))
    with pytest.raises(PocketError, match="StructuredSparsity is there twice"):
        train(tmp_path, own, callbacks=[StructuredSparsity(KernelSize(), alpha=0.1)])
    with pytest.raises(PocketError, match="Leave --config ema out"):
        train(tmp_path, own, callbacks=[WeightAverage()])
    with pytest.raises(PocketError, match=r"StochasticWeightAveraging have no sparse kernels\. Leave it out"):
        train(tmp_path, own, callbacks=[StochasticWeightAveraging(0.1)])
    with pytest.raises(PocketError, match="Adam steps each weight of a kernel"):
        train(tmp_path, StructuredSparsity(KernelSize(), alpha=0.1), Task(OPTIMIZERS["adam"]))


def test_a_plain_network_without_a_layer_ends_the_training(tmp_path):
    sparsity = StructuredSparsity(KernelNumber(), alpha=30.0, phases=QUARTERS)
    said = (
        r"no kernel is left of second\.0, third\.0, so that nothing of the image.*less than alpha 30, \d.* of alpha_max"
    )
    with pytest.raises(PocketError, match=said):
        train(tmp_path, sparsity)


def test_a_layer_beside_a_shortcut_may_go(tmp_path):
    task = Task(network=Shortcut)
    _, watch, trainer = train(tmp_path, StructuredSparsity(KernelNumber(), alpha=30.0, phases=QUARTERS), task)
    assert watch.alive[-1] == 0
    assert trainer.global_step == 12
    assert task.network.training


def test_a_reduced_network_is_not_made_sparse_again():
    with pytest.raises(PocketError, match="the CompactNetwork is what `pocket shrink` has left of a network"):
        plain_copy(reduce_network(Small().eval(), (1, 8, 8)).network)


class Ranked(Task):
    def train_dataloader(self):
        torch.manual_seed(100 + self.global_rank)  # each process has images of its own
        return DataLoader(torch.randn(12, 1, 8, 8), batch_size=4)


def train_in_two_processes():
    phases = Phases(warmup=0, finetune=0.25)
    sparsity = StructuredSparsity(KernelNumber(), alpha_relative=0.3, batches=1, phases=phases)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    two = {"accelerator": "cpu", "strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
    trainer = Trainer(max_epochs=4, callbacks=[sparsity], enable_checkpointing=False, **quiet, **two)
    task = Ranked(OPTIMIZERS["adam"])
    trainer.fit(task)
    found = (sparsity.alpha_max, sparsity._zeros, task.network.state_dict())
    torch.save(found, f"{sys.argv[1]}/{trainer.global_rank}.pt")


@pytest.mark.e2e
def test_two_processes_have_the_same_zeros(tmp_path):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = Started(f"{Path(__file__).stem}:train_in_two_processes", [tmp_path], env=environment)
    _, errors = process.communicate()
    assert process.returncode == 0, errors[-2000:]
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one[0] == other[0]
    assert all(torch.equal(one[1][name], other[1][name]) for name in one[1])
    assert any(bool(zeros.any()) for zeros in one[1].values())
    parameters = [name for name in one[2] if "running" not in name and "tracked" not in name]
    assert all(torch.equal(one[2][name], other[2][name]) for name in parameters)


def zero_kernels(checkpoint):
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    return sum(
        int((value.flatten(1) == 0).all(1).sum())
        for name, value in weights.items()
        if value.ndim == 5 and "upsample" not in name
    )


@pytest.mark.e2e
@pytest.mark.parametrize("preset", ["sparsity_kernel_number", "sparsity_kernel_size"])
def test_a_killed_run_becomes_sparse_bit_for_bit(options, tmp_path, preset):
    more = [f"--config={preset}", "--trainer.max_epochs=4", "--data.init_args.patches_per_epoch=12"]
    arguments = ["fit", *options, *more, "--trainer.callbacks.alpha_relative=0.3"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_after([*arguments, f"--run_dir={killed}"])
    main([*arguments, f"--run_dir={killed}"])
    main([*arguments, f"--run_dir={whole}"])
    one, other = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, killed))
    assert all(torch.equal(one["state_dict"][key], other["state_dict"][key]) for key in one["state_dict"])
    assert zero_kernels(whole / "checkpoints" / "last.ckpt") > 0
    assert zero_kernels(whole / "checkpoints" / "best.ckpt") > 0
    assert "sparsity/alive" in (whole / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.e2e
def test_mistakes_on_the_command_line_are_one_line(options, fails):
    fit = ["fit", *options, "--config=sparsity_kernel_size"]
    found = fails([*fit, "--trainer.callbacks.alpha_relative=-1"])
    assert "StructuredSparsity.alpha_relative: found -1.0, expected 0 or more" in found
    found = fails([*fit, "--trainer.callbacks.alpha_relative=nan"])
    assert "trainer.callbacks.alpha_relative: Expected a <class 'float'>; found nan" in found
    found = fails([*fit, "--trainer.callbacks.alfa_relative=1"])
    assert "StructuredSparsity has no option 'alfa_relative'. Did you mean alpha_relative?" in found
    assert fails([*fit, "--trainer.callbacks.phases.warmup=x"]).endswith(
        "phases.warmup: Expected a <class 'float'>. Got value: x"
    )
    assert "Adam steps each weight" in fails([*fit, "--model.init_args.optimizer=torch.optim.Adam"])
    assert "exclude: 'decodr.*' fits no convolution" in fails([*fit, "--trainer.callbacks.exclude=[decodr.*]"])


if __name__ == "__main__":
    train_in_two_processes()
