"""Makes the kernels of a network sparse, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.optim import SGD, Adam
from torch.optim.optimizer import Optimizer

from lightning_pocket.errors import PocketError

from .complexity import Complexity
from .correlation import kernel_correlation
from .kernelwise_adam import KernelwiseAdam
from .layer import LayerPenalty
from .step_metric import StepMetric, check_optimizer

SolverName = Literal["proximal", "subgradient"]


class Sparsifier:
    r"""What is done to the penalized layers of a network around each step of its optimizer.

    - ``proximal``: after a step, the prox of the penalty in the metric of that step; zeros are exact.
    - ``subgradient``: before a step, a subgradient of the penalty is added to the gradients, as in the paper. Weights
      then swing around zero and never reach it, so groups of a norm up to ``tau`` are set to zero at the end.

    Args:
        layers: The penalties.
        complexity: Factors of their weights.
        solver: See above.
        tau: Threshold of the subgradient; None is the radius of the swing, see :meth:`radius`.
    """

    def __init__(
        self, layers: Sequence[LayerPenalty], complexity: Complexity, solver: SolverName, tau: float | None = None
    ) -> None:
        self.layers = list(layers)
        self.complexity = complexity
        self.solver: SolverName = solver
        self.tau = tau
        self._metric: StepMetric | None = None
        self._adaptive = False

    def attach(self, optimizer: Optimizer) -> None:
        """Take the metric from an optimizer, before its first step.

        Args:
            optimizer: It has all penalized parameters.

        Raises:
            PocketError: If the solver does not suit it.
        """
        if any(group.get("maximize") for group in optimizer.param_groups):
            raise PocketError(
                "model.init_args.optimizer: maximize is true, but a penalty is added to what is minimised. Set "
                "maximize to false."
            )
        known = isinstance(optimizer, SGD | Adam | KernelwiseAdam)
        if self.solver == "proximal":
            check_optimizer(optimizer, self.layers)
        elif self.tau is None and not known:
            raise PocketError(
                f"StructuredSparsity.tau: is null, but {type(optimizer).__name__} is an optimizer whose swing around "
                "zero is not known; expected a threshold. Set tau, or take SGD, Adam or AdamW."
            )
        self._metric = StepMetric(optimizer) if known else None
        self._adaptive = isinstance(optimizer, Adam | KernelwiseAdam)

    def weights(self) -> list[Tensor]:
        """Return ``(O, N)`` weights of the groups of each layer, without alpha."""
        factors = self.complexity.factors()
        return [layer.weights(factor) for layer, factor in zip(self.layers, factors, strict=True)]

    def before_step(self, alpha: float) -> None:
        """Add a subgradient of the penalty to the gradients, where that is the solver.

        Args:
            alpha: Strength of the penalty.
        """
        if self.solver != "subgradient" or alpha == 0:
            return
        with torch.enable_grad():
            values = [
                (weight * layer.group_norms()).sum() for layer, weight in zip(self.layers, self.weights(), strict=True)
            ]
            parameters = [parameter for layer in self.layers for parameter in layer.parameters]
            gradients = torch.autograd.grad(alpha * torch.stack(values).sum(), parameters, materialize_grads=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(gradient)

    @torch.no_grad()
    def after_step(self, alpha: float) -> None:
        """Take the proximal step where that is the solver, and give kernels before norms the norm 1 where asked.

        Args:
            alpha: Strength of the penalty.
        """
        if self._metric is not None and self.solver == "proximal":
            for layer, weight in zip(self.layers, self.weights(), strict=True):
                layer.prox(alpha * weight, self._metric)
            return
        for layer in self.layers:
            if layer.mode == "unit":
                layer.normalize()

    @torch.no_grad()
    def radius(self, alpha: float) -> list[Tensor]:
        r"""Return how far groups swing around zero under the subgradient, ``(O,)`` per layer.

        :math:`2 \alpha \sum_n w_n / D`, with the metric :math:`D` of the last step and the weights of all groups that a
        tap is in: :math:`2 \eta \alpha / (1 - \mu)` for SGD with one group. Adam moves every weight by about its rate,
        however small the gradient, so that its groups swing by at least :math:`\eta \sqrt{|G|}`.

        Args:
            alpha: Strength of the penalty.
        """
        found = []
        for layer, weight in zip(self.layers, self.weights(), strict=True):
            pull = alpha * weight.sum(1)
            radius = torch.zeros_like(pull)
            for parameter in layer.parameters:
                metric = self._metric(parameter) if self._metric is not None else None
                if metric is None:
                    continue
                if isinstance(metric, Tensor) and metric.ndim > 1:
                    metric = layer.arrange(metric).flatten(1).mean(1)
                radius = torch.maximum(radius, 2 * pull / metric)
            if self._adaptive and self._metric is not None:
                radius = radius.clamp_min(self._metric.rate(layer.parameters[0]) * float(layer.elements[-1]) ** 0.5)
            found.append(radius)
        return found

    def freeze(self, alpha: float) -> str:
        """Set to zero what is to stay so: with a subgradient, all groups up to the threshold.

        Args:
            alpha: Strength of the penalty.

        Returns:
            A warning where the threshold is below the swing, else nothing.
        """
        warning = ""
        if self.solver == "subgradient":
            radii = self.radius(alpha)
            largest = max(float(radius.max()) for radius in radii)
            if self.tau is not None and self.tau < largest:
                warning = (
                    f"StructuredSparsity.tau: {self.tau:g} is below {largest:.3g}, by which groups swing around zero "
                    "(2 lr alpha / (1 - momentum)): kernels that should be zero are kept. Raise tau or lower the rate."
                )
            for layer, radius in zip(self.layers, radii, strict=True):
                layer.threshold(radius if self.tau is None else self.tau)
        else:
            for layer in self.layers:
                layer.keep(layer.zeros())
        return warning

    def zeros(self) -> dict[str, Tensor]:
        """Return the numbers of zero groups of each kernel, by layer."""
        return {layer.name: layer.zeros().cpu() for layer in self.layers}

    def keep(self, zeros: dict[str, Tensor]) -> None:
        """Set to zero again what an optimizer with momentum has moved.

        Args:
            zeros: As from :meth:`zeros`.
        """
        for layer in self.layers:
            layer.keep(zeros[layer.name])

    @torch.no_grad()
    def values(self) -> dict[str, dict[str, float]]:
        """Return ``omega``, ``alive``, ``correlation`` and, of nested groups, ``size`` of living kernels, by layer."""
        found = {}
        for layer, weight in zip(self.layers, self.weights(), strict=True):
            zeros = layer.zeros()
            alive = zeros < layer.groups
            values = {"omega": float((weight * layer.group_norms()).sum()), "alive": float(alive.sum())}
            values["correlation"] = kernel_correlation(layer.kernels[alive]) or 0.0
            if layer.groups > 1:
                values["size"] = float(layer.sizes[zeros][alive].double().mean()) if bool(alive.any()) else 0.0
            found[layer.name] = values
        return found
