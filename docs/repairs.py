"""What the documentation says of repairs, and where they are in the code."""

from __future__ import annotations

from dataclasses import dataclass

from hwprune.importance import Description


@dataclass(frozen=True)
class Repair:
    """A description, and the function or class that it is about: ``module:name``."""

    where: str
    description: Description


def _repair(
    name: str,
    where: str,
    *,
    summary: str,
    formula: str,
    data: str,
    cost: str,
    paper: str,
    origin: str = "authors",
    details: str = "",
) -> Repair:
    return Repair(where, Description(name, summary, details, paper, formula, data, "", origin, cost))


REPAIRS: tuple[Repair, ...] = (
    _repair(
        "recalibration",
        "hwprune.repair.recalibrate:recalibrate_batchnorm",
        summary="BatchNorm statistics of the smaller model are measured again.",
        formula="running mean and variance = those of the batches, in training mode without gradients",
        data="unlabelled",
        cost="one forward pass a batch",
        paper="Ioffe and Szegedy, ICML 2015; after pruning: Li et al., EagleEye, ECCV 2020",
    ),
    _repair(
        "fine-tuning",
        "hwprune.repair.finetune:finetune",
        summary="The smaller model is trained on.",
        formula="gradient descent on the loss",
        data="labelled",
        cost="one forward and one backward pass a batch, for as many batches as are allowed",
        paper="Han et al., Learning both Weights and Connections for Efficient Neural Networks, NeurIPS 2015",
    ),
    _repair(
        "distillation",
        "hwprune.repair.distill:distillation_loss",
        summary="The smaller model is trained on with the original's outputs as soft labels.",
        formula="τ²·KL(softmax(teacher/τ) ‖ softmax(student/τ)), mixed with the loss on labels",
        data="unlabelled",
        cost="as fine-tuning, and a forward pass of the original a batch",
        paper="Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
    ),
)
