"""Validations in which a network finds nothing, and what may help."""

from __future__ import annotations

from torch import nn

from lightning_pocket.losses import DiceCrossEntropy

_LASTING = 5  # validations in a row; a normal training begins with a few


class NothingPredicted:
    """Counts validations in which every voxel was predicted as background.

    Attributes:
        row: How many such validations there were in a row.
    """

    def __init__(self) -> None:
        self.row = 0
        self._epoch = 0
        self._said = False

    @property
    def is_lasting(self) -> bool:
        """Whether there were so many that training does not seem to mend it."""
        return self.row >= _LASTING

    def add(self, empty: bool, epoch: int) -> None:
        """Count a validation.

        Args:
            empty: Whether nothing was predicted.
            epoch: Of the training, from 0 on.
        """
        self.row = self.row + 1 if empty else 0
        self._epoch = epoch
        self._said = self._said and empty

    def advice(self, loss: nn.Module, sampler: object) -> str:
        """Return what may help, once for each time that it begins; empty where something was predicted.

        Args:
            loss: What the network is trained with.
            sampler: What cuts the patches of the training; None where whole images train.
        """
        if not self.row or self._said:
            return ""
        self._said = True
        remedies = ["lower the learning rate"]
        if getattr(sampler, "probability", 1) < 1:
            remedies.append("raise data.init_args.sampler.init_args.probability")
        if not isinstance(loss, DiceCrossEntropy):
            remedies.append("take --config dice_ce")
        often = f"in {self.row} validations in a row, " if self.row > 1 else ""
        return (
            f"epoch {self._epoch}: {often}every voxel of the validation images was predicted as background. Train "
            f"longer, or {', or '.join(remedies)}."
        )
