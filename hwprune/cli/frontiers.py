"""Frontiers and verdicts on the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwprune.cli.common import print_table, say

if TYPE_CHECKING:
    from hwprune.planner.verdict import Verdict
    from hwprune.planning.frontiers import Frontier


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """For ``--json``; latencies are in ``unit``, whatever their names say."""
    return {
        "target": verdict.target,
        "unit": verdict.unit,
        "helps": verdict.helps,
        "saving": verdict.saving,
        "bound_by": verdict.bound_by,
        "dense_ns": verdict.dense_ns,
        "least_ns": verdict.least_ns,
        "outside_ns": verdict.outside_ns,
        "text": verdict.text,
        "kernels": [vars(kernel) for kernel in verdict.kernels],
    }


def show_verdict(verdict: Verdict) -> None:
    """For people: one sentence per line."""
    for sentence in verdict.sentences():
        say(sentence)


def show_frontier(frontier: Frontier, path: Path, plot: Path | None) -> None:
    """For people: a line per point, beside what other methods keep at that latency."""
    curve = frontier.curve
    whole = curve.dense_value or 1.0
    rows: list[tuple[object, ...]] = []
    for place, result in zip(frontier.plan_paths(path), curve.points, strict=True):
        others = [
            max(
                (m.value / whole for m in marks if m.latency_ns <= result.predicted_ns * (1 + 1e-9)),
                default=None,
            )
            for marks in curve.rivals.values()
        ]
        rows.append(
            (
                str(place),
                f"{result.predicted_ns / 1e6:.3f}",
                "-" if result.measured_ns is None else f"{result.measured_ns / 1e6:.3f}",
                f"{result.solution.value / whole:.1%}",
                *("-" if share is None else f"{share:.1%}" for share in others),
                f"{result.solution.gap:.1e}",
            )
        )
    first = frontier.plans[0]
    unit = "ms" if first.unit == "ns" else f"million {first.unit}"
    header = ("plan", f"predicted {unit}", f"measured {unit}", "importance", *curve.rivals, "gap")
    print_table(f"frontier of {first.model} on {first.target}", header, rows)
    say(
        f"dense {curve.dense_ns / 1e6:.3f} {unit} measured; at least {curve.least_ns / 1e6:.3f} {unit} remain"
    )
    say(f"written to {path}" + ("" if plot is None else f" and {plot}"))


def show_stored(path: Path, curve: Mapping[str, Any]) -> None:
    """For people: the frontier in a file, a line per point."""
    scale, unit = (1e-6, "ms") if curve["unit"] == "ns" else (1e-6, f"million {curve['unit']}")

    def time(ns: float | None) -> str:
        return "-" if ns is None else f"{ns * scale:.3f}"

    rows: list[tuple[object, ...]] = [
        (
            str(path.parent / point["plan"]),
            time(point["predicted_ns"]),
            time(point["measured_ns"]),
            "-" if point["importance"] is None else f"{point['importance']:.1%}",
            f"{point['gap']:.1e}",
        )
        for point in curve["points"]
    ]
    header = ("plan", f"predicted {unit}", f"measured {unit}", "importance", "gap")
    print_table(f"frontier of {curve['model']} on {curve['target']}", header, rows)
    say(f"dense {time(curve['dense_ns'])} {unit} measured; at least {time(curve['least_ns'])} {unit} remain")
