"""What a student learns from a teacher, as functions of logits and features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pocket.errors import PocketError


def soft_target_loss(
    student_BKS: Tensor,
    teacher_BKS: Tensor,
    temperature: float = 2.0,
    squared: bool = False,
    counted_BS: Tensor | None = None,
) -> Tensor:
    r"""Return the divergence of the student's softened probabilities from the teacher's (Hinton et al., 2015).

    :math:`T^2`, or 1, times :math:`\sum_k p_k (\log p_k - \log q_k)` with :math:`p = softmax(t / T)` of the teacher
    and :math:`q = softmax(s / T)` of the student: summed over classes, averaged over images and voxels, in float32.
    With :math:`T^2` the gradient of the logits is :math:`T (q - p)` over the number of images and voxels, so that its
    size does not depend on the temperature, to first order, nor on that of the images.

    Args:
        student_BKS: ``(B, K)`` or ``(B, K, *S)`` logits.
        teacher_BKS: Logits of the same shape; no gradient flows there.
        temperature: The :math:`T`.
        squared: Whether to multiply by :math:`T^2`.
        counted_BS: ``(B, *S)`` bool, which voxels count; None for all of them.

    Returns:
        Scalar, float32; 0 where nothing counts.

    Raises:
        PocketError: If the shapes differ.
    """
    if student_BKS.shape != teacher_BKS.shape:
        raise PocketError(
            f"distillation: the student's logits have shape {tuple(student_BKS.shape)}, the teacher's "
            f"{tuple(teacher_BKS.shape)}. Expected a teacher of the same kind, trained on the same classes."
        )
    student = F.log_softmax(student_BKS.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_BKS.detach().float() / temperature, dim=1)
    divergence_BS = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    scale = temperature**2 if squared else 1.0
    if counted_BS is None:
        return scale * divergence_BS.mean()
    return scale * (divergence_BS * counted_BS).sum() / counted_BS.sum().clamp_min(1)


def similarity_loss(student_BF: Tensor, teacher_BF: Tensor, eps: float = 1e-7) -> Tensor:
    r"""Return the divergence between the neighbourhoods of a batch in two feature spaces (PKT).

    Probabilistic Knowledge Transfer (Passalis and Tefas, ECCV 2018) as its authors' code computes it: cosines of all
    pairs of images, mapped to [0, 1], each row divided by its sum, the diagonal among them; then the mean over all
    :math:`B \times B` of :math:`p \log((p + \epsilon) / (q + \epsilon))` with :math:`p` of the teacher. The paper's sum
    is B squared times that.

    Args:
        student_BF: ``(B, F)`` features.
        teacher_BF: ``(B, F')`` features of the same images; no gradient flows there.
        eps: The :math:`\epsilon`, added to norms too.

    Returns:
        Scalar, float32; 0 for a single image.
    """
    student, teacher = _neighbourhood(student_BF.float(), eps), _neighbourhood(teacher_BF.detach().float(), eps)
    return (teacher * ((teacher + eps) / (student + eps)).log()).mean()


def _neighbourhood(features_BF: Tensor, eps: float) -> Tensor:
    """Return ``(B, B)``, how near each image is to each, rows of sum 1."""
    unit = features_BF / (torch.linalg.vector_norm(features_BF, dim=1, keepdim=True) + eps)
    near_BB = (unit @ unit.T + 1) / 2
    return near_BB / near_BB.sum(1, keepdim=True)


def hint_loss(student_BFS: Tensor, teacher_BFS: Tensor) -> Tensor:
    """Return the mean squared difference of features ``(B, F, *S)``, in float32 (FitNets, Romero et al., ICLR 2015).

    Where the maps of one are larger, they are brought to the size of the other by averaging.

    Args:
        student_BFS: Features of the student, or what a regressor makes of them.
        teacher_BFS: Those of the teacher, or what a regressor makes of them, with as many channels.

    Raises:
        PocketError: If one has other channels or axes than the other.
    """
    student, teacher = student_BFS.float(), teacher_BFS.float()
    if student.shape[:2] != teacher.shape[:2] or student.ndim != teacher.ndim:
        raise PocketError(
            f"distillation: features have the shapes {tuple(student.shape)} and {tuple(teacher.shape)}; expected the "
            "same number of channels and axes. Name layers of the same kind in both networks."
        )
    size = tuple(min(one, other) for one, other in zip(student.shape[2:], teacher.shape[2:], strict=True))
    return F.mse_loss(_averaged(student, size), _averaged(teacher, size))


def _averaged(features_BFS: Tensor, size: tuple[int, ...]) -> Tensor:
    if features_BFS.shape[2:] == size:
        return features_BFS
    if len(size) == 2:
        return F.adaptive_avg_pool2d(features_BFS, (size[0], size[1]))
    return F.adaptive_avg_pool3d(features_BFS, (size[0], size[1], size[2]))
