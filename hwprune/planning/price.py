"""What a plan takes by the latency table as it is, or measured end to end."""

from __future__ import annotations

from collections.abc import Sequence

from hwprune.errors import KernelMissError, TableError
from hwprune.latency.table import LatencyTable
from hwprune.planner.prediction import Prediction, predict
from hwprune.planner.residual import Residual
from hwprune.planner.workbench import Workbench
from hwprune.planning.findings import Finding, PlanCheck
from hwprune.solve.plan import Plan
from hwprune.solve.plan_words import amount

#: A sum of kernels this near to the plan's own is the same: tables are written with so many digits.
_SAME = 1e-6
#: After the name of the solver of a plan that was changed afterwards.
BY_HAND = ", then by hand"


class Pricing:
    """The plan's network and the dense one as kernels, on a target."""

    def __init__(self, plan: Plan, bench: Workbench) -> None:
        self.plan, self.bench = plan, bench
        self.removed = frozenset(plan.removed)
        self.model, self.dense = bench.without(self.removed), bench.model

    def check(self, findings: list[Finding], error: float | None, measure: bool) -> PlanCheck:
        """Look for the kernels, price them, and compare with what the plan says."""
        findings += self._same_target()
        try:
            table = self._table(measure)
            missing = [spec.label() for spec in self.model.missing(self.plan.widths, table)]
            findings.append(self._kernels(missing))
            measured = self._measured() if measure else None
            dense = self.dense.predict(self.bench.dense, table)
            own = self.model.predict(self.plan.widths, table)
        except KernelMissError as failure:
            lacking = self._missing()
            text = f"{failure.message} ({len(lacking)} kernels of the plan and the dense network are missing)"
            findings.append(Finding("kernels", "bad", text))
            return PlanCheck(tuple(findings), missing=lacking, error=error)
        except TableError as failure:
            findings.append(Finding("table", "bad", failure.message))
            return PlanCheck(tuple(findings), error=error)
        dense_ns = self._dense_ns() if measured is None else measured[0]
        if dense_ns is None:
            findings.append(self._kernels_alone(own.ns, dense.ns))
            return PlanCheck(tuple(findings), missing=tuple(missing), error=error)
        if measured is None:
            residual = Residual.fit([dense], [dense_ns])
        else:
            residual = Residual.fit([dense, own], measured)
        found = predict(self.model, self.plan.widths, table, residual)
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
            text = f"the pipeline is {bench.pipeline} now, the plan was priced through {plan.pipeline}"
            notes.append(Finding("target", "note", text))
        return notes

    def _table(self, measure: bool) -> LatencyTable:
        if not measure:
            return self.bench.load_table()
        specs = [*self.dense.kernels(self.bench.dense), *self.model.kernels(self.plan.widths)]
        return self.bench.measure_kernels(list({spec.digest(): spec for spec in specs}.values()))

    def _dense_ns(self) -> float | None:
        """Latency of the dense network on this target, as far as the plan knows it."""
        if self.bench.target.name == self.plan.target:
            return self.plan.dense_ns
        known = {line.target: line.dense_ns for line in self.plan.fleet}
        return known.get(self.bench.target.name)

    def _kernels_alone(self, own_ns: float, dense_ns: float) -> Finding:
        unit = self.bench.target.unit
        share = f"{amount(own_ns, unit)}, {own_ns / dense_ns:.1%} of those of the dense network"
        text = f"kernels take {share}; what either takes end to end on this target can be measured"
        return Finding("latency", "note", text)

    def _missing(self) -> tuple[str, ...]:
        table = self.bench.load_table()
        specs = [*self.dense.missing(self.bench.dense, table), *self.model.missing(self.plan.widths, table)]
        return tuple(dict.fromkeys(spec.label() for spec in specs))

    def _kernels(self, missing: Sequence[str]) -> Finding:
        count = len({spec.digest() for spec in self.model.kernels(self.plan.widths)})
        if not missing:
            return Finding("kernels", "good", f"all {count} are in table {self.bench.directory}")
        text = f"{len(missing)} of {count} are not in table {self.bench.directory}, such as {missing[0]}"
        return Finding("kernels", "note", text)

    def _measured(self) -> tuple[float, float]:
        """Dense network and the plan's, end to end, nanoseconds."""
        programs = {
            "dense": self.bench.program_at(self.bench.dense),
            "plan": self.bench.program_at(self.plan.widths, self.removed),
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
