"""Networks as a frontier knows them, made up: no training, no files."""

from pathlib import Path

from lightning_pocket.frontier.costs import Costs
from lightning_pocket.frontier.study import Frontier, Result
from lightning_pocket.frontier.trained import BASE, Penalty, Trained
from lightning_pocket.reports.shrinking import LayerShape, Shrinking

LAYERS = ("stem", "first", "second")


def chosen(score, macs, label="", kind=BASE, milliseconds=None, parameters=None):
    network = Trained(kind, label, (Path(f"runs/{label or 'base'}"),), None)
    return Result(network, score, Costs(parameters or macs, macs, macs, milliseconds, (1, 8, 8)))


def learned(score, macs, alpha, before=1000, regularizer="KernelNumber", milliseconds=None, sizes=None):
    """Return a network that was made of one with ``before`` weights and multiply-accumulates."""
    sizes = sizes or {"first": {(3, 3): 5}, "second": {(3, 3): 2}}
    layers = tuple(
        LayerShape(name, (8, sum(sizes.get(name, {}).values())), sizes.get(name, {}), (10, 5)) for name in LAYERS
    )
    shrinking = Shrinking(layers, (before, macs), (before, macs), (before, macs), (2.0, 1.0))
    penalty = Penalty(regularizer, "proximal", alpha, False, None)
    network = Trained(penalty.kind, penalty.label, (Path(f"runs/{alpha}"),), penalty, (shrinking,))
    return Result(network, score, Costs(macs, macs, macs, milliseconds, (1, 8, 8)))


def study(*results, metric="dice", published=()):
    return Frontier(results, metric, published)
