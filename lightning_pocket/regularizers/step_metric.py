"""The metric in which an optimizer's step is a gradient step: what a proximal step must be taken in."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.optimizer import Optimizer

from lightning_pocket.errors import PocketError

from .kernelwise_adam import KernelwiseAdam
from .layer import LayerPenalty


class StepMetric:
    r"""Metric of the last step of an optimizer.

    - SGD: :math:`D = (1 - \mu) / (\eta (1 - d))` for the rate :math:`\eta`, momentum :math:`\mu` and dampening
      :math:`d`. A gradient that stays goes on pulling through the momentum, in all :math:`1 / (1 - \mu)` times.
    - Adam and AdamW: :math:`D = (\sqrt{\hat v} + \epsilon) / \eta`, one number per weight.
    - :class:`.KernelwiseAdam`: the same, one number per kernel.

    The rates are read from the optimizer, so schedules are followed.

    Args:
        optimizer: One of these.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}

    def rate(self, parameter: nn.Parameter) -> float:
        """Return the learning rate of a parameter."""
        return float(self._groups[parameter]["lr"])

    def __call__(self, parameter: nn.Parameter) -> float | Tensor | None:
        """Return the metric of a parameter.

        Args:
            parameter: One of the optimizer's.

        Returns:
            A number, ``(O,)`` one number per kernel, or the parameter's shape; None where it has not been stepped or
            the rate is 0.
        """
        group = self._groups.get(parameter)
        rate = float(group["lr"]) if group is not None else 0.0
        if group is None or rate <= 0:
            return None
        if isinstance(self._optimizer, SGD):
            dampening = group["dampening"] if group["momentum"] else 0.0
            return (1 - group["momentum"]) / (rate * (1 - dampening))
        state = self._optimizer.state.get(parameter)
        if not state:
            return None
        if isinstance(self._optimizer, KernelwiseAdam):
            return self._optimizer.denominator(parameter, group) / rate
        return _adam_denominator(state, group) / rate


def _adam_denominator(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    moment: Tensor = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    return (moment / (1 - float(group["betas"][1]) ** float(state["step"]))).sqrt_().add_(group["eps"])


def check_optimizer(optimizer: Optimizer, layers: list[LayerPenalty]) -> None:
    """Refuse an optimizer in whose metric the prox is not known, and prepare :class:`.KernelwiseAdam`.

    Args:
        optimizer: That of the run, before its first step.
        layers: What is penalized.

    Raises:
        PocketError: If it is another one, or steps the weights of nested groups each at its own rate.
    """
    if isinstance(optimizer, KernelwiseAdam):
        optimizer.average_over([layer.conv for layer in layers])
        return
    key = f"model.init_args.optimizer: {type(optimizer).__name__}"
    if not isinstance(optimizer, SGD | Adam):  # AdamW is an Adam
        raise PocketError(
            f"{key} has steps of which the proximal solver knows no metric; expected SGD, Adam, AdamW or "
            "KernelwiseAdam. Choose one of them, or set StructuredSparsity.solver to subgradient."
        )
    if isinstance(optimizer, Adam) and any(layer.groups > 1 for layer in layers):
        raise PocketError(
            f"{key} steps each weight of a kernel at a rate of its own, in which nested groups have no exact proximal "
            "step; expected SGD or lightning_pocket.regularizers.KernelwiseAdam, as --config sparsity_kernel_size "
            "sets. Choose one of them, or set StructuredSparsity.solver to subgradient."
        )
