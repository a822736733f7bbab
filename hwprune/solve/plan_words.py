"""What a plan says, in words."""

from __future__ import annotations

from collections.abc import Mapping

from hwprune.solve.plan import Plan
from hwprune.solve.plan_parts import FleetLine, LimitLine, RemovedBlock

#: What is told in another unit than it is kept in; other units of latency are counts.
_SCALES: Mapping[str, tuple[float, str]] = {
    "ns": (1e-6, "ms"),
    "bytes": (1e-6, "MB"),
    "parameters": (1e-6, "M parameters"),
}


def amount(value: float, unit: str) -> str:
    """A quantity for people: ``12.34 ms``, ``5.1 MB``, ``1.2e+09 instructions``."""
    scale, name = _SCALES.get(unit, (1.0, unit))
    return f"{value * scale:.4g} {name}"


def plan_words(plan: Plan) -> dict[str, str]:
    """Everything but the groups and the ledger: what it is about, and what the plan says of it."""
    lines = {
        "model": f"{plan.model}{_part(plan)}, fingerprint {plan.fingerprint[:12]}",
        "inputs": _inputs(plan),
        "target": f"{plan.target}, pipeline {plan.pipeline}",
        "table": f"{plan.table} (digest {plan.table_digest}), {plan.provenance} {plan.unit}",
        "budget": f"{amount(plan.budget_ns, plan.unit)} ({plan.budget_asked})",
        "latency": latency_words(plan),
        "importance": _importance(plan),
        "solved": f"by {plan.solver} in {plan.solve_seconds:.3g} s, seed {plan.seed}",
    }
    lines |= {f"limit on {limit.name}": limit_words(limit) for limit in plan.limits}
    lines |= {f"on {line.target}": fleet_words(line) for line in plan.fleet}
    if plan.removed_blocks:
        lines["removed blocks"] = ", ".join(map(block_words, plan.removed_blocks))
    if plan.rechecked is not None:
        found = plan.rechecked
        uniform = "" if found.uniform is None else f", one common width {found.uniform:.4g}"
        tried = ", ".join(f"{name} {loss:.4g}" for name, loss in found.criteria.items())
        by = f"; by criteria: {tried}, of which {plan.criterion} was taken" if tried else ""
        lines["loss"] = (
            f"{found.loss:.4g} (dense {found.dense:.4g}{uniform}) on {found.examples} examples{by}"
        )
    if plan.judged_after is not None:
        lines["judged"] = f"by losses after the repair {plan.judged_after} of every cut"
    if plan.verdict is not None:
        lines["verdict"] = plan.verdict
    if plan.edited:
        lines["edited"] = "by hand: its predictions are not its own until `hwprune plan check` has priced it"
    return lines


def latency_words(plan: Plan) -> str:
    """``12.1 ms predicted (95 %: 11.7 ms to 12.6 ms), 48.9 % of the dense 24.8 ms``."""
    interval = ""
    if plan.low_ns is not None and plan.high_ns is not None:
        interval = f" (95 %: {amount(plan.low_ns, plan.unit)} to {amount(plan.high_ns, plan.unit)})"
    share = f"{plan.predicted_ns / plan.dense_ns:.1%} of the dense " if plan.dense_ns > 0 else "dense "
    guessed = "" if not plan.interpolated else f"; {plan.interpolated:.1%} of it interpolated"
    return (
        f"{amount(plan.predicted_ns, plan.unit)} predicted{interval}, "
        f"{share}{amount(plan.dense_ns, plan.unit)}{guessed}"
    )


def limit_words(limit: LimitLine) -> str:
    """``5.1 MB of at most 6 MB``."""
    used = amount(limit.used, limit.unit)
    if limit.at_most is None:
        return f"{used}, not limited"
    over = ", OVER" if limit.used > limit.at_most * (1 + 1e-9) else ""
    return f"{used} of at most {amount(limit.at_most, limit.unit)}{over}"


def fleet_words(line: FleetLine) -> str:
    """``9.1 ms predicted, dense 18 ms, budget 9.5 ms``."""
    asked = "" if line.budget_ns is None else f", budget {amount(line.budget_ns, line.unit)}"
    asked += "" if line.weight is None else f", weight {line.weight:g}"
    predicted, dense = amount(line.predicted_ns, line.unit), amount(line.dense_ns, line.unit)
    return f"{predicted} predicted, dense {dense}{asked}"


def block_words(block: RemovedBlock) -> str:
    """``layer3.1 (2.1% of the latency, 0.4% of the importance)``."""
    shares = {"latency": block.latency_share, "importance": block.importance_share}
    known = [f"{share:.1%} of the {what}" for what, share in shares.items() if share is not None]
    return f"{block.name} ({', '.join(known)})" if known else block.name


def _importance(plan: Plan) -> str:
    near = f"within {plan.gap:.1e} of the optimum"
    if plan.objective.least is None:
        return f"{plan.value:.6g} kept by {plan.criterion}, {near} (no plan keeps more than {plan.bound:.6g})"
    floor = plan.objective.asked or plan.objective.floor
    return f"{plan.value:.6g} kept by {plan.criterion}, floor {floor}; least {plan.objective.least}, {near}"


def _part(plan: Plan) -> str:
    return "" if plan.submodule is None else f", its submodule {plan.submodule}"


def _inputs(plan: Plan) -> str:
    shapes = ", ".join("x".join(map(str, shape)) for shape in plan.inputs) or "not written down"
    return shapes if plan.resolution is None else f"{shapes}, images of {'x'.join(map(str, plan.resolution))}"
