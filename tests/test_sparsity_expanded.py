"""Structured sparsity of expanded networks."""

import pytest
import torch
from test_sparsity_training import QUARTERS, Task, Watch, images, train

from lightning_pocket.callbacks import StructuredSparsity
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expansion, contract, expand, last_factor
from lightning_pocket.regularizers import KernelNumber, KernelSize


@pytest.fixture(autouse=True)
def _watch_factors(monkeypatch):
    def alive(watch, *arguments):
        weight = last_factor(arguments[1].network.second[0]).weight.detach()
        watch.alive.append(int((weight.flatten(1) != 0).any(1).sum()))

    monkeypatch.setattr(Watch, "on_train_batch_end", alive)


def expanded(conv: str = "cl", **settings) -> Task:
    task = Task()
    expand(task.network, Expansion(conv, rate=2, **settings))
    return task


@pytest.mark.parametrize("settings", [{}, {"bias": "all", "mode": "layers"}])
@pytest.mark.parametrize("norm_aware", ["none", "joint"])
def test_kernels_of_expanded_layers_die_as_rows_of_the_last_factor(tmp_path, norm_aware, settings):
    sparsity = StructuredSparsity(KernelNumber(), alpha_relative=0.3, batches=1, norm_aware=norm_aware, phases=QUARTERS)
    task = expanded(**settings)
    conv, norm = last_factor(task.network.second[0]), task.network.second[1]
    with torch.no_grad():  # three kernels that are all but dead
        for values in (conv.weight, conv.bias, norm.weight, norm.bias):
            values[:3] *= 1e-3
    _, watch, _ = train(tmp_path, sparsity, task, epochs=4)
    assert [penalty.name for penalty in sparsity._penalties] == ["second.0", "third.0"]
    assert [penalty.conv for penalty in sparsity._penalties] == [
        last_factor(layer[0]) for layer in (task.network.second, task.network.third)
    ]
    assert 0 < watch.alive[-1] < 8
    dead = (last_factor(task.network.second[0]).weight.flatten(1) == 0).all(1)
    before = task.network.eval()(images())
    contract(task.network)
    kernels = (task.network.second[0].weight.flatten(1) == 0).all(1)
    assert torch.equal(kernels, dead)
    torch.testing.assert_close(task.network(images()), before, rtol=1e-4, atol=1e-5)


def test_squared_widths_count_the_kernels_of_the_compact_network(tmp_path):
    sparsity = StructuredSparsity(KernelNumber(complexity="squared_width"), alpha_relative=0.2, batches=1)
    train(tmp_path, sparsity, expanded(), epochs=1)
    assert [penalty.conv.out_channels for penalty in sparsity._penalties] == [8, 6]


def test_sizes_of_kernels_that_are_products_are_refused(tmp_path):
    sparsity = StructuredSparsity(KernelSize(), alpha=0.1)
    with pytest.raises(PocketError, match=r"second\.0 is expanded.*then `pocket contract`.*--start_from"):
        train(tmp_path, sparsity, expanded())
    task = expanded(select=["first"])  # a module's name, and a layer that is not penalized: nothing is in the way
    train(tmp_path, StructuredSparsity(KernelSize(), alpha=0.1), task, epochs=1)


def test_nonlinear_rows_are_no_kernels(tmp_path):
    with pytest.raises(PocketError, match="cannot be contracted"):
        train(tmp_path, StructuredSparsity(KernelNumber(), alpha=0.1), expanded(mode="nonlinear"))
