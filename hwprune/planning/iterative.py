"""Pruning in rounds: plan to an intermediate latency, cut, train a little, and again.

After Molchanov et al., ICLR 2017 and CVPR 2019, whose scores build up while the model is trained, with
measured latency in the place of a number of channels.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.errors import RepairError, UsageError, VerificationError
from hwprune.importance import get as get_criterion
from hwprune.importance.modes import in_mode
from hwprune.importance.registry import Criterion, Loss
from hwprune.planner.options import PlanOptions
from hwprune.planner.workbench import Progress, silent
from hwprune.planning.keeper import ScoreKeeper, refresh
from hwprune.planning.plans import solve_for
from hwprune.planning.prepare import prepare
from hwprune.planning.rounds import Entries, Round, RoundState
from hwprune.planning.schedules import shares
from hwprune.pruned import Pruned, Subject
from hwprune.repair.finetune import finetune
from hwprune.repair.options import FinetuneOptions
from hwprune.repair.progress import Progress as Trained
from hwprune.repair.run import Evaluate
from hwprune.repair.state import copy_tensors, model_tensors
from hwprune.solve.budget import parse_budget
from hwprune.solve.compose import compose
from hwprune.solve.plan import model_fingerprint
from hwprune.target import Target

_log = logging.getLogger(__name__)


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
    finetune: FinetuneOptions = FinetuneOptions(epochs=1)
    final: FinetuneOptions | None = None


@dataclass(frozen=True)
class Iterated:
    """What came out, and how.

    Attributes
    ----------
    pruned
        The model, trained, with one plan for all cuts together: it is saved, loaded and compiled like
        any other.
    rounds
        One record per round.
    """

    pruned: Pruned
    rounds: tuple[Round, ...]


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
    schedule has for it. Training changes nothing of a cut, which is verified before it begins.

    Parameters
    ----------
    model, example_inputs, target
        As for :func:`hwprune.plan`.
    latency
        Budget after the last round.
    train
        Re-iterable training batches.
    data
        Batches that are scored; default: those of ``train``.
    options
        Rounds, schedule, momentum, training.
    plan_options
        ``held_out``, ``solver``, ``time_limit_s`` and ``gap`` are taken.
    criterion
        Name, or a criterion with parameters. One without data is computed anew before each cut.
    loss
        Task loss of scoring and training; cross entropy by default.
    teacher
        Model to distil from while training, such as ``model`` itself.
    evaluate
        Called with the model after each cut and each training.
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
        The training fails, or the checkpoint is of another run.
    KeyboardInterrupt
        After Ctrl-C; with ``checkpoint``, the same call goes on from there.
    """
    options = options or IterativeOptions()
    run = _Run(
        model=model,
        inputs=example_inputs,
        target=target,
        latency=latency,
        train=train,
        options=options,
        plan_options=_understood(plan_options or PlanOptions(), plan_parameters),
        loss=loss,
        teacher=teacher,
        evaluate=evaluate,
        minimum=minimum,
        progress=progress,
        more=plan_parameters,
        criterion=criterion if isinstance(criterion, Criterion) else get_criterion(criterion),
        data=list(itertools.islice(train if data is None else data, options.batches)),
        directory=checkpoint,
    )
    return run.run()


def _understood(options: PlanOptions, more: dict[str, Any]) -> PlanOptions:
    """Refuse what is relative to the dense model, which later rounds do not know."""
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


class _Run:
    def __init__(
        self,
        *,
        model: nn.Module,
        inputs: Sequence[Any] | torch.Tensor,
        target: str | Path | Target,
        latency: str | float,
        train: Iterable[Any],
        options: IterativeOptions,
        plan_options: PlanOptions,
        loss: Loss | None,
        teacher: nn.Module | None,
        evaluate: Evaluate | None,
        minimum: float,
        progress: Progress,
        more: dict[str, Any],
        criterion: Criterion,
        data: list[Any],
        directory: Path | None,
    ) -> None:
        if not data and criterion.data_need != "none":
            raise UsageError(
                f"there are no batches for criterion {criterion.name}", hint="give data or train"
            )
        self.model, self.inputs, self.target, self.latency = model, inputs, target, latency
        self.train, self.options, self.plan_options = train, options, plan_options
        self.loss, self.teacher, self.evaluate = loss, teacher, evaluate
        self.minimum, self.progress, self.more = minimum, progress, more
        self.keeper = ScoreKeeper(criterion, data, momentum=options.momentum, loss=loss)
        self.original = self._open(model)
        self.sizes = {group.name: group.size for group in self.original.deps.groups}
        written = {
            "options": options.model_dump(mode="json"),
            "latency": str(latency),
            "criterion": criterion.name,
            "minimum": minimum,
            "model": model_fingerprint(self.original.captured.model),
        }
        self.state = RoundState(directory, written)

    def run(self) -> Iterated:
        current = self._resumed()
        while self.state.number < self.options.rounds:
            if not self.state.cut:
                current = self._cut(current)
            self._trained(current)
        return self._finished(current)

    def _open(self, model: nn.Module) -> Subject:
        chosen = {
            k: v for k, v in self.more.items() if k in ("include", "exclude", "inside_heads", "prune_outputs")
        }
        return Subject.open(model, self.inputs, **chosen)

    def _resumed(self) -> nn.Module:
        """The model of the stage that was reached last."""
        if not self.state.recall():
            return self.model
        self.keeper.average = dict(self.state.average)
        if self.state.plan is None:
            return self.model
        _log.info("resuming round %d of %d", self.state.number + 1, self.options.rounds)
        current = self.original.cut(self.state.plan).model
        copy_tensors(current, self.state.weights, source=str(self.state.path))
        return current

    def _cut(self, current: nn.Module) -> nn.Module:
        """Plan for the model of now to this round's budget, and cut it."""
        state, number = self.state, self.state.number
        self.progress(f"round {number + 1}: plan", number, self.options.rounds)
        subject = self.original if current is self.model else self._open(current)
        prepared = prepare(
            current,
            self.inputs,
            self.target,
            None,
            options=replace(self.plan_options, layers=self._least(subject)),
            criterion=self.keeper.current(subject),
            minimum=self.minimum,
            loss=self.loss,
            progress=self.progress,
            **self.more,
        )
        if len(prepared.stations) > 1:
            raise UsageError("pruning in rounds is for one target", hint="prune for the targets one by one")
        begun = prepared.first.loop.begin()
        now_ns, unit = begun.dense.median, prepared.first.bench.target.unit
        if state.dense_ns is None:
            state.dense_ns = now_ns
            last = parse_budget(self.latency, now_ns, unit=unit)
            state.shares = shares(self.options.schedule, last / now_ns, self.options.rounds)
        share = state.shares[number]
        budget_ns = share * state.dense_ns
        if budget_ns >= now_ns:
            _log.info("round %d: cut deeper before than this round asks for", number + 1)
            widths = {group.name: group.size for group in subject.deps.groups}
            state.rounds.append(Round(number + 1, share, None, widths, self._metric(current)))
        else:
            planned = solve_for(prepared, f"{100.0 * budget_ns / now_ns:.12g}%", begun=begun)
            current = planned.subject.cut(planned.plan, planned).model
            self.keeper.keep(planned.plan.keep)
            state.plan = planned.plan if state.plan is None else compose(state.plan, planned.plan)
            latency, widths = planned.plan.predicted_ns, planned.plan.widths
            state.rounds.append(Round(number + 1, share, latency, widths, self._metric(current)))
        state.cut = True
        state.remember(current, self.keeper.average)
        return current

    def _least(self, subject: Subject) -> dict[str, tuple[float, float]]:
        """Shares of the groups of now that are the least share of those of the original."""
        return {
            group.name: (min(1.0, self.minimum * self.sizes.get(group.name, group.size) / group.size), 1.0)
            for group in subject.deps.groups
        }

    def _trained(self, current: nn.Module) -> None:
        """Train the model of now; its scores build up."""
        state, number = self.state, self.state.number
        last = number + 1 == self.options.rounds
        training = (self.options.final or self.options.finetune) if last else self.options.finetune
        if current is self.model:
            raise RepairError(
                f"round {number + 1} has cut nothing, and training would change the model that was given",
                hint="ask for fewer rounds or another schedule",
            )
        entries = Entries(state.scores_path())
        subject: Subject | None = None

        def watch(step: Trained) -> None:
            nonlocal subject
            self.progress(f"round {number + 1}: train", step.step, step.steps)
            if last or not self.keeper.builds_up or step.step % self.options.every:
                return
            if subject is None or not refresh(subject, current):
                subject = self._open(current)
            entries.add(step.step, self.keeper.minibatch(subject, step.step // self.options.every))

        finetune(
            current,
            self.train,
            options=training,
            teacher=self.teacher,
            loss=self.loss,
            progress=watch,
            checkpoint=state.training_path(),
        )
        self.keeper.take(entries.in_order())
        state.rounds[-1] = replace(state.rounds[-1], trained_metric=self._metric(current))
        finished = replace(state)
        state.number, state.cut = number + 1, False
        state.remember(current, self.keeper.average)
        finished.forget_training()

    def _metric(self, model: nn.Module) -> float | None:
        if self.evaluate is None:
            return None
        with torch.no_grad(), in_mode(model, training=False):
            return float(self.evaluate(model))

    def _finished(self, current: nn.Module) -> Iterated:
        """The original, cut once by the plan of all rounds, with the weights that were trained."""
        plan = self.state.plan
        assert plan is not None
        rounds = self.options.rounds
        plan = plan.model_copy(
            update={"budget_asked": f"{self.latency} in {rounds} round{'s' * (rounds > 1)}"}
        )
        pruned = self.original.cut(plan)
        copy_tensors(pruned.model, model_tensors(current), source="the trained model")
        inputs = self.original.inputs
        with torch.no_grad(), in_mode(current, training=False), in_mode(pruned.model, training=False):
            found, expected = pruned.model(*inputs), current(*inputs)
        for a, b in zip(_leaves(found), _leaves(expected), strict=True):
            if not torch.allclose(a, b, rtol=1e-4, atol=1e-5):
                raise VerificationError(
                    "the model that is cut once does not equal the one that was cut in rounds",
                    hint="this is a fault of hwprune; prune in one go",
                )
        return Iterated(pruned, tuple(self.state.rounds))


def _leaves(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
