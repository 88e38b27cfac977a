"""The exponential moving average of the weights."""

import csv

import pytest
import torch
from interruption import kill_after
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_pocket.callbacks import BestCheckpoint, LastCheckpoint, WeightAverage
from lightning_pocket.cli import main
from lightning_pocket.data.cache import Cache
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import dice_per_class
from lightning_pocket.tasks import load_task


class Small(LightningModule):
    """A linear layer and batch norm, trained on noise; remembers the weights that were validated."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = torch.nn.Linear(4, 4)
        self.norm = torch.nn.BatchNorm1d(4)
        self.validated: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch):
        return self.norm(self.layer(batch)).pow(3).mean() + self.layer.weight.square().sum()

    def validation_step(self, *_):
        self.validated.append(copy(self))
        self.log("val/dice", float(len(self.validated)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Recorder(Callback):
    """Remembers the trained weights after every batch, with the number of optimizer steps."""

    def __init__(self) -> None:
        self.weights: list[tuple[int, dict[str, torch.Tensor]]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.weights.append((trainer.global_step, copy(pl_module)))


def copy(module):
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def train(folder, average, epochs=3, accumulate=1):
    module, recorder = Small(), Recorder()
    first = copy(module)
    generator = torch.Generator().manual_seed(0)
    data = DataLoader(torch.randn(8, 4, generator=generator), batch_size=2)
    trainer = Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[LastCheckpoint(), recorder, average, BestCheckpoint("val/dice")],
        accumulate_grad_batches=accumulate,
        logger=False,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, data)
    previous = [(0, {}), *recorder.weights[:-1]]
    pairs = zip(recorder.weights, previous, strict=True)
    steps = [weights for (step, weights), (before, _) in pairs if step > before]
    return module, first, steps


def by_hand(first, steps, decay, warmup):
    """The average in double precision, a float at a time."""
    average = {name: value.double() for name, value in first.items()}
    for updates, weights in enumerate(steps):
        kept = min(decay, (1 + updates) / (10 + updates)) if warmup else decay
        average = {name: kept * average[name] + (1 - kept) * weights[name].double() for name in average}
    return average


def close(found, expected):
    return all(torch.allclose(found[name].double(), expected[name].double(), atol=1e-6) for name in expected)


def load(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_the_closed_form(tmp_path, warmup, accumulate):
    callback = WeightAverage(decay=0.6, warmup=warmup)
    module, first, steps = train(tmp_path, callback, accumulate=accumulate)
    assert callback.updates == len(steps) == 12 / accumulate
    expected = by_hand(first, steps, 0.6, warmup)
    assert close(load(tmp_path)["state_dict"], expected)
    assert not close(load(tmp_path)["state_dict"], steps[-1])
    assert close(copy(module), expected)  # after training, the module has the average


def test_validation_and_both_checkpoints_have_the_average_and_training_goes_on_without_it(tmp_path):
    module, first, steps = train(tmp_path / "ema", WeightAverage(decay=0.9))
    for epoch, validated in enumerate(module.validated[::4]):
        assert close(validated, by_hand(first, steps[: 4 * epoch + 4], 0.9, True))
    last, best = load(tmp_path / "ema"), load(tmp_path / "ema", "best")
    assert all(torch.equal(best["state_dict"][name], last["state_dict"][name]) for name in last["state_dict"])
    assert all(torch.equal(last["callbacks"]["WeightAverage"]["trained"][name], steps[-1][name]) for name in first)
    _, _, plain = train(tmp_path / "plain", Callback())
    assert all(torch.equal(plain[-1][name], steps[-1][name]) for name in first)


def test_running_statistics_are_those_of_the_trained_network(tmp_path):
    train(tmp_path / "ema", WeightAverage(decay=0.9))
    train(tmp_path / "plain", Callback())
    averaged, plain = (load(tmp_path / run)["state_dict"] for run in ("ema", "plain"))
    assert torch.equal(averaged["norm.running_mean"], plain["norm.running_mean"])
    assert not torch.equal(averaged["norm.weight"], plain["norm.weight"])


def test_no_decay_is_no_average(tmp_path):
    _, _, steps = train(tmp_path, WeightAverage(decay=0.0))
    assert close(load(tmp_path)["state_dict"], {name: value.double() for name, value in steps[-1].items()})


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(PocketError, match=f"WeightAverage.decay: found {decay}"):
        WeightAverage(decay=decay)


EMA = ["--config=ema", "--config=accumulate", "--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=2"]


@pytest.mark.e2e
def test_a_killed_run_continues_with_weights_and_average_bit_for_bit(options, tmp_path):
    arguments = ["fit", *options, *EMA, "--data.init_args.patches_per_epoch=12", "--config=strong_augmentation"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    kill_after([*arguments, f"--run_dir={killed}"])
    assert load(killed)["callbacks"]["WeightAverage"]["updates"] == 3
    main([*arguments, f"--run_dir={killed}"])
    main([*arguments, f"--run_dir={whole}"])
    for name in ("last", "best"):
        expected, found = load(whole, name)["state_dict"], load(killed, name)["state_dict"]
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    expected, found = (load(run)["callbacks"]["WeightAverage"] for run in (whole, killed))
    assert expected["updates"] == found["updates"] == 12
    assert all(torch.equal(expected["trained"][key], found["trained"][key]) for key in expected["trained"])
    assert not torch.equal(
        found["trained"]["network.heads.0.weight"], load(killed)["state_dict"]["network.heads.0.weight"]
    )


@pytest.mark.e2e
def test_the_test_scores_the_average(options, tmp_path):
    main(["fit", *options, "--config=ema", "--model.init_args.optimizer.init_args.lr=0.05"])
    run = tmp_path / "run"
    main(["test", f"--run_dir={run}"])
    with (run / "test" / "cases.csv").open(newline="", encoding="utf-8") as file:
        scores = {row["subject"]: float(row["dice"]) for row in csv.DictReader(file)}
    task, cache = load_task(run / "checkpoints" / "last.ckpt"), Cache.open(options_cache(options))
    averaged = {subject: dice(task, cache.case(subject)) for subject in scores}
    task.load_state_dict(load(run)["callbacks"]["WeightAverage"]["trained"], strict=False)
    trained = {subject: dice(task, cache.case(subject)) for subject in scores}
    assert scores == pytest.approx(averaged, abs=1e-6)
    assert scores != pytest.approx(trained, abs=1e-3)


def options_cache(options):
    return next(option.partition("=")[2] for option in options if option.startswith("--data.init_args.cache="))


def dice(task, case):
    with torch.inference_mode():
        predicted = task.logits(torch.from_numpy(case.image().copy())[None]).argmax(1)
    return dice_per_class(predicted, torch.from_numpy(case.label().copy())[None], 3).scores[0, 1:].mean().item()
