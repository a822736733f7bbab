"""What pruning in rounds is asked for, and what of it cannot be done."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance.batches import split_batch
from hwprune.importance.registry import Criterion, Loss
from hwprune.planner.options import PlanOptions
from hwprune.planning.prepare import check_budgets, resolve
from hwprune.pruned import Subject
from hwprune.repair.checkpoint import digest_of
from hwprune.repair.options import FinetuneOptions, RepairOptions, read_repair
from hwprune.repair.run import Evaluate, lengths
from hwprune.repair.state import model_tensors
from hwprune.target import Target

#: Parameters of the analysis, which every round shares.
_ANALYSIS = ("include", "exclude", "inside_heads", "prune_outputs")


class IterativeOptions(BaseModel):
    """How a model is pruned in rounds.

    Attributes
    ----------
    rounds
        Number of cuts.
    schedule
        ``"linear"``, ``"exponential"`` or ``"agp"``: see :func:`hwprune.planning.schedules.shares`.
    momentum
        What the average of scores keeps of itself with each minibatch that is scored.
    every
        A minibatch is scored every so many training steps.
    batches
        At most so many batches of the data are scored, again and again.
    repair
        How layers are fitted after each cut and before the training behind it, to the model as it was before
        that cut: options, or a method such as ``"least_squares"`` (see
        :func:`hwprune.repair.options.read_repair`). The training batches are read, labels are not used.
        Losses on held-out data, where a plan goes by them, are taken without it. None leaves it out.
        Default: least squares. In ``python -m bench.rounds`` it leaves much more accuracy than training alone
        where that is 10 steps, and little more or less where it is 50.
    finetune
        Training after every cut but the last.
    final
        Training after the last cut; default: as ``finetune``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rounds: int = Field(default=5, ge=1)
    schedule: Literal["linear", "exponential", "agp"] = "agp"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    every: int = Field(default=10, ge=1)
    batches: int = Field(default=32, ge=1)
    repair: RepairOptions | None = RepairOptions()
    finetune: FinetuneOptions = FinetuneOptions(epochs=1)
    final: FinetuneOptions | None = None

    @field_validator("repair", mode="before")
    @classmethod
    def _read(cls, asked: object) -> object:
        return read_repair(asked) if isinstance(asked, str) else asked


@dataclass(frozen=True)
class Asked:
    """What :func:`hwprune.prune_iteratively` was asked for.

    ``data`` is what channels are scored by, ``separate`` whether it is other data than ``train``; ``more``
    goes to the planner.
    """

    model: nn.Module
    inputs: Sequence[Any] | torch.Tensor
    target: str | Path | Target
    latency: str | float
    train: Iterable[Any]
    data: Sequence[Any]
    separate: bool
    options: IterativeOptions
    plan_options: PlanOptions
    criterion: Criterion
    loss: Loss | None
    teacher: nn.Module | None
    evaluate: Evaluate | None
    minimum: float
    more: dict[str, Any]

    @property
    def last(self) -> FinetuneOptions:
        """Training after the last cut."""
        return self.options.final or self.options.finetune

    def check(self) -> None:
        """Refuse what is known to fail, before the minutes that measuring and training take.

        Raises
        ------
        BudgetError
            The budget cannot be read.
        RepairError
            There are no training batches, or nobody says where an epoch ends.
        UsageError
            Several targets, a criterion without batches, training without labels, or a best epoch that nobody
            can tell.
        """
        targets = resolve(self.target, self.more.get("threads"))
        if len(targets) > 1:
            raise UsageError("pruning in rounds is for one target", hint="prune for the targets one by one")
        check_budgets(self.latency, targets)
        for training in (self.options.finetune, self.last):
            lengths(self.train, training)
            if training.keep_best and self.evaluate is None:
                raise UsageError(
                    "training is to keep its best epoch, and nothing says which that is",
                    hint="give evaluate (--evaluate), or leave keep_best out",
                )
        if not self.data and self.criterion.data_need != "none":
            raise UsageError(
                f"there are no batches for criterion {self.criterion.name}", hint="give data or train"
            )
        if not self.separate and self.teacher is None:
            for number, raw in enumerate(self.data):
                if split_batch(raw).target is None:
                    raise UsageError(
                        f"training batch {number} has no labels, and there is no teacher",
                        hint="yield tuples (inputs, labels), or distil from the dense model",
                    )

    def open(self, model: nn.Module) -> Subject:
        """Capture and analyse the model at any stage."""
        chosen = {name: self.more[name] for name in _ANALYSIS if name in self.more}
        return Subject.open(model, self.inputs, **chosen)

    def identity(self, original: Subject) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was interrupted, as JSON values."""
        target = resolve(self.target, self.more.get("threads"))[0]
        tensors = {name: t.detach().cpu().contiguous() for name, t in model_tensors(self.model).items()}
        plan = self.plan_options
        options = self.options.model_dump(mode="json")
        if self.options.repair is None:
            del options["repair"]  # runs from before there was such an option go on
        return {
            "options": options,
            "latency": str(self.latency),
            "criterion": self.criterion.label,
            "minimum": self.minimum,
            "model": digest_of(tensors),
            "inputs": [list(x.shape) for x in original.captured.example_inputs],
            "target": target.model_dump(mode="json"),
            "patterns": {name: sorted(self.more.get(name, ())) for name in _ANALYSIS[:-1]},
            "prune_outputs": self.more.get("prune_outputs", False),
            "held_out": plan.held_out is not None,
            "solver": plan.solver,
            "teacher": self.teacher is not None,
            "evaluate": self.evaluate is not None,
            "seed": self.more.get("seed", 0),
        }
