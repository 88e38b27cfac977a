"""The trained network that a student learns from."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import contract_for_use
from lightning_pocket.networks.base import Network
from lightning_pocket.speed import Levers, Runner
from lightning_pocket.storage import sha256
from lightning_pocket.types import DatasetInfo

from .features import FeatureTap

log = logging.getLogger(__name__)


class Teacher:
    """A network that only answers: always in evaluation, never with gradients, and part of no module.

    So it is in no optimizer, no checkpoint and no count of parameters, and distributed training leaves it alone: each
    process has its own.

    Args:
        source: Checkpoint that ``pocket fit`` wrote, or a run folder, which stands for its last checkpoint.
        student: What the student's data are.
        spatial_dims: Those of the student.
        channels_last: Layout of its kernels in memory.

    Attributes:
        path: The checkpoint.
        sha256: SHA-256 of its content.
        network: The network.

    Raises:
        PocketError: If there is no such checkpoint, or its network was trained for other images or classes.
    """

    def __init__(self, source: str, student: DatasetInfo, spatial_dims: int, channels_last: bool = False) -> None:
        folder = Path(source)
        self.path = folder / "checkpoints" / "last.ckpt" if folder.is_dir() else folder
        if not self.path.is_file():
            raise PocketError(
                f"model.init_args.distillation.init_args.teacher: {self.path}: no such checkpoint. Train the teacher "
                "with `pocket fit --run_dir DIR`, and name DIR."
            )
        from .loading import load_task  # which needs the tasks that this is a part of

        self.sha256 = sha256(self.path)
        task = load_task(self.path)
        _check(self.path, task.info, student, task.network, spatial_dims)
        contract_for_use(task.network)
        self.network: Network = task.network.requires_grad_(False).eval()
        self.runner = Runner(self.network, Levers(channels_last=channels_last))
        self._tap: FeatureTap | None = None

    @property
    def record(self) -> dict[str, Any]:
        """What a run says of its teacher, as plain types."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        named = {"teacher": str(self.path), "sha256": self.sha256}
        return named | {"network": type(self.network).__name__, "parameters": parameters}

    def read(self, layers: list[str], owner: str) -> FeatureTap:
        """Read features from some of its modules from now on.

        Args:
            layers: See :class:`.features.FeatureTap`.
            owner: Key of the config that names them.
        """
        if self._tap is not None:
            self._tap.remove()
        self._tap = FeatureTap(self.network, layers, owner)
        return self._tap

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Bring it to the device of the student, and to the precision of its weights."""
        self.network.to(device, dtype)
        self.runner.prepare()

    def __call__(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits ``(B, K)`` or ``(B, K, *S)`` of images ``(B, C, *S)``, and the features that are read."""
        self.network.eval()
        with torch.no_grad():
            logits = self.runner(image)
        return logits, self._tap.take() if self._tap is not None else []


def _check(path: Path, own: DatasetInfo, student: DatasetInfo, network: Network, spatial_dims: int) -> None:
    """Refuse a teacher of other classes, channels or axes, and one that cannot take the student's images."""
    key = f"model.init_args.distillation.init_args.teacher: {path}"
    for what, found, expected in (
        ("classes", own.classes, student.classes),
        ("channels", own.channels, student.channels),
        ("spatial_dims", network.spatial_dims, spatial_dims),
    ):
        if found != expected:
            raise PocketError(f"{key}: its {what} are {found}, the student's {expected}. Name a teacher of these.")
    if not _fits(student.patch_size, network.divisor):
        raise PocketError(
            f"{key}: takes multiples of {list(network.divisor)}, but the student's images have {student.patch_size} "
            "voxels. Name another teacher, or give other images."
        )
    if own.preprocessing != student.preprocessing:
        log.warning("teacher %s: its images were prepared otherwise than the student's; its answers may be poor.", path)


def _fits(size: Sequence[int], divisor: Sequence[int]) -> bool:
    return all(length % step == 0 for length, step in zip(size, divisor, strict=True))
