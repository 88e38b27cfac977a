"""Adam that takes steps of one length within a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .kernels import Convolution, from_kernels, to_kernels


class KernelwiseAdam(Optimizer):
    r"""Adam whose second moment is averaged over each regularized kernel.

    Adam divides every weight's step by an estimate of its own gradient's size, and the prox of nested groups has no
    closed form in such a metric. Here :math:`v_j \leftarrow \beta_2 v_j + (1 - \beta_2)\, \mathrm{mean}(g_j^2)` is one
    number for kernel :math:`j`, so that the prox is exact. All other parameters, and all of them before
    :meth:`average_over` names kernels, are stepped as by ``torch.optim.Adam``.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        betas: Decay of the first and second moment.
        eps: Added to the root of the second moment.
        weight_decay: Share of the learning rate by which weights shrink at each step.
        decoupled_weight_decay: Whether weights shrink before the step (AdamW) or the decay is part of the gradient.

    Raises:
        PocketError: If a setting is out of range.

    References:
        Kingma and Ba, Adam, ICLR 2015; the average over a block is that of Adam-mini (Zhang et al., 2024).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
    ) -> None:
        for name, value in (("lr", lr), ("eps", eps), ("weight_decay", weight_decay)):
            if value < 0:
                raise PocketError(f"KernelwiseAdam.{name}: found {value}; give 0 or more.")
        if not all(0 <= beta < 1 for beta in betas):
            raise PocketError(
                f"KernelwiseAdam.betas: found {betas}; give two numbers from 0 up to but not including 1."
            )
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        self._convolutions: dict[nn.Parameter, Convolution] = {}
        super().__init__(params, defaults)

    @override
    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("_convolutions", {})  # a copy is told of kernels anew

    def average_over(self, convolutions: Iterable[Convolution]) -> None:
        """Average the second moment over each kernel of these convolutions.

        Args:
            convolutions: Their weights are among the parameters. Called before the first step.
        """
        self._convolutions = {conv.weight: conv for conv in convolutions}

    def averages(self, parameter: nn.Parameter) -> bool:
        """Return whether a parameter holds kernels that are averaged over."""
        return parameter in self._convolutions

    @override
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step.

        Args:
            closure: Computes the loss and its gradients.

        Returns:
            What ``closure`` returns.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        decay, lr, (beta1, beta2) = group["weight_decay"], group["lr"], group["betas"]
        if decay and group["decoupled_weight_decay"]:
            parameter.mul_(1 - lr * decay)
        elif decay:
            gradient = gradient.add(parameter, alpha=decay)
        square = self._square(parameter, gradient)
        state = self.state[parameter]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(square))
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta1)
        state["exp_avg_sq"].mul_(beta2).add_(square, alpha=1 - beta2)
        denominator = self.denominator(parameter, group)
        conv = self._convolutions.get(parameter)
        if conv is not None:
            denominator = from_kernels(conv, denominator.view(-1, 1, *[1] * (parameter.ndim - 2)))
        parameter.addcdiv_(state["exp_avg"], denominator, value=-lr / (1 - beta1 ** state["step"]))

    def denominator(self, parameter: nn.Parameter, group: dict[str, Any]) -> Tensor:
        """Return what the first moment was divided by in the last step.

        Args:
            parameter: It has been stepped.
            group: The group of parameters that it is in.

        Returns:
            The parameter's shape, or ``(O,)`` where kernels are averaged over.
        """
        state = self.state[parameter]
        moment: Tensor = state["exp_avg_sq"] / (1 - group["betas"][1] ** state["step"])
        return moment.sqrt_().add_(group["eps"])

    def _square(self, parameter: nn.Parameter, gradient: Tensor) -> Tensor:
        conv = self._convolutions.get(parameter)
        if conv is None:
            return gradient.square()
        return to_kernels(conv, gradient).flatten(1).square().mean(1)
