"""A model that was cut, at once or in rounds, on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwprune.cli.common import print_table, say

if TYPE_CHECKING:
    from hwprune.planning.iterating import Iterated
    from hwprune.pruned import Pruned


def cut_data(pruned: Pruned, directory: Path) -> dict[str, Any]:
    """For ``--json``: what was written to ``directory``, and what became of every layer."""
    return {
        "directory": str(directory),
        "class": type(pruned.model).__name__,
        "max_rel_error": pruned.max_rel_error,
        "edited": pruned.plan.edited,
        "parameters": _parameters(pruned),
        "groups": [vars(outcome) for outcome in pruned.outcomes if outcome.reason is None],
        "ledger": [{"name": r.name, "channels": r.channels, "reason": r.reason} for r in pruned.ledger],
    }


def cut_sentence(pruned: Pruned, directory: Path) -> str:
    """For people: what lies where."""
    return f"{type(pruned.model).__name__} with {_parameters(pruned):,} parameters in {directory}"


def rounds_data(found: Iterated, directory: Path) -> dict[str, Any]:
    """For ``--json``; latencies are in ``unit``, whatever their names say, accuracies in [0, 1]."""
    plan = found.pruned.plan
    return {
        **cut_data(found.pruned, directory),
        "target": plan.target,
        "unit": plan.unit,
        "criterion": plan.criterion,
        "budget_asked": plan.budget_asked,
        "budget_ns": plan.budget_ns,
        "dense_ns": plan.dense_ns,
        "predicted_ns": plan.predicted_ns,
        "accuracy_dense": found.dense_metric,
        "rounds": [
            {
                "round": each.number,
                "budget_ns": each.share * plan.dense_ns,
                "predicted_ns": each.latency_ns,
                "widths": each.widths,
                "accuracy_cut": each.cut_metric,
                "accuracy_fitted": each.fitted_metric,
                "layers_fitted": None if each.fit is None else len(each.fit["layers"]),
                "accuracy_trained": each.trained_metric,
            }
            for each in found.rounds
        ],
    }


def show_rounds(found: Iterated, directory: Path) -> None:
    """For people: a line per round."""
    plan = found.pruned.plan
    unit = "ms" if plan.unit == "ns" else f"million {plan.unit}"
    units = sum(group.size for group in plan.groups)
    stages = {"accuracy cut": [each.cut_metric for each in found.rounds]}
    if any(each.fit is not None for each in found.rounds):
        stages["accuracy fitted"] = [each.fitted_metric for each in found.rounds]
    stages["accuracy trained"] = [each.trained_metric for each in found.rounds]
    blank = ["-"] * (len(stages) - 1)
    rows: list[tuple[object, ...]] = [
        ("dense", "-", _time(plan.dense_ns), units, *blank, _accuracy(found.dense_metric))
    ]
    rows += [
        (
            str(each.number),
            _time(each.share * plan.dense_ns),
            "as before" if each.latency_ns is None else _time(each.latency_ns),
            sum(each.widths.values()),
            *map(_accuracy, accuracies),
        )
        for each, accuracies in zip(found.rounds, zip(*stages.values(), strict=True), strict=True)
    ]
    header = ("round", f"budget {unit}", f"predicted {unit}", "units", *stages)
    print_table(f"{plan.model} on {plan.target}, by {plan.criterion}", header, rows)
    say(f"{cut_sentence(found.pruned, directory)}; the cut equals the masked original")


def _time(ns: float) -> str:
    return f"{ns / 1e6:.3f}"


def _accuracy(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _parameters(pruned: Pruned) -> int:
    return sum(p.numel() for p in pruned.model.parameters())
