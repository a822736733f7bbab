"""A cut: a model and a plan for it become a smaller model, verified."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from hwprune.analysed import Analysed
from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.dependency.groups import Dependencies, Refusal
from hwprune.planner.loop import LoopResult
from hwprune.planner.workbench import Workbench, silent
from hwprune.repair.after_cut import Origin, RepairReport, repair_cut, warn_of_training
from hwprune.repair.options import RepairOptions
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import Plan
from hwprune.solve.plan_fit import other_size
from hwprune.surgery.blocks import choose_blocks
from hwprune.surgery.outcome import Outcome, outcomes
from hwprune.surgery.part import put_back, replace_module, verify_whole
from hwprune.surgery.sampler import sample
from hwprune.surgery.shortened import cut

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Planned:
    """A plan, and what was found out on the way to it.

    ``workbench`` holds graph, groups, kernel families and table; ``loop`` the solver's result and
    every end-to-end check; ``subject`` the model.
    """

    plan: Plan
    workbench: Workbench
    loop: LoopResult
    subject: Subject


@dataclass(frozen=True)
class Pruned:
    """A pruned model.

    Attributes
    ----------
    model
        Trainable ``nn.Module``: the user's own class where its code follows the new widths, else
        a ``torch.fx.GraphModule`` (the ledger then says why). With a submodule: a copy of the whole
        model that holds the pruned submodule.
    plan
        What is kept of every group, with predicted and dense latency and the optimality gap. Where
        it says ``edited``, these latencies are those of the plan before it was changed by hand.
    ledger
        Every layer that could not be pruned, and why.
    max_rel_error
        Largest difference from the masked original (in which the branches of removed blocks are
        zero), relative to the output's scale.
    captured, deps
        The graph and the groups that it was cut from; with a submodule, those of the submodule.
    planned
        How the plan came about; None when it was read from a file.
    original
        The model that was given; it was not changed.
    submodule
        Module path of the only part that was pruned, None for the whole model.
    removed
        Blocks that are gone.
    repairs
        What :meth:`repair` did to the weights since the cut; it is saved with the model.
    history
        What was done to the weights before that, as JSON values that are saved with the model, too.
    samplers
        Layers that read only some of the channels of their stream, from :meth:`sample`, by their path
        in :attr:`pruned_part`.
    """

    model: nn.Module
    plan: Plan
    ledger: tuple[Refusal, ...]
    max_rel_error: float
    captured: Captured
    deps: Dependencies
    planned: Planned | None
    original: nn.Module
    submodule: str | None = None
    removed: tuple[Block, ...] = ()
    repairs: tuple[RepairReport, ...] = ()
    history: tuple[Mapping[str, Any], ...] = ()
    samplers: Mapping[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])

    def sample(self, channels: Mapping[str, Sequence[int] | int]) -> Pruned:
        """Let layers at the entry of residual branches read fewer channels than their stream has.

        Channels are picked in front of the layer (He, Zhang and Sun, ICCV 2017), in a model of the
        result's own that is verified; :meth:`repair` it then. Picking takes time, too, of which the
        plan knows nothing: time the result.

        Parameters
        ----------
        channels
            Path of a layer (in :attr:`pruned_part`) to the input channels that it still reads, numbered
            as they are now, or how many: those of the largest weights. For the layers see
            :func:`hwprune.surgery.sampler.branch_entries`.

        Raises
        ------
        SurgeryError, VerificationError
            There is no such layer, it is of another kind, has no such channels, or is used otherwise.
        """
        inputs = self.captured.example_inputs
        smaller, samplers, error = sample(self.pruned_part, channels, inputs)
        model = smaller if self.submodule is None else replace_module(self.model, self.submodule, smaller)
        error, both = max(error, self.max_rel_error), {**self.samplers, **samplers}
        return replace(self, model=model, samplers=both, max_rel_error=error)

    def repair(
        self,
        data: Iterable[Any],
        options: RepairOptions | None = None,
        *,
        progress: Callable[[str, int, int], None] = silent,
    ) -> Pruned:
        """Fit the layers behind the cut to the original's outputs, and measure BatchNorm again.

        No training and no labels: a matter of seconds to minutes; do it before training, not after: the
        fitted layers do not go with BatchNorms that were trained. :attr:`model` is changed in place, and
        is as it was if anything fails; it then differs from the masked original on purpose.

        Parameters
        ----------
        data
            Batches of the model's inputs, a few hundred examples like those of the training.
        options
            Least squares by default.
        progress
            Told before each layer.

        Raises
        ------
        RepairError
            No data, or data that are not finite or do not fit the model.
        """
        warn_of_training(self.history)
        cut = self.captured, self.deps, self.plan.remaining, self.removed
        origin = Origin(self.original, *cut, self.submodule, self.samplers)
        report = repair_cut(self.model, origin, data, options, progress=progress)
        return replace(self, repairs=(*self.repairs, report))

    @property
    def pruned_part(self) -> nn.Module:
        """The module that was cut: :attr:`model`, or the submodule in it."""
        return self.model if self.submodule is None else self.model.get_submodule(self.submodule)

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """Requested against achieved channels, per group and per layer that could not be pruned."""
        rows = outcomes(self.captured, self.deps, self.plan.remaining, self.pruned_part)
        gone = {group.name for group in self.plan.groups if group.block is not None}
        return tuple(
            replace(row, requested=0, achieved=row.achieved or 0) if row.name in gone else row for row in rows
        )


@dataclass(frozen=True)
class Subject(Analysed):
    """What can be cut by a plan."""

    def cut(self, plan: Plan, planned: Planned | None = None) -> Pruned:
        """Cut by a plan and verify against the masked original.

        Blocks that the plan removes go first; channels are then cut from what is left. A plan that
        was edited by hand is cut and verified like any other, with a warning: what it predicts
        is not its own.

        Raises
        ------
        PlanError
            The plan was made for another model, or does not fit the blocks of this one.
        VerificationError
            The cut model does not equal the masked original.
        """
        captured, deps, part = self.captured, self.deps, self.part
        sizes = {g.name: g.size for g in deps.groups}
        found = find_blocks(captured, deps) if plan.removed else ()
        plan.check(sizes, model_fingerprint(captured.model), found)
        resized = other_size(plan.resolution, [x.shape for x in captured.example_inputs])
        if resized is not None:
            _log.warning("%s: what it predicts holds for the former only", resized)
        if plan.edited:
            _log.warning(
                "the plan was edited by hand: the latency of %.3f ms that it predicts is not its own until"
                " `hwprune plan check` has priced it",
                plan.predicted_ns / 1e6,
            )
        blocks = choose_blocks(found, plan.removed)
        done = cut(captured, deps, plan.remaining, blocks)
        model, error = done.model, done.error
        ledger = list(done.ledger)
        if done.reason is not None:
            ledger.append(Refusal("model" if part is None else part.path, 0, done.reason))
        if part is not None:
            model = put_back(self.model, part, model)
            if part.failure is None:
                error = max(error, verify_whole(self.model, part, model, done.reference, self.inputs))
            else:
                why = f"only this submodule was verified: the whole model does not run ({part.failure})"
                ledger.append(Refusal(part.path, 0, why))
        path = None if part is None else part.path
        return Pruned(model, plan, tuple(ledger), error, captured, deps, planned, self.model, path, blocks)
