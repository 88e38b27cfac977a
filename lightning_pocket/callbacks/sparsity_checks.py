"""What structured sparsity cannot work with, and weight decay that would fight with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.optim.optimizer import Optimizer

from lightning_pocket.compact import CompactNetwork
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expanded, contract, is_expanded
from lightning_pocket.regularizers import KernelNumber, LayerPenalty, Regularizer, is_degenerate
from lightning_pocket.speed import untouched

from .weight_average import WeightAverage

_AVERAGES = (WeightAverage, StochasticWeightAveraging, WeightAveraging)


def check_strength(
    alpha: float | None, alpha_relative: float | None, solver: str, tau: float | None, batches: int
) -> None:
    """Refuse settings of ``StructuredSparsity`` that are out of range.

    Raises:
        PocketError: If one is.
    """
    if (alpha is None) == (alpha_relative is None):
        found = "neither is given" if alpha is None else f"found {alpha} and {alpha_relative}"
        raise PocketError(
            f"StructuredSparsity.alpha or alpha_relative: {found}, expected one of them. Set alpha to a strength, or "
            "alpha_relative to a share of alpha_max, and the other one to null."
        )
    for name, value in (("alpha", alpha), ("alpha_relative", alpha_relative), ("tau", tau)):
        if value is not None and not 0 <= value < float("inf"):
            raise PocketError(f"StructuredSparsity.{name}: found {value}, expected 0 or more.")
    if solver not in ("proximal", "subgradient"):
        raise PocketError(f"StructuredSparsity.solver: found {solver!r}, expected proximal or subgradient.")
    if tau is not None and solver == "proximal":
        raise PocketError(
            f"StructuredSparsity.tau: found {tau}, but the proximal solver has exact zeros and no threshold. Leave tau "
            "out, or set solver to subgradient."
        )
    if batches < 1:
        raise PocketError(f"StructuredSparsity.batches: found {batches}, expected at least 1.")


def check_surroundings(own: Callback, trainer: Trainer) -> None:
    """Refuse strategies and callbacks that do not go with ``StructuredSparsity``.

    Args:
        own: The callback itself.
        trainer: That of the run.

    Raises:
        PocketError: If there is one.
    """
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
        raise PocketError(
            f"trainer.strategy: {type(trainer.strategy).__name__} keeps parts of a kernel on different devices, and "
            "structured sparsity needs the norm of whole kernels at every step. Take ddp or one device."
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if callback is not own and isinstance(callback, type(own)):
            raise PocketError(
                f"trainer.callbacks: {type(own).__name__} is there twice, and the two would undo each other's step. "
                "Append one preset of sparsity."
            )
        if isinstance(callback, _AVERAGES):
            raise PocketError(
                "trainer.callbacks: an average of weights that were not zero is not zero, so checkpoints of "
                f"{type(callback).__name__} have no sparse kernels. Leave "
                f"{'--config ema' if isinstance(callback, WeightAverage) else 'it'} out."
            )


def image_shape(task: LightningModule) -> tuple[int, ...]:
    """Return the shape ``(C, *S)`` of the images that a task is trained on."""
    network: Any = task.network
    info = getattr(task, "info", None)
    size = info.patch_size if info is not None else [2 * step for step in network.divisor]
    return (int(network.in_channels), *(int(side) for side in size))


def check_connected(network: nn.Module, gone: Sequence[str], size: Sequence[int], alpha: str) -> None:
    """Refuse a network whose output no longer depends on the image: no further training brings it back.

    Args:
        network: Is run in evaluation on two images, and left as it was.
        gone: Names of its layers without kernels, at least one.
        size: ``(C, *S)`` of an image.
        alpha: The strength, for the message.

    Raises:
        PocketError: If both images have the same output.
    """
    weight = next(network.parameters())
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, *size, generator=generator).to(device=weight.device, dtype=weight.dtype)
    with untouched(network), torch.no_grad():
        one, other = network.eval()(images)
    if torch.equal(one, other):
        shown = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        raise PocketError(
            f"StructuredSparsity: no kernel is left of {shown}, so that nothing of the image reaches the output. Train "
            f"again with less than {alpha}, or name layers that must stay in exclude."
        )


def tell_degenerate(penalties: Iterable[LayerPenalty]) -> str:
    """Return a warning where norms undo what penalties do; nothing where none does."""
    names = [penalty.name for penalty in penalties if is_degenerate(penalty)]
    if not names:
        return ""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return (
        f"sparsity: the norm behind {shown} undoes the size of kernels, so the penalty can shrink without making "
        "anything sparse. norm_aware: joint or unit counts the scale of the norm in."
    )


def plain_copy(network: nn.Module) -> nn.Module:
    """Return a network without expanded layers: the same one, or a contracted copy.

    Raises:
        PocketError: If its expanded layers have nonlinearities in between, or it was reduced already.
    """
    if isinstance(network, CompactNetwork):
        raise PocketError(
            f"StructuredSparsity: the {type(network).__name__} is what `pocket shrink` has left of a network, and is "
            "not made sparse again. Leave the preset out, or take its entry out of trainer.callbacks; or train the "
            "network before with a larger alpha."
        )
    if not is_expanded(network):
        return network
    compact = copy.deepcopy(network)
    contract(compact)
    return compact


def check_expanded(network: nn.Module, names: Iterable[str], regularizer: Regularizer) -> None:
    """Refuse penalties on the sizes of kernels that are products.

    Args:
        network: The network.
        names: Its penalized layers.
        regularizer: What is to become sparse.

    Raises:
        PocketError: If one of the layers is expanded, and the groups are smaller than kernels.
    """
    if isinstance(regularizer, KernelNumber):
        return
    expanded = [name for name in names if isinstance(network.get_submodule(name), Expanded)]
    if expanded:
        raise PocketError(
            f"StructuredSparsity.regularizer: {type(regularizer).__name__} makes kernels smaller, but {expanded[0]} is "
            "expanded: its kernels are products of factors, through which a proximal step cannot be taken. Train "
            "expanded first, then `pocket contract`, then make it sparse with --start_from the contracted checkpoint; "
            "or take KernelNumber, which works on expanded layers."
        )


def without_decay(
    make_optimizer: Callable[[Any], Optimizer], parameters: Iterable[nn.Parameter], kept: Collection[nn.Parameter]
) -> Optimizer:
    """Make an optimizer whose weight decay leaves the regularized parameters alone, where it is part of the gradient.

    Decoupled decay (AdamW) stays: it shrinks weights before the proximal step does. Decay in the gradient would change
    the metric of Adam, and pulls at the kernels a second time.

    Args:
        make_optimizer: Makes the optimizer of parameters, or of groups of them.
        parameters: Those of the network.
        kept: The regularized ones.

    Returns:
        The optimizer; with two groups where it is needed.
    """
    everything = list(parameters)
    optimizer = make_optimizer(everything)
    decayed = any(
        group.get("weight_decay", 0) and not group.get("decoupled_weight_decay", False)
        for group in optimizer.param_groups
    )
    if not decayed:
        return optimizer
    others = [parameter for parameter in everything if parameter not in kept]
    own = [parameter for parameter in everything if parameter in kept]
    return make_optimizer([{"params": others}, {"params": own, "weight_decay": 0.0}])
