"""What the rows of :mod:`bench.plan_accuracy` add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OURS = "ours"
Row = dict[str, Any]


def rows_with_margins(cells: Sequence[Row]) -> list[Row]:
    """One row per task, network, share and method: means and spreads over the seeds, in points.

    ``margin`` stands in the rows of ours: over the best of the others by their means. Only seeds for
    which all methods are done count; a method that found no plan (no accuracy) does not take part.
    """
    rows: list[Row] = []
    places = dict.fromkeys((c["task"], c["model"], c["share"]) for c in cells)
    everybody = list(dict.fromkeys(c["method"] for c in cells))
    for task, model, share in places:
        here = [c for c in cells if (c["task"], c["model"], c["share"]) == (task, model, share)]
        lost = {c["method"] for c in here if c["accuracy"] is None}
        methods = [m for m in everybody if m not in lost]
        done = {m: {c["seed"]: c for c in here if c["method"] == m} for m in methods}
        seeds = sorted(set.intersection(*(set(found) for found in done.values())))
        if not seeds:
            continue
        means = {m: float(np.mean([100 * done[m][s]["accuracy"] for s in seeds])) for m in methods}
        before = {m: float(np.mean([100 * done[m][s]["before"] for s in seeds])) for m in methods}
        for method in methods:
            found = [done[method][s] for s in seeds]
            accuracies = [100 * c["accuracy"] for c in found]
            rows.append(
                {
                    "task": task,
                    "model": model,
                    "share": share,
                    "method": method,
                    "accuracy": means[method],
                    "spread": float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else 0.0,
                    "before": before[method],
                    "dense": float(np.mean([100 * c["dense"] for c in found])),
                    "predicted": float(np.mean([c["predicted"] for c in found])),
                    "measured": _mean([c["measured"] for c in found if c["measured"] is not None]),
                    "seeds": len(seeds),
                    "margin": _margin(method, means),
                    "before_margin": _margin(method, before),
                    "notes": [c["note"] for c in found],
                }
            )
    return rows


def _margin(method: str, means: dict[str, float]) -> float | None:
    others = [mean for name, mean in means.items() if name != OURS]
    return means[OURS] - max(others) if method == OURS and others else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures that count.

    ``margin_min`` is the least margin of ours, ``margin_over_spread_min`` the least of margin plus the
    spread of the two compared (0 or more: never below the best of the others by more than the
    spread), ``separable_margin_at_50`` the least margin on the separable network at half the latency and
    below (also by task), ``before_margin_mean`` the mean margin before any fine-tuning, and
    ``recheck_replaced`` the share of plans in which a rival took the place of the calibrated one.
    """
    mine = [row for row in rows if row["method"] == OURS]
    if not mine:
        return {}
    separable = [r for r in mine if r["model"] == "separable" and r["share"] <= 0.5]
    by_task: dict[str, list[float]] = {}
    for row in separable:
        by_task.setdefault(row["task"], []).append(row["margin"])
    notes = [note for row in mine for note in row["notes"]]
    return {
        "margin_min": min(row["margin"] for row in mine),
        "margin_mean": float(np.mean([row["margin"] for row in mine])),
        "margin_over_spread_min": min(_over_spread(row, rows) for row in mine),
        "separable_margin_at_50": min((r["margin"] for r in separable), default=None),
        **{f"separable_margin_at_50_{task}": min(found) for task, found in by_task.items()},
        "before_margin_mean": float(np.mean([row["before_margin"] for row in mine])),
        "recheck_replaced": float(np.mean([not note.startswith("calibrated") for note in notes])),
        "seeds": min(row["seeds"] for row in mine),
    }


def _over_spread(mine: Row, rows: Sequence[Row]) -> float:
    here = [
        r for r in rows if (r["task"], r["model"], r["share"]) == (mine["task"], mine["model"], mine["share"])
    ]
    best = max((r for r in here if r["method"] != OURS), key=lambda r: r["accuracy"])
    return mine["margin"] + max(mine["spread"], best["spread"])
