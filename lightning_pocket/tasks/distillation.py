"""Learn from a teacher on top of the labels."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Network
from lightning_pocket.types import DatasetInfo

from .features import FeatureTap, feature_channels
from .teacher import Teacher

KEY = "model.init_args.distillation.init_args"


class Distillation(nn.Module, ABC):
    """Adds a loss in which a teacher takes part: ``label_weight * loss + weight * distillation``.

    The teacher sees the same augmented images as the student. It is loaded when training begins: a checkpoint of the
    student neither holds nor needs it.

    Args:
        teacher: Checkpoint that ``pocket fit`` wrote, of any network, or a run folder.
        weight: Weight of what is learned from the teacher.
        label_weight: Weight of what is learned from the labels.
        student_layers: Modules whose features are compared; none for what the last layer makes the logits from.
        teacher_layers: As many modules of the teacher; none for the same of it.

    Attributes:
        expected_sha256: SHA-256 of the teacher that a run began with, which it must continue with.

    Raises:
        PocketError: If a setting is out of range.
    """

    #: Whether features are compared, and not the logits alone.
    reads_features = True

    def __init__(
        self,
        teacher: str = "",
        weight: float = 1.0,
        label_weight: float = 1.0,
        student_layers: list[str] | None = None,
        teacher_layers: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= weight < math.inf and 0 <= label_weight < math.inf and weight + label_weight > 0):
            raise PocketError(
                f"{KEY}.weight and label_weight: found {weight:g} and {label_weight:g}, expected at least 0 and not "
                "both 0."
            )
        self.source, self.weight, self.label_weight = teacher, weight, label_weight
        self.student_layers, self.teacher_layers = list(student_layers or []), list(teacher_layers or [])
        if len(self.student_layers) != len(self.teacher_layers):
            raise PocketError(
                f"{KEY}: {len(self.student_layers)} student_layers and {len(self.teacher_layers)} teacher_layers; "
                "expected pairs. Name as many of both."
            )
        self.expected_sha256 = ""
        self._teachers: list[Teacher] = []  # in a list: no module of this one
        self._tap: FeatureTap | None = None
        #: What was learned from the teacher in the latest step, for logs.
        self.latest: Tensor | None = None

    @property
    def teacher(self) -> Teacher:
        """The teacher.

        Raises:
            PocketError: If training has not begun.
        """
        if not self._teachers:
            raise PocketError("distillation: there is no teacher outside of training.")
        return self._teachers[0]

    @property
    def record(self) -> dict[str, Any]:
        """What checkpoints and the manifest say of the teacher; empty before training."""
        return {"method": type(self).__name__, **self.teacher.record} if self._teachers else {}

    def start(self, network: Network, info: DatasetInfo, channels_last: bool = False, compiled: bool = False) -> None:
        """Load the teacher and make what is trained beside the student; before training, once.

        Args:
            network: The student.
            info: What its data are.
            channels_last: Whether kernels have this layout.
            compiled: Whether the student is compiled.

        Raises:
            PocketError: If the teacher does not fit.
        """
        if self._teachers:
            return
        if not self.source:
            raise PocketError(f"{KEY}.teacher: is not given. Name a checkpoint, or the folder of a run.")
        if compiled and self.reads_features:
            raise PocketError(
                "model.init_args.compile: is true, but features cannot be read from a compiled network. Set it to "
                "false, or distil by soft targets (distill_kd)."
            )
        teacher = Teacher(self.source, info, network.spatial_dims, channels_last)
        if self.reads_features:
            self._tap = FeatureTap(network, self.student_layers, f"{KEY}.student_layers")
            other = teacher.read(self.teacher_layers, f"{KEY}.teacher_layers")
            size = list(info.patch_size)
            self.build(feature_channels(network, self._tap, size), feature_channels(teacher.network, other, size))
        self._teachers.append(teacher)

    def build(self, student: list[tuple[int, int]], teacher: list[tuple[int, int]]) -> None:
        """Make what is trained beside the student.

        Args:
            student: Channels and number of axes of each of its features.
            teacher: The same of the teacher's.
        """

    def stop(self) -> None:
        """Forget the teacher, and leave the student without hooks."""
        self._teachers.clear()
        if self._tap is not None:
            self._tap.remove()
            self._tap = None

    def check_teacher(self) -> None:
        """Refuse to continue with another teacher.

        Raises:
            PocketError: If the file has another content than the one that the run began with.
        """
        if self.expected_sha256 and self.expected_sha256 != self.teacher.sha256:
            raise PocketError(
                f"{KEY}.teacher: {self.teacher.path} is not the file that this run began with (SHA-256 "
                f"{self.teacher.sha256[:12]} instead of {self.expected_sha256[:12]}). Put it back, or start over with "
                "--fresh."
            )

    @override
    def forward(self, loss: Tensor, logits: Tensor, image: Tensor, counted: Tensor | None, epoch: int) -> Tensor:
        """Return the loss that is minimised.

        Args:
            loss: What the task makes of the labels, a scalar.
            logits: Logits ``(B, K)`` or ``(B, K, *S)`` of the student, of the latest pass.
            image: ``(B, C, *S)``, what it was given.
            counted: ``(B, *S)`` bool, which voxels count; None for all of them.
            epoch: Of the training, from 0.
        """
        answer, theirs = self.teacher(image)
        own = self._tap.take() if self._tap is not None else []
        added = self.added(logits, answer, counted, own, theirs)
        self.latest = added.detach()
        return self.combine(loss, added, logits, epoch)

    def leave_idle(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take their gradients from parameters that are not trained at this time; nothing here.

        Args:
            parameters: All that the optimizer has.
        """

    def combine(self, loss: Tensor, added: Tensor, logits: Tensor, epoch: int) -> Tensor:  # noqa: ARG002 (for stages)
        """Return the weighted sum of the losses."""
        return self.label_weight * loss + self.weight * added

    @abstractmethod
    def added(
        self, logits: Tensor, answer: Tensor, counted: Tensor | None, own: list[Tensor], theirs: list[Tensor]
    ) -> Tensor:
        """Return what is learned from the teacher, a scalar.

        Args:
            logits: Of the student.
            answer: Logits of the teacher.
            counted: See :meth:`forward`.
            own: Features of the student.
            theirs: Features of the teacher.
        """
