"""What the cells of :mod:`bench.criteria` add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hwprune.errors import UsageError
from hwprune.importance import describe

Row = dict[str, Any]
#: What there is for repair before any step of training.
GRADIENT_FREE = ("recalibrated", "least_squares", "scales")
#: By whose accuracy the best criterion is chosen.
DECISIVE = "least_squares+finetuned"
_PLACE = ("task", "model", "budget", "seed")


def rows_of(cells: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row per criterion, budget, seed and stage (and task, network, way of choosing widths)."""
    rows: list[Row] = []
    for cell in cells:
        head = {name: cell[name] for name in ("criterion", "budget", "seed")}
        rest = {name: cell[name] for name in ("task", "model", "widths")}
        rest |= {
            name: short(cell.get(name)) for name in ("dense", "predicted", "measured", "score_s", "error")
        }
        for stage, found in cell["stages"].items():
            found = {name: short(value) for name, value in found.items()}
            rows.append({**head, "stage": stage, **found, **rest})
        if not cell["stages"]:
            rows.append({**head, "stage": "none", "accuracy": None, "seconds": None, **rest})
    return rows


def short(value: Any) -> Any:
    """There are thousands of rows."""
    return round(value, 5) if isinstance(value, float) else value


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Means and spreads per criterion, and which is best for what data there are.

    ``table`` has, per way of choosing widths, criterion and stage, the mean accuracy in points over
    tasks, networks, budgets and seeds; ``spread``, the standard deviation over seeds, averaged over
    the cells; and ``behind``, points behind the best criterion of the same cell, averaged. Only
    criteria that were scored in every cell are compared. ``best`` names, for each need of data, the
    criterion that is least behind after the fit and fine-tuning among those that need no more.
    """
    done = [row for row in rows if row["accuracy"] is not None]
    if not done:
        return {}
    failed = sorted({row["criterion"] for row in rows if row["accuracy"] is None})
    found: dict[str, Any] = {"table": {}, "best": {}, "failed": failed}
    for widths in dict.fromkeys(row["widths"] for row in done):
        here = [row for row in done if row["widths"] == widths and row["criterion"] not in failed]
        table = _table(here)
        found["table"][widths] = table
        found["best"][widths] = _best(table)
    found |= _repairs(done)
    found["score_s"] = _means(done, lambda row: row["criterion"], "score_s")
    return found | _timed(done)


def _timed(rows: Sequence[Row]) -> dict[str, Any]:
    """How far the latencies end to end are from the budgets and from each other, where they were timed."""
    cells = {
        (row["criterion"], row["widths"], *(row[name] for name in _PLACE)): row
        for row in rows
        if row["measured"] is not None
    }
    if not cells:
        return {}
    over = [row["measured"] / row["budget"] for row in cells.values()]
    error = [row["predicted"] / row["measured"] - 1.0 for row in cells.values()]
    return {
        "timed": len(cells),
        "measured_over_budget": {
            str(share): short(float(np.quantile(over, share))) for share in (0.0, 0.05, 0.5, 0.95, 1.0)
        },
        "prediction_error_median": short(float(np.median(np.abs(error)))),
    }


def _table(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    best: dict[tuple[Any, ...], float] = {}
    for row in rows:
        key = (row["stage"], *(row[name] for name in _PLACE))
        best[key] = max(best.get(key, 0.0), row["accuracy"])
    table: dict[str, dict[str, dict[str, float]]] = {}
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        for stage in dict.fromkeys(row["stage"] for row in rows):
            here = [row for row in rows if (row["criterion"], row["stage"]) == (criterion, stage)]
            if not here:
                continue
            behind = [best[stage, *(row[n] for n in _PLACE)] - row["accuracy"] for row in here]
            by_cell: dict[tuple[Any, ...], list[float]] = {}
            for row in here:
                by_cell.setdefault((row["task"], row["model"], row["budget"]), []).append(row["accuracy"])
            spreads = [float(np.std(each, ddof=1)) if len(each) > 1 else 0.0 for each in by_cell.values()]
            table.setdefault(criterion, {})[stage] = {
                "accuracy": _points([row["accuracy"] for row in here]),
                "spread": _points(spreads),
                "behind": _points(behind),
            }
    return table


def _points(shares: Sequence[float]) -> float:
    """Their mean in points, to the hundredth."""
    return round(100 * float(np.mean(shares)), 2)


def _best(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, str]:
    """For "has nothing", "has images only" and "has labels"."""
    needs = ("none", "unlabelled", "labelled")
    out: dict[str, str] = {}
    for at, need in enumerate(needs):
        fit = {
            criterion: stages[DECISIVE]["behind"]
            for criterion, stages in table.items()
            if DECISIVE in stages and _need(criterion) in needs[: at + 1]
        }
        if fit:
            out[need] = min(fit, key=lambda criterion: fit[criterion])
    return out


def _need(criterion: str) -> str:
    try:
        return describe(criterion.partition(":")[0]).data_need
    except UsageError:  # of another version
        return "labelled"


def _repairs(rows: Sequence[Row]) -> dict[str, Any]:
    """How often repairs without training raise the accuracy, and how much of the loss they win back."""
    cells: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["criterion"], row["widths"], *(row[name] for name in _PLACE))
        cells.setdefault(key, {})[row["stage"]] = row
    raised: dict[str, list[bool]] = {}
    over: dict[str, list[bool]] = {}
    back: dict[str, list[float]] = {}
    for stages in cells.values():
        before = stages["cut"]["accuracy"]
        for stage in GRADIENT_FREE:
            if stage not in stages:
                continue
            after, dense = stages[stage]["accuracy"], stages[stage]["dense"]
            raised.setdefault(stage, []).append(after > before or before >= dense)
            if stage != "recalibrated":
                over.setdefault(stage, []).append(after >= stages["recalibrated"]["accuracy"])
            if dense > before:
                place = f"{stage} {stages['cut']['model']} {stages['cut']['budget']:g}"
                back.setdefault(place, []).append((after - before) / (dense - before))
    return {
        "raised_share": {stage: float(np.mean(found)) for stage, found in raised.items()},
        "not_below_recalibrated_share": {stage: float(np.mean(found)) for stage, found in over.items()},
        "won_back_median": {place: float(np.median(found)) for place, found in back.items()},
    }


def _means(rows: Sequence[Row], name: Callable[[Row], str], value: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(name(row), []).append(row[value])
    return {key: float(np.mean(values)) for key, values in found.items()}
