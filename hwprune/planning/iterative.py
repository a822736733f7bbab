"""Pruning in rounds: plan to an intermediate latency, cut, train a little, and again.

After Molchanov et al., ICLR 2017 and CVPR 2019, whose scores build up while the model is trained, with
measured latency in the place of a number of channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.errors import UsageError
from hwprune.importance import get as get_criterion
from hwprune.importance.registry import Criterion, Loss
from hwprune.planner.curves.calibrate import BATCHES
from hwprune.planner.options import PlanOptions
from hwprune.planner.workbench import Progress, silent
from hwprune.planning.asked import Asked, IterativeOptions
from hwprune.planning.iterating import Iterated, IterativeRun
from hwprune.repair.rng import rng_state, seed_all, set_rng_state
from hwprune.repair.run import Evaluate
from hwprune.target import Target

__all__ = ["Iterated", "IterativeOptions", "prune_iteratively"]


def prune_iteratively(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: str | Path | Target = "host",
    latency: str | float = "50%",
    *,
    train: Iterable[Any],
    data: Iterable[Any] | None = None,
    options: IterativeOptions | None = None,
    plan_options: PlanOptions | None = None,
    criterion: str | Criterion = "taylor2019",
    loss: Loss | None = None,
    teacher: nn.Module | None = None,
    evaluate: Evaluate | None = None,
    checkpoint: Path | None = None,
    minimum: float = 0.1,
    progress: Progress = silent,
    **plan_parameters: Any,
) -> Iterated:
    """Prune in rounds of cutting and training; ``model`` is never changed.

    Every round plans for the model of now, by scores that have built up, to the latency that the
    schedule has for it. Neither a fit (``options.repair``) nor training changes anything of a cut, which is
    verified before they begin.

    Parameters
    ----------
    model, example_inputs, target
        As for :func:`hwprune.plan`.
    latency
        Budget after the last round.
    train
        Re-iterable training batches; a fit reads the first examples of a pass over them.
    data
        Batches that are scored; default: those of ``train``.
    options
        Rounds, schedule, momentum, fit, training.
    plan_options
        ``held_out``, ``solver``, ``time_limit_s`` and ``gap`` are taken.
    criterion
        Name, or a criterion with parameters. One without data is computed anew before each cut, and so is
        one that gives floors, from all batches: scores of others build up while the model is trained.
    loss
        Task loss of scoring and training; cross entropy by default.
    teacher
        Model to distil from while training, such as ``model`` itself.
    evaluate
        Called with the dense model, and with the model after each cut, each fit and each training.
    checkpoint
        Directory in which every stage is written: a run that was interrupted goes on from it.
    minimum
        Least share of each group of the original to keep.
    progress
        Called with what is done, and how much of it.
    plan_parameters
        More parameters of :func:`hwprune.plan`: ``tables``, ``threads``, ``profile``, ``checks``, ...

    Raises
    ------
    BudgetError
        A budget cannot be read or reached.
    BudgetMetError
        The dense model meets the last budget.
    UsageError
        Something that is not understood in rounds is asked for.
    RepairError
        A fit or the training fails, or the checkpoint is of another run.
    KeyboardInterrupt
        After Ctrl-C; with ``checkpoint``, the same call goes on from there.
    """
    options = options or IterativeOptions()
    if isinstance(train, Iterator):
        raise UsageError(
            "the training batches can be read only once, and every round reads them",
            hint="give a DataLoader or a list of batches, not a generator",
        )
    asked = Asked(
        model=model,
        inputs=example_inputs,
        target=target,
        latency=latency,
        train=train,
        data=_scored(train if data is None else data, options.batches, plan_parameters.get("seed", 0)),
        separate=data is not None,
        options=options,
        plan_options=_understood(plan_options or PlanOptions(), plan_parameters),
        criterion=criterion if isinstance(criterion, Criterion) else get_criterion(criterion),
        loss=loss,
        teacher=teacher,
        evaluate=evaluate,
        minimum=minimum,
        more=plan_parameters,
    )
    return IterativeRun(asked, checkpoint, progress).run()


def _scored(data: Iterable[Any], limit: int, seed: int) -> list[Any]:
    """The batches that are scored; a run that is taken up draws the same ones."""
    before = rng_state(cuda=False)
    seed_all(seed)
    try:
        return list(itertools.islice(data, limit))
    finally:
        set_rng_state(before)


def _understood(options: PlanOptions, more: dict[str, Any]) -> PlanOptions:
    """Refuse what is relative to the dense model, which later rounds do not know."""
    if isinstance(options.held_out, Iterator):
        # Every round reads them.
        options = replace(options, held_out=list(itertools.islice(options.held_out, BATCHES)))
    taken = PlanOptions(
        held_out=options.held_out, solver=options.solver, time_limit_s=options.time_limit_s, gap=options.gap
    )
    if options != taken:
        raise UsageError(
            "pruning in rounds takes held_out, solver, time_limit_s and gap of the plan options only",
            hint="leave the others out, or prune in one go with hwprune.prune",
        )
    refused = sorted({"submodule", "options", "data"} & more.keys())
    if refused:
        raise UsageError(f"pruning in rounds takes no {', '.join(refused)}", hint="leave it out")
    return taken
