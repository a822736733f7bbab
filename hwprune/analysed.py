"""From a model to what can be planned for and cut: captured, and its channels in groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from hwprune.capture import capture
from hwprune.capture.captured import Captured
from hwprune.capture.part import Part, open_part
from hwprune.dependency import analyse
from hwprune.dependency.freeze import freeze
from hwprune.dependency.groups import Dependencies
from hwprune.errors import DependencyError, UsageError
from hwprune.solve.plan import Plan
from hwprune.surgery.part import shared_outside


@dataclass(frozen=True)
class Analysed:
    """A model, or a submodule of one (``part``), captured and analysed."""

    model: nn.Module
    inputs: tuple[Any, ...]
    captured: Captured
    deps: Dependencies
    part: Part | None

    @classmethod
    def open(
        cls,
        model: nn.Module,
        example_inputs: Sequence[Any] | torch.Tensor,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        submodule: str | None = None,
        inside_heads: Sequence[str] = (),
        prune_outputs: bool = False,
    ) -> Self:
        """Capture and analyse.

        Raises
        ------
        CaptureError
            The model or submodule cannot be exported, or does not accept the inputs.
        DependencyError
            Nothing can be pruned; the message holds the ledger.
        UsageError
            A pattern matches no group, there is no such submodule, or its outputs are to be pruned.
        """
        if submodule is not None and prune_outputs:
            raise UsageError(
                f"the outputs of submodule {submodule!r} are what the rest of the model reads",
                hint="prune them only in a model that is taken as a whole",
            )
        inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
        part = None if submodule is None else open_part(model, inputs, submodule)
        captured = capture(model, inputs) if part is None else capture(part.module, part.inputs)
        deps = analyse(
            captured,
            include=tuple(include),
            exclude=tuple(exclude),
            inside_heads=tuple(inside_heads),
            prune_outputs=prune_outputs,
        )
        if part is not None:
            deps = freeze(deps, shared_outside(model, part, deps))
        if not deps.groups:
            raise _nothing(deps)
        return cls(model, inputs, captured, deps, part)

    @classmethod
    def of_plan(
        cls,
        model: nn.Module,
        example_inputs: Sequence[Any] | torch.Tensor,
        plan: Plan,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Self:
        """As :meth:`open`, with what the plan's analysis was asked for; patterns given here come first."""
        return cls.open(
            model,
            example_inputs,
            include=include or plan.include,
            exclude=exclude or plan.exclude,
            submodule=plan.submodule,
            inside_heads=plan.inside_heads,
            prune_outputs=plan.prune_outputs,
        )


def analyse_model(
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    submodule: str | None = None,
    inside_heads: Sequence[str] = (),
    prune_outputs: bool = False,
) -> tuple[Captured, Dependencies]:
    """Capture a model and find its groups of channels; for the errors see :meth:`Analysed.open`."""
    found = Analysed.open(
        model,
        example_inputs,
        include=include,
        exclude=exclude,
        submodule=submodule,
        inside_heads=inside_heads,
        prune_outputs=prune_outputs,
    )
    return found.captured, found.deps


def _nothing(deps: Dependencies) -> DependencyError:
    if not deps.ledger:
        return DependencyError(
            "this model has no layer with channels, so there is nothing to prune",
            hint="give a model with convolution or linear layers",
        )
    lines = "\n".join(f"  {r.name} ({r.channels} channels): {r.reason}" for r in deps.ledger)
    return DependencyError(
        f"no channel of this model can be pruned:\n{lines}",
        hint="include more layers, or change what the reasons name",
    )
