"""What the template reads besides the data: sums, sentences, cards and drawings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hwprune.report import curves, plots, words
from hwprune.report.data import ReportData


@dataclass(frozen=True)
class Card:
    """One number of the first screen."""

    label: str
    value: str
    detail: str


def context(data: ReportData) -> dict[str, Any]:
    """Variables of the template."""
    dense, kept = sum(g.dense for g in data.groups), sum(g.kept for g in data.groups)
    kernels = data.kernels
    return {
        "data": data,
        "verdict": words.verdict(data),
        "cards": _cards(data),
        "latencies": [
            (name, m)
            for name, m in (
                ("dense", data.dense),
                ("dense", data.dense_predicted),
                ("pruned", data.predicted),
                ("pruned", data.measured),
            )
            if m is not None
        ],
        "interval": words.interval,
        "comparison_note": _comparison_note(data),
        "channels": {"dense": dense, "kept": kept, "fraction": kept / dense if dense else 1.0},
        "widest": max((g.dense for g in data.groups), default=1),
        "has_importance": any(g.importance_kept is not None for g in data.groups),
        # One kind is said once above a table; only mixed kinds need a word in every row.
        "kernel_kinds": " and ".join(dict.fromkeys(k.kind for k in kernels)),
        "contender_kinds": " and ".join(dict.fromkeys(c.kind for c in data.contenders)),
        "kernel_sums": {
            "dense": sum(k.dense_us for k in kernels),
            "pruned": sum(k.pruned_us or 0.0 for k in kernels),
        },
        "has_pruned_kernels": any(k.pruned_us is not None for k in kernels),
        "staircases": _staircases(data),
        "plots": _plots(data),
    }


def _plots(data: ReportData) -> dict[str, Any]:
    """The drawings by name; None where the data for one is missing."""
    from markupsafe import Markup

    accuracy = data.accuracy if data.accuracy is not None and data.accuracy.stages else None
    return {
        "latency": Markup(plots.latency(data)),
        "comparison": Markup(plots.comparison(data.contenders)) if data.contenders else None,
        "accuracy": Markup(plots.accuracy(accuracy)) if accuracy else None,
        "kernels_wide": Markup(curves.kernels(data.kernels, wide=True)) if data.kernels else None,
        "kernels_narrow": Markup(curves.kernels(data.kernels, wide=False)) if data.kernels else None,
    }


def _staircases(data: ReportData) -> list[dict[str, Any]]:
    from markupsafe import Markup

    multiples = {g.name: g.multiple for g in data.groups}
    return [
        {
            "stairs": s,
            "multiple": multiples.get(s.group, 1),
            "points": list(zip(s.widths, s.latency_us, s.low, s.high, strict=True)),
            "svg": Markup(curves.staircase(s, number, multiples.get(s.group, 1))),
        }
        for number, s in enumerate(data.staircases)
    ]


def _cards(data: ReportData) -> list[Card]:
    shipped = data.shipped
    latency, budget = words.apart(shipped.value_ms, data.budget_ms)
    around = f", {words.interval(shipped.low_ms, shipped.high_ms)}" if shipped.has_interval else ""
    cards = [Card("Latency, pruned", f"{latency}{words.SPACE}ms", f"{shipped.kind}{around}")]
    dense = words.dense_of_same_kind(data)
    if dense is not None:
        ratio = dense.value_ms / shipped.value_ms
        label, ratio = ("Speed-up", ratio) if ratio >= 1 else ("Slow-down", 1 / ratio)
        cards.append(Card(label, words.times(ratio), f"dense {words.ms(dense.value_ms)}, {dense.kind}"))
    used = shipped.value_ms / data.budget_ms
    cards.append(
        Card("Budget", f"{budget}{words.SPACE}ms", f"{words.percent(used)} used; asked “{data.budget_asked}”")
    )
    accuracy = data.accuracy
    if accuracy is not None and accuracy.final is not None:
        change = (
            "" if accuracy.dense is None else f"{_points(accuracy.final - accuracy.dense)} against dense, "
        )
        cards.append(Card("Accuracy", words.percent(accuracy.final), f"{change}{accuracy.dataset}"))
    if data.measured is not None:
        error = data.predicted.value_ms / data.measured.value_ms - 1
        detail = f"{words.ms(data.predicted.value_ms)} {data.predicted.kind}"
        cards.append(Card("Prediction error", words.signed_percent(error), detail))
    if data.groups:
        dense_channels, kept = sum(g.dense for g in data.groups), sum(g.kept for g in data.groups)
        detail = f"{words.count(kept)} of {words.count(dense_channels)}, {len(data.groups)} groups"
        cards.append(Card("Channels kept", words.percent(kept / dense_channels), detail))
    if data.max_rel_error is not None:
        cards.append(
            Card(
                "Against PyTorch", words.number(data.max_rel_error), "largest relative error, compiled module"
            )
        )
    if data.solver is not None and data.solver.gap is not None:
        cards.append(Card("Optimality gap", words.percent(data.solver.gap, 2), f"proven, {data.solver.name}"))
    return cards


def _comparison_note(data: ReportData) -> str:
    ahead = [c.name for c in data.contenders if c.ratio < 1]
    return f"Faster than the pruned module: {', '.join(ahead)}." if ahead else ""


def _points(difference: float) -> str:
    return words.signed_percent(difference).replace("%", "points")
