"""The stages of pruning in rounds, and the order that they come in."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from hwprune.errors import RepairError, VerificationError
from hwprune.importance.modes import in_mode
from hwprune.planner.limits.lazy import solve_lazily
from hwprune.planner.outcome import Begun
from hwprune.planner.pareto import least_of
from hwprune.planner.workbench import Progress
from hwprune.planning.asked import Asked
from hwprune.planning.floors import hold_at
from hwprune.planning.keeper import Kept, ScoreKeeper, refresh
from hwprune.planning.plans import solve_for
from hwprune.planning.prepare import prepare
from hwprune.planning.prepared import Prepared
from hwprune.planning.rounds import Entries, Round, RoundState
from hwprune.planning.schedules import shares
from hwprune.pruned import Pruned, Subject
from hwprune.repair.finetune import finetune
from hwprune.repair.progress import Progress as Trained
from hwprune.repair.rng import loader_generators, rng_state, seed_all, set_rng_state
from hwprune.repair.state import copy_tensors, model_tensors
from hwprune.solve.budget import parse_budget
from hwprune.solve.compose import compose
from hwprune.solve.solvers import solve

_log = logging.getLogger(__name__)


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
    dense_metric
        What ``evaluate`` says of the dense model; None without it.
    """

    pruned: Pruned
    rounds: tuple[Round, ...]
    dense_metric: float | None = None


class IterativeRun:
    """The run itself; with a ``directory`` every stage is written there."""

    def __init__(self, asked: Asked, directory: Path | None, progress: Progress) -> None:
        asked.check()
        self.asked, self.options, self.progress = asked, asked.options, progress
        momentum = asked.options.momentum
        self.keeper = ScoreKeeper(asked.criterion, asked.data, momentum=momentum, loss=asked.loss)
        self.original = asked.open(asked.model)
        self.sizes = {group.name: group.size for group in self.original.deps.groups}
        identity = {} if directory is None else asked.identity(self.original)
        self.state = RoundState(directory, identity, loader_generators(asked.train))

    def run(self) -> Iterated:
        """From where it is to the end."""
        current = self._resumed()
        while self.state.number < self.options.rounds:
            if not self.state.cut:
                current = self._cut(current)
            self._trained(current)
        return self._finished(current)

    def _resumed(self) -> nn.Module:
        """The model of the stage that was reached last."""
        if not self.state.recall():
            self.state.dense_metric = self._metric(self.asked.model)
            return self.asked.model
        self.keeper.average = dict(self.state.average)
        if self.state.plan is None:
            return self.asked.model
        _log.info("resuming round %d of %d", self.state.number + 1, self.options.rounds)
        current = self.original.cut(self.state.plan).model
        copy_tensors(current, self.state.weights, source=str(self.state.path))
        return current

    def _cut(self, current: nn.Module) -> nn.Module:
        """Plan for the model of now to this round's budget, and cut it."""
        state, number = self.state, self.state.number
        self.progress(f"round {number + 1}: plan", number, self.options.rounds)
        prepared = prepare(
            current,
            self.asked.inputs,
            self.asked.target,
            None,
            options=replace(self.asked.plan_options, layers=self._least()),
            criterion=Kept(self.keeper),
            minimum=self.asked.minimum,
            loss=self.asked.loss,
            progress=self.progress,
            **self.asked.more,
        )
        begun = prepared.first.loop.begin()
        now_ns, unit = begun.dense.median, prepared.first.bench.target.unit
        if state.dense_ns is None:
            state.dense_ns = now_ns
            last = parse_budget(self.asked.latency, now_ns, unit=unit)
            state.shares = shares(self.options.schedule, last / now_ns, self.options.rounds)
            _require_reachable(prepared, begun, last)
        share = state.shares[number]
        budget_ns = share * state.dense_ns
        if budget_ns >= now_ns:
            _log.info("round %d: cut deeper before than this round asks for", number + 1)
            widths = self._widths()
            state.rounds.append(Round(number + 1, share, None, widths, self._metric(current)))
        else:
            planned = solve_for(prepared, f"{100.0 * budget_ns / now_ns:.12g}%", begun=begun)
            pruned = planned.subject.cut(planned.plan, planned)
            current = pruned.model
            self.keeper.keep(planned.plan.keep)
            state.plan = planned.plan if state.plan is None else compose(state.plan, planned.plan)
            latency, widths = planned.plan.predicted_ns, planned.plan.widths
            done = Round(number + 1, share, latency, widths, self._metric(current))
            state.rounds.append(self._fitted(pruned, done))
        state.cut = True
        state.remember(current, self.keeper.average)
        return current

    def _fitted(self, pruned: Pruned, done: Round) -> Round:
        """Fit layers, in place, to the model as it was before this cut: trained so far."""
        options, number = self.options.repair, self.state.number
        if options is None:
            return done
        # Every round draws examples and positions anew, and the same ones when it is taken up again.
        options = options.model_copy(update={"seed": options.seed + number})
        before = rng_state()
        seed_all(options.seed)
        try:
            (report,) = pruned.repair(
                self.asked.train,
                options,
                progress=lambda what, at, of: self.progress(f"round {number + 1}: {what}", at, of),
            ).repairs
        finally:
            set_rng_state(before)
        return replace(done, fitted_metric=self._metric(pruned.model), fit=report.to_dict())

    def _widths(self) -> dict[str, int]:
        """Units of every group now."""
        return self.state.rounds[-1].widths if self.state.rounds else self.sizes

    def _least(self) -> dict[str, tuple[float, float]]:
        """Shares of the groups of now that are the least share of those of the original."""
        return {
            name: (min(1.0, self.asked.minimum * self.sizes[name] / width), 1.0)
            for name, width in self._widths().items()
        }

    def _trained(self, current: nn.Module) -> None:
        """Train the model of now; its scores build up."""
        state, number = self.state, self.state.number
        last = number + 1 == self.options.rounds
        training = self.asked.last if last else self.options.finetune
        # Every round draws, drops out and augments anew.
        training = training.model_copy(update={"seed": training.seed + number})
        if current is self.asked.model:
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
                subject = self.asked.open(current)
            entries.add(step.step, self.keeper.minibatch(subject, step.step // self.options.every))

        finetune(
            current,
            self.asked.train,
            options=training,
            teacher=self.asked.teacher,
            loss=self.asked.loss,
            evaluate=self.asked.evaluate if training.keep_best else None,
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
        if self.asked.evaluate is None:
            return None
        with torch.no_grad(), in_mode(model, training=False):
            return float(self.asked.evaluate(model))

    def _finished(self, current: nn.Module) -> Iterated:
        """The original, cut once by the plan of all rounds, with the weights that were trained."""
        plan = self.state.plan
        assert plan is not None
        rounds = self.options.rounds
        plan = plan.model_copy(
            update={"budget_asked": f"{self.asked.latency} in {rounds} round{'s' * (rounds > 1)}"}
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
        record = {
            "options": self.options.model_dump(mode="json"),
            "dense_metric": self.state.dense_metric,
            "rounds": [asdict(each) for each in self.state.rounds],
        }
        pruned = replace(pruned, history=(record,))
        return Iterated(pruned, tuple(self.state.rounds), self.state.dense_metric)


def _require_reachable(prepared: Prepared, begun: Begun, budget_ns: float) -> None:
    """Refuse a last budget that no plan for the dense model meets, before the trainings on the way to it."""
    loop = prepared.first.loop
    # Floors of the criterion are those of the dense model; later rounds find their own, lower ones.
    hold_at(prepared, prepared.harm)
    problem = loop.problem(begun.table, begun.residual, math.inf)
    if least_of(problem) > budget_ns:
        # Says what can be reached, unless it finds a way after all.
        solve_lazily(problem.limited(budget_ns), solve)


def _leaves(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]
