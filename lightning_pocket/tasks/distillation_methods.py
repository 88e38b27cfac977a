"""The ways to learn from a teacher: soft targets, hints, and similarities."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import hint_loss, similarity_loss, soft_target_loss

from .distillation import KEY, Distillation

log = logging.getLogger(__name__)

#: Linear maps of each voxel, by the axes of the features.
_POINTWISE: dict[int, type[Any]] = {4: nn.Conv2d, 5: nn.Conv3d}


class SoftTargets(Distillation):
    """Knowledge distillation: the teacher's softened probabilities as targets (Hinton et al., 2015).

    See :func:`lightning_pocket.losses.soft_target_loss`. A temperature of 2 without its square is what the authors of
    PKT use in their code, which ExpandNets cites; the paper itself tells neither.

    Args:
        teacher: See :class:`Distillation`.
        temperature: What logits are divided by.
        squared: Whether the loss is multiplied by the square of the temperature.
        weight: See :class:`Distillation`.
        label_weight: See :class:`Distillation`.

    Raises:
        PocketError: If a setting is out of range.
    """

    reads_features = False

    def __init__(
        self,
        teacher: str = "",
        temperature: float = 2.0,
        squared: bool = False,
        weight: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(teacher, weight, label_weight)
        if not 0 < temperature < math.inf:
            raise PocketError(f"{KEY}.temperature: found {temperature:g}, expected more than 0, such as 2.")
        self.temperature, self.squared = temperature, squared

    @override
    def added(
        self, logits: Tensor, answer: Tensor, counted: Tensor | None, own: list[Tensor], theirs: list[Tensor]
    ) -> Tensor:
        return soft_target_loss(logits, answer, self.temperature, self.squared, counted)


class SimilarityTransfer(Distillation):
    """PKT: images that are near to each other for the teacher are to be so for the student (Passalis and Tefas, 2018).

    See :func:`lightning_pocket.losses.similarity_loss`; features with spatial axes are averaged over these. Pairs are
    those of a batch: of each process alone in distributed training.

    Args:
        teacher: See :class:`Distillation`.
        student_layers: See :class:`Distillation`.
        teacher_layers: See :class:`Distillation`.
        eps: Added to norms and probabilities.
        weight: See :class:`Distillation`; the loss is a mean over all pairs, so that it is small.
        label_weight: See :class:`Distillation`.

    Raises:
        PocketError: If a setting is out of range.
    """

    def __init__(
        self,
        teacher: str = "",
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
        eps: float = 1e-7,
        weight: float = 1.0,
        label_weight: float = 1.0,
    ) -> None:
        super().__init__(teacher, weight, label_weight, student_layers, teacher_layers)
        if not 0 < eps < math.inf:
            raise PocketError(f"{KEY}.eps: found {eps:g}, expected more than 0, such as 1e-7.")
        self.eps = eps
        self._warned = False

    @override
    def added(
        self, logits: Tensor, answer: Tensor, counted: Tensor | None, own: list[Tensor], theirs: list[Tensor]
    ) -> Tensor:
        if len(logits) == 1 and not self._warned:
            self._warned = True
            log.warning(
                "distillation: a batch has one image, which is compared with no other, so that nothing is learned from "
                "the teacher. Raise data.init_args.batch_size."
            )
        pairs = zip(own, theirs, strict=True)
        losses = [similarity_loss(_vectors(one), _vectors(other), self.eps) for one, other in pairs]
        return torch.stack(losses).sum()


class Hint(Distillation):
    """The student's features are to tell the teacher's (FitNets, Romero et al., ICLR 2015).

    Args:
        teacher: See :class:`Distillation`.
        student_layers: See :class:`Distillation`; features of the same number of axes, of vectors or of maps.
        teacher_layers: See :class:`Distillation`.
        regressor: What stands between both. ``joint``: a 1x1 convolution from the student's channels to the teacher's,
            trained together with the student. ``two_stage``: the same, but in the first ``hint_epochs`` the student
            learns the hints alone, as far as it makes these features, and afterwards everything but the hints.
            ``never_optimised``: one from the teacher's channels to the student's that stays as it was drawn, as the
            "hint" in the code of PKT's authors, which ExpandNets cites.
        hint_epochs: Epochs of the first stage of ``two_stage``.
        weight: See :class:`Distillation`.
        label_weight: See :class:`Distillation`.
        soft_weight: Weight of :class:`SoftTargets` on top, which FitNets' second stage has.
        temperature: That of the soft targets; their loss is not multiplied by its square.

    Raises:
        PocketError: If a setting is out of range.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        teacher: str = "",
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
        regressor: Literal["joint", "two_stage", "never_optimised"] = "joint",
        hint_epochs: int = 1,
        weight: float = 1.0,
        label_weight: float = 1.0,
        soft_weight: float = 0.0,
        temperature: float = 2.0,
    ) -> None:
        super().__init__(teacher, weight, label_weight, student_layers, teacher_layers)
        if regressor == "two_stage" and hint_epochs < 1:
            raise PocketError(f"{KEY}.hint_epochs: found {hint_epochs}, expected at least 1 for two stages.")
        if not (0 < temperature < math.inf and 0 <= soft_weight < math.inf):
            raise PocketError(
                f"{KEY}.soft_weight and temperature: found {soft_weight:g} and {temperature:g}, expected at least 0 "
                "and more than 0."
            )
        self.mode, self.hint_epochs = regressor, hint_epochs
        self.soft_weight, self.temperature = soft_weight, temperature
        self.regressors = nn.ModuleList()
        self._soft: Tensor | None = None

    @override
    def build(self, student: list[tuple[int, int]], teacher: list[tuple[int, int]]) -> None:
        fixed = self.mode == "never_optimised"
        for (own, axes), (theirs, _) in zip(student, teacher, strict=True):
            before, after = (theirs, own) if fixed else (own, theirs)
            made = nn.Linear(before, after) if axes == 2 else _POINTWISE[axes](before, after, 1)
            self.regressors.append(made.requires_grad_(not fixed))

    @override
    def added(
        self, logits: Tensor, answer: Tensor, counted: Tensor | None, own: list[Tensor], theirs: list[Tensor]
    ) -> Tensor:
        losses = []
        for regressor, one, other in zip(self.regressors, own, theirs, strict=True):
            if self.mode == "never_optimised":
                losses.append(hint_loss(one, regressor(other)))
            else:
                losses.append(hint_loss(regressor(one), other.detach()))
        self._soft = soft_target_loss(logits, answer, self.temperature, False, counted) if self.soft_weight else None
        return torch.stack(losses).sum()

    @override
    def leave_idle(self, parameters: Iterable[nn.Parameter]) -> None:
        if self.mode != "two_stage":
            return
        for parameter in parameters:  # weight decay and momentum would move what no loss asks to move
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    @override
    def combine(self, loss: Tensor, added: Tensor, logits: Tensor, epoch: int) -> Tensor:
        soft = 0.0 if self._soft is None else self.soft_weight * self._soft
        if self.mode != "two_stage":
            return super().combine(loss, added, logits, epoch) + soft
        # The others take part with zero: distributed training waits for the gradient of each. See leave_idle.
        if epoch < self.hint_epochs:
            return self.weight * added + 0.0 * (loss + logits.float().sum())
        return self.label_weight * loss + soft + 0.0 * added


def _vectors(features: Tensor) -> Tensor:
    """Return features ``(B, F, *S)`` averaged over space, ``(B, F)``."""
    return features.float() if features.ndim == 2 else features.float().flatten(2).mean(2)
