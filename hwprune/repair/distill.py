"""Knowledge distillation from the dense model."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hwprune.errors import RepairError


def distillation_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, averaged over the positions.

    Parameters
    ----------
    student, teacher
        Class scores ``[N, classes, ...]`` of the same shape; no gradient flows to the teacher.
    temperature
        Softens both distributions; the factor ``T^2`` keeps the size of the gradients.

    Notes
    -----
    Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network", 2015.
    """
    if student.shape != teacher.shape:
        raise RepairError(
            f"the teacher's output has shape {tuple(teacher.shape)}, the model's {tuple(student.shape)}",
            hint="distil from a teacher with the same classes",
        )
    dim = 1 if student.ndim > 1 else 0
    log_p = F.log_softmax(student / temperature, dim=dim)
    log_q = F.log_softmax(teacher.detach() / temperature, dim=dim)
    divergence = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim)
    return divergence.mean() * temperature**2
