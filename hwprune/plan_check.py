"""Is a plan, as the file says it, one for this model and this target, and what will it take?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from hwprune.dependency.blocks import find_blocks
from hwprune.errors import HwpruneError, KernelMissError, TableError
from hwprune.latency.fusion import fuse
from hwprune.latency.predict import LatencyModel
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.site import Site
from hwprune.planner.prediction import Prediction, predict
from hwprune.planner.residual import Residual
from hwprune.planner.widths import group_multiple
from hwprune.planner.workbench import Progress, Workbench, measure_profile, silent
from hwprune.pruned import Subject
from hwprune.solve.plan import Plan, model_fingerprint
from hwprune.solve.plan_fit import misfits
from hwprune.solve.plan_words import amount
from hwprune.surgery.blocks import choose_blocks
from hwprune.surgery.shortened import shorter_graph
from hwprune.target import Target, load_target

Level = Literal["good", "note", "bad"]

#: A sum of kernels this near to the plan's own is the same: tables are written with so many digits.
_SAME = 1e-6


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; ``bad`` is what a plan must not be, ``note`` what one should know."""

    about: str
    level: Level
    text: str


@dataclass(frozen=True)
class PlanCheck:
    """What a check found.

    Attributes
    ----------
    findings
        In the order in which they were looked at; a bad one about the model ends the check.
    prediction
        Latency by the present table, None where it does not tell.
    missing
        Labels of kernels that the table lacks.
    error
        Largest difference of the cut model from the masked original, relative to the output's scale;
        None where the cut failed.
    priced
        The plan with this prediction in the place of its own, None without one.
    """

    findings: tuple[Finding, ...]
    prediction: Prediction | None = None
    missing: tuple[str, ...] = ()
    error: float | None = None
    priced: Plan | None = None

    @property
    def good(self) -> bool:
        """Whether nothing bad was found."""
        return all(finding.level != "bad" for finding in self.findings)


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
    subject = Subject.open(
        model,
        example_inputs,
        include=plan.include,
        exclude=plan.exclude,
        submodule=plan.submodule,
        inside_heads=plan.inside_heads,
        prune_outputs=plan.prune_outputs,
    )
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
    return _Pricing(plan, subject, bench).check(findings, error, measure)


class _Pricing:
    """The plan's network and the dense one as kernels, on a target."""

    def __init__(self, plan: Plan, subject: Subject, bench: Workbench) -> None:
        captured, deps = subject.captured, subject.deps
        blocks = choose_blocks(find_blocks(captured, deps), plan.removed)
        graph, fewer = shorter_graph(captured, deps, blocks) if blocks else (captured.graph, deps)
        self.plan, self.bench = plan, bench
        self.fused, self.dense_fused = fuse(graph), bench.fused
        names = {group.name for group in fewer.groups}
        self.widths = {name: len(units) for name, units in plan.remaining.items() if name in names}
        self.dense_widths = {group.name: group.size for group in deps.groups}
        families = self.fused.families(fewer.extents)
        offered = {name: (width,) for name, width in self.widths.items()}
        self.model = LatencyModel(families, offered, untrusted=bench.model.untrusted)
        self.dense = bench.model

    def check(self, findings: list[Finding], error: float | None, measure: bool) -> PlanCheck:
        """Look for the kernels, price them, and compare with what the plan says."""
        findings += self._same_target()
        try:
            table = self._table(measure)
            missing = [spec.label() for spec in self.model.missing(self.widths, table)]
            findings.append(self._kernels(missing))
            measured = self._measured() if measure else None
            dense = self.dense.predict(self.dense_widths, table)
            own = self.model.predict(self.widths, table)
        except KernelMissError as failure:
            findings.append(Finding("kernels", "bad", failure.message))
            return PlanCheck(tuple(findings), missing=self._missing(), error=error)
        except TableError as failure:
            findings.append(Finding("table", "bad", failure.message))
            return PlanCheck(tuple(findings), error=error)
        if measured is None:
            residual = Residual.fit([dense], [self.plan.dense_ns])
            dense_ns = self.plan.dense_ns
        else:
            dense_ns, own_ns = measured
            residual = Residual.fit([dense, own], [dense_ns, own_ns])
        found = predict(self.model, self.widths, table, residual)
        said = self.plan.predicted_ns - self.plan.residual_ns
        if measured is None and abs(found.kernels_ns - said) <= _SAME * said:
            found = self._as_said(found)
        findings += self._latency(found, measured)
        return PlanCheck(tuple(findings), found, tuple(missing), error, self._priced(found, table, dense_ns))

    def _same_target(self) -> list[Finding]:
        plan, bench = self.plan, self.bench
        notes: list[Finding] = []
        if bench.target.name != plan.target:
            text = f"the plan is for {plan.target}, it is looked at on {bench.target.name}"
            notes.append(Finding("target", "note", text))
        elif bench.pipeline != plan.pipeline:
            text = f"kernels are compiled by pipeline {bench.pipeline} now, the plan was priced by {plan.pipeline}"
            notes.append(Finding("target", "note", text))
        return notes

    def _table(self, measure: bool) -> LatencyTable:
        if not measure:
            return self.bench.load_table()
        specs = [*self.dense.kernels(self.dense_widths), *self.model.kernels(self.widths)]
        return self.bench.measure_kernels(list({spec.digest(): spec for spec in specs}.values()))

    def _missing(self) -> tuple[str, ...]:
        table = self.bench.load_table()
        specs = [*self.dense.missing(self.dense_widths, table), *self.model.missing(self.widths, table)]
        return tuple(dict.fromkeys(spec.label() for spec in specs))

    def _kernels(self, missing: Sequence[str]) -> Finding:
        count = len({spec.digest() for spec in self.model.kernels(self.widths)})
        if not missing:
            return Finding("kernels", "good", f"all {count} are in table {self.bench.directory}")
        text = f"{len(missing)} of {count} are not in table {self.bench.directory}, such as {missing[0]}"
        return Finding("kernels", "note", text)

    def _measured(self) -> tuple[float, float]:
        """Dense network and the plan's, end to end, nanoseconds."""
        programs: Mapping[str, Program] = {
            "dense": self.dense_fused.shape_program(self.dense.families, self.dense_widths),
            "plan": self.fused.shape_program(self.model.families, self.widths),
        }
        times = self.bench.time_networks(programs)
        return times["dense"].median, times["plan"].median

    def _as_said(self, found: Prediction) -> Prediction:
        """Nothing has changed: what the plan says rests on more than the dense network alone."""
        plan, half = self.plan, (found.high_ns - found.low_ns) / 2
        low = plan.predicted_ns - half if plan.low_ns is None else plan.low_ns
        high = plan.predicted_ns + half if plan.high_ns is None else plan.high_ns
        return Prediction(
            plan.predicted_ns, low, high, found.kernels_ns, plan.residual_ns, found.interpolated
        )

    def _latency(self, found: Prediction, measured: tuple[float, float] | None) -> list[Finding]:
        plan = self.plan

        def say(ns: float) -> str:
            return amount(ns, plan.unit)

        text = f"{say(found.latency_ns)} (95 %: {say(found.low_ns)} to {say(found.high_ns)})"
        if found.latency_ns == plan.predicted_ns:
            findings = [Finding("latency", "good", f"{text}, as the plan says")]
        else:
            known = "the plan before it was edited said" if plan.edited else "the plan says"
            findings = [Finding("latency", "note", f"{text}; {known} {say(plan.predicted_ns)}")]
        if measured is not None:
            text = f"{say(measured[1])} end to end, the dense network {say(measured[0])}"
            findings.append(Finding("measured", "good", text))
        over, budget = found.low_ns > plan.budget_ns, say(plan.budget_ns)
        if measured is not None:
            over = measured[1] > plan.budget_ns * measured[0] / plan.dense_ns
        if over:
            findings.append(Finding("budget", "bad", f"misses the budget of {budget} ({plan.budget_asked})"))
        elif found.latency_ns > plan.budget_ns:
            findings.append(
                Finding("budget", "note", f"may miss the budget of {budget} ({plan.budget_asked})")
            )
        else:
            findings.append(Finding("budget", "good", f"keeps the budget of {budget} ({plan.budget_asked})"))
        return findings

    def _priced(self, found: Prediction, table: LatencyTable, dense_ns: float) -> Plan:
        bench, solver = self.bench, self.plan.solver
        by_hand = self.plan.edited and not solver.endswith(BY_HAND)
        return self.plan.model_copy(
            update={
                "target": bench.target.name,
                "pipeline": bench.pipeline,
                "table": bench.directory.name,
                "table_digest": table.manifest.sha256[:16],
                "unit": bench.target.unit,
                "provenance": bench.target.provenance,
                "dense_ns": dense_ns,
                "predicted_ns": found.latency_ns,
                "low_ns": found.low_ns,
                "high_ns": found.high_ns,
                "interpolated": found.interpolated,
                "residual_ns": found.latency_ns - found.kernels_ns,
                "solver": f"{solver}{BY_HAND}" if by_hand else solver,
                "edited": False,
            }
        )


#: After the name of the solver of a plan that was changed afterwards.
BY_HAND = ", then by hand"


def _inputs(plan: Plan, subject: Subject) -> list[Finding]:
    shapes = tuple(tuple(int(n) for n in x.shape) for x in subject.captured.example_inputs)
    images = [shape[-2:] for shape in shapes if len(shape) == 4]
    if plan.resolution is not None and images and plan.resolution not in images:
        text = f"the plan is for images of {_x(plan.resolution)}, the inputs are {', '.join(map(_x, shapes))}"
        return [Finding("inputs", "bad", text)]
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
