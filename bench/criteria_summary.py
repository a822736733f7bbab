"""What the cells of :mod:`bench.criteria` add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hwprune.errors import UsageError
from hwprune.importance import get

STAGES = ("cut", "recalibrated", "scales", "least_squares", "finetuned", "least_squares_finetuned")
#: Repairs by regression, and what they are compared with.
FITS, WITHOUT = ("scales", "least_squares"), "recalibrated"
#: A cell counts for the share that is won back if the cut lost at least so many points.
LOST = 1.0

Row = dict[str, Any]


def rows_of_cells(cells: Sequence[Row]) -> list[Row]:
    """Rows as they were judged: one per task, network, criterion, budget, seed and stage."""
    names = ("task", "model", "criterion", "budget", "seed", "stage", "accuracy", "seconds", "dense")
    return [{n: c[n] for n in names} | {"predicted": c.get("predicted"), "note": c["note"]} for c in cells]


def summary(cells: Sequence[Row]) -> Row:
    """Means and spreads over everything, who is best with which data, and what repairs win back.

    ``accuracy`` is in percent, for each criterion and stage; ``spread`` the standard deviation over seeds
    of the means of a seed. ``points_lost`` is what a criterion lacks after least squares to the best one
    in the same cell (task, network, budget, seed), on average: it weighs all cells alike. ``won_back`` is
    the share of the lost points (dense less cut) that a stage has back at each budget.
    """
    done = [c for c in cells if c["accuracy"] is not None]
    if not done:
        return {}
    criteria = list(dict.fromkeys(c["criterion"] for c in done))
    return {
        "accuracy": {c: {s: _mean(_points(done, c, s)) for s in STAGES} for c in criteria},
        "spread": {c: {s: _spread(done, c, s) for s in STAGES} for c in criteria},
        "score_s": {
            c: _mean(r["seconds"] for r in done if r["criterion"] == c and r["stage"] == "cut")
            for c in criteria
        },
        "points_lost": {stage: _behind(done, stage) for stage in ("least_squares", "finetuned")},
        "best": _best(done),
        "won_back": {stage: _won_back(done, stage) for stage in STAGES[1:4]},
        "fit_raises": {fit: _raises(done, fit) for fit in FITS},
        "declined": sorted({c["criterion"] for c in cells if c["accuracy"] is None}),
    }


def _points(cells: Sequence[Row], criterion: str, stage: str) -> list[float]:
    return [100 * c["accuracy"] for c in cells if (c["criterion"], c["stage"]) == (criterion, stage)]


def _spread(cells: Sequence[Row], criterion: str, stage: str) -> float:
    seeds = sorted({c["seed"] for c in cells})
    means = [_mean(_points([c for c in cells if c["seed"] == seed], criterion, stage)) for seed in seeds]
    found = [m for m in means if m is not None]
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return float(np.mean(found)) if found else None


def _cell(row: Row) -> tuple[Any, ...]:
    return row["task"], row["model"], row["budget"], row["seed"]


def _behind(cells: Sequence[Row], stage: str) -> dict[str, float]:
    """Points behind the best criterion of a cell, the least first; cells that all criteria have."""
    by: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in cells:
        if row["stage"] == stage:
            by.setdefault(_cell(row), {})[row["criterion"]] = 100 * row["accuracy"]
    everybody = {criterion for found in by.values() for criterion in found}
    whole = [found for found in by.values() if set(found) == everybody]
    behind = {
        criterion: float(np.mean([max(found.values()) - found[criterion] for found in whole]))
        for criterion in everybody
        if whole
    }
    return dict(sorted(behind.items(), key=lambda item: item[1]))


def _best(cells: Sequence[Row]) -> dict[str, dict[str, str]]:
    """For each need of data the criterion that is least behind, among those that need no more."""
    allowed = {
        "none": {"none"},
        "unlabelled": {"none", "unlabelled"},
        "labelled": {"none", "unlabelled", "labelled"},
    }
    best: dict[str, dict[str, str]] = {}
    for stage in ("least_squares", "finetuned"):
        behind = _behind(cells, stage)
        for need, needs in allowed.items():
            names = [name for name in behind if _need(name) in needs]
            if names:
                best.setdefault(need, {})[stage] = names[0]
    return best


def _need(criterion: str) -> str | None:
    try:
        return get(criterion).data_need
    except UsageError:  # a row for comparison, with a remark in its name
        return None


def _won_back(cells: Sequence[Row], stage: str) -> dict[str, float | None]:
    """Mean share of the lost points that are back, for each budget."""
    dense = {(*_cell(c), c["criterion"]): c for c in cells if c["stage"] == "cut"}
    shares: dict[str, list[float]] = {}
    for row in cells:
        cut = dense.get((*_cell(row), row["criterion"]))
        if row["stage"] != stage or cut is None:
            continue
        lost = 100 * (cut["dense"] - cut["accuracy"])
        if lost >= LOST:
            gained = 100 * (row["accuracy"] - cut["accuracy"])
            shares.setdefault(f"{row['budget']:.0%}", []).append(gained / lost)
    return {budget: _mean(found) for budget, found in shares.items()}


def _raises(cells: Sequence[Row], fit: str) -> dict[str, float | None]:
    """Share of the cells in which a fit is above the cut network, and above recalibration alone."""
    found = {(*_cell(c), c["criterion"], c["stage"]): c["accuracy"] for c in cells}
    over: dict[str, list[float]] = {"over_cut": [], f"over_{WITHOUT}": []}
    for (*cell, stage), accuracy in found.items():
        if stage != fit:
            continue
        for name, other in (("over_cut", "cut"), (f"over_{WITHOUT}", WITHOUT)):
            if (*cell, other) in found:
                over[name].append(float(accuracy > found[*cell, other]))
    return {name: _mean(values) for name, values in over.items()}
