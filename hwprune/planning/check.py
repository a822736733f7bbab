"""Is a plan, as the file says it, one for this model and this target, and what will it take?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hwprune.dependency.blocks import find_blocks
from hwprune.errors import HwpruneError
from hwprune.measure.site import Site
from hwprune.planner.widths import group_multiple
from hwprune.planner.workbench import Progress, Workbench, measure_profile, silent
from hwprune.planning.findings import Finding, PlanCheck
from hwprune.planning.price import Pricing
from hwprune.pruned import Subject
from hwprune.solve.fingerprint import model_fingerprint
from hwprune.solve.plan import Plan
from hwprune.solve.plan_fit import misfits, other_size
from hwprune.target import Target, load_target


def check_plan(
    plan: Plan,
    model: nn.Module,
    example_inputs: Sequence[Any] | torch.Tensor,
    target: str | Path | Target | None = None,
    *,
    profile: str = "quick",
    tables: Path | None = None,
    site: Site | None = None,
    measure: bool = False,
    progress: Progress = silent,
) -> PlanCheck:
    """Compare a plan with a model, price it by the present table, cut by it and verify the cut.

    Parameters
    ----------
    plan
        From a file, edited by hand or not.
    model, example_inputs
        As for :func:`hwprune.apply_plan`; the model is not changed.
    target
        Default: the one that the plan names.
    profile
        Care of measurements; ``quick`` also takes rows that were timed while the machine was disturbed.
    measure
        Measure kernels that the table lacks, and time the plan's network beside the dense one. Otherwise
        nothing is measured.

    Raises
    ------
    CaptureError
        The model cannot be exported, or does not accept the inputs.
    DependencyError
        Nothing of it can be pruned.
    TargetError
        There is no such target.
    """
    subject = Subject.of_plan(model, example_inputs, plan)
    captured, deps = subject.captured, subject.deps
    sizes = {group.name: group.size for group in deps.groups}
    fingerprint = model_fingerprint(captured.model)
    found = find_blocks(captured, deps)
    wrong = misfits(plan.groups, plan.removed, plan.fingerprint, sizes, fingerprint, found)
    if wrong:
        lines = wrong.other_model or wrong.contradictions
        return PlanCheck(tuple(Finding("model", "bad", line) for line in lines))
    resolved = target if isinstance(target, Target) else load_target(target or plan.target)
    fits = f"{plan.model}: {len(plan.groups)} groups, {len(plan.removed)} of {len(found)} blocks removed"
    findings = [Finding("model", "good", fits), *_inputs(plan, subject), *_alignment(plan, subject, resolved)]
    try:
        error = subject.cut(plan.model_copy(update={"edited": False})).max_rel_error
        findings.append(Finding("cut", "good", f"equals the masked original (error {error:.1e})"))
    except HwpruneError as failure:
        error = None
        findings.append(Finding("cut", "bad", failure.message))
    bench = Workbench.open(
        captured,
        deps,
        resolved,
        profile=measure_profile(profile),
        tables=tables,
        site=site,
        progress=progress,
    )
    return Pricing(plan, bench).check(findings, error, measure)


def _inputs(plan: Plan, subject: Subject) -> list[Finding]:
    shapes = tuple(tuple(int(n) for n in x.shape) for x in subject.captured.example_inputs)
    wrong = other_size(plan.resolution, shapes)
    if wrong is not None:
        return [Finding("inputs", "bad", wrong)]
    if plan.inputs and shapes != plan.inputs:
        planned = ", ".join(map(_x, plan.inputs))
        text = f"the plan was priced for {planned}, it is looked at for {', '.join(map(_x, shapes))}"
        return [Finding("inputs", "note", text)]
    return []


def _x(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _alignment(plan: Plan, subject: Subject, target: Target) -> list[Finding]:
    graph = subject.captured.graph.graph
    odd: list[Finding] = []
    for group in plan.groups:
        multiple = group_multiple(subject.deps.group(group.name), graph, target)
        channels = group.width * group.channels_per_unit
        if channels % multiple and group.exempt is None:
            text = (
                f"{group.name} keeps {channels} channels, not a multiple of {multiple}, and gives no reason"
            )
            odd.append(Finding("alignment", "bad", text))
    exempt = sum(group.exempt is not None for group in plan.groups)
    return odd or [Finding("alignment", "good", f"all groups are aligned on {target.name}, {exempt} exempt")]
