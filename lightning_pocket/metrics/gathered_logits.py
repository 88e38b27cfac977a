"""The predictions of all images, whichever process made them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .subject_keys import counted_keys, distinct_keys


class GatheredLogits(Metric):
    """Logits and true class of every image, for scores that need all of them at once.

    An image that several processes have seen, because a sampler repeats some to even them out, is kept once.

    Args:
        num_classes: Number of classes ``K``.

    Raises:
        PocketError: If ``num_classes`` is below 2.
    """

    is_differentiable = False
    full_state_update = False

    subject: list[Tensor]
    logits: list[Tensor]
    target: list[Tensor]

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise PocketError(f"num_classes: found {num_classes}; give at least 2.")
        self.num_classes = num_classes
        for state in ("subject", "logits", "target"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    @override
    def update(self, logits_BK: Tensor, target_B: Tensor, subjects: Sequence[str] | None = None) -> None:
        """Add a batch.

        Args:
            logits_BK: ``(B, K)`` scores before softmax.
            target_B: ``(B,)`` integers, true class of each image.
            subjects: Name of each image; one with an empty name is not counted. ``None`` makes each an image of its
                own.

        Raises:
            PocketError: If the shapes do not fit, or the number of subjects is not ``B``.
        """
        if logits_BK.shape != (len(target_B), self.num_classes):
            raise PocketError(
                f"logits: found shape {tuple(logits_BK.shape)}; expected {(len(target_B), self.num_classes)}, a row "
                "for each image."
            )
        counted, key_N = counted_keys(subjects, len(target_B))
        self.subject.append(key_N.to(target_B.device))
        self.logits.append(logits_BK.detach()[counted].float())
        self.target.append(target_B[counted].long())

    @override
    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Join the processes; one that has seen no image joins with empty states of the right shape."""
        if len(self.subject) == 0:
            none = torch.zeros(0, dtype=torch.int64, device=self.device)
            self.subject.append(none)
            self.target.append(none)
            self.logits.append(torch.zeros(0, self.num_classes, device=self.device))
        super().sync(*args, **kwargs)

    @override
    def compute(self) -> dict[str, Tensor]:
        """Return ``logits`` ``(N, K)`` float32 and ``target`` ``(N,)`` int64 of the distinct images, in any order."""
        _, case_N = torch.unique(distinct_keys(dim_zero_cat(self.subject)), return_inverse=True)
        cases = int(case_N.max()) + 1 if len(case_N) else 0
        places = torch.arange(len(case_N), device=case_N.device)
        first = torch.full((cases,), len(case_N), device=case_N.device).scatter_reduce(0, case_N, places, "amin")
        return {"logits": dim_zero_cat(self.logits)[first], "target": dim_zero_cat(self.target)[first]}
