"""What fine-tuning tells while it runs and when it is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """After one optimizer step: ``step`` of ``steps`` (from 1) in ``epoch`` of ``epochs`` (from 1)."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch (counted from 1): mean training loss, last learning rate, metric after it."""

    epoch: int
    loss: float
    lr: float
    metric: float | None


@dataclass(frozen=True)
class FinetuneReport:
    """The result of :func:`hwprune.repair.finetune`.

    Attributes
    ----------
    epochs
        One record per epoch, those before a resume included.
    steps
        Optimizer steps in all.
    initial_metric
        ``evaluate(model)`` before the first step.
    best_metric, best_epoch
        Best metric and the epoch after which it was reached (0: before training).
    resumed_at_step
        Step at which a checkpoint was taken up; ``None`` for a run from the start.
    """

    epochs: tuple[EpochRecord, ...]
    steps: int
    initial_metric: float | None
    best_metric: float | None
    best_epoch: int | None
    resumed_at_step: int | None
