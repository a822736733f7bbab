"""How well scores rank units, against the loss change that removing each alone makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

Row = dict[str, Any]


def correlations(
    scores: Mapping[str, torch.Tensor], change: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, float | None]]:
    """For each group Spearman's rank correlation of scores with the change, its size and with its sign.

    The papers compare with the size: a first-order score is a square or an absolute value. None where
    all scores or all changes of a group are equal.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name, one in scores.items():
        true = change[name].numpy()
        found[name] = {"size": _spearman(one.numpy(), np.abs(true)), "signed": _spearman(one.numpy(), true)}
    return found


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(np.unique(one)) < 2 or len(np.unique(other)) < 2:
        return None
    result: Any = spearmanr(one, other)
    return float(result.statistic)


def oracle_rows(cells: Sequence[Row]) -> list[Row]:
    """One row per task, network and criterion: mean and least correlation over groups and seeds."""
    rows: list[Row] = []
    for task, model, criterion in dict.fromkeys((c["task"], c["model"], c["criterion"]) for c in cells):
        here = [c for c in cells if (c["task"], c["model"], c["criterion"]) == (task, model, criterion)]
        size, signed = _values(here, "size"), _values(here, "signed")
        rows.append(
            {
                "task": task,
                "model": model,
                "criterion": criterion,
                "spearman": float(np.mean(size)) if size else None,
                "spearman_min": min(size) if size else None,
                "spearman_signed": float(np.mean(signed)) if signed else None,
                "groups": len(size),
                "seeds": len(here),
                "note": next((c["note"] for c in here if c.get("note")), ""),
            }
        )
    return rows


def oracle_summary(cells: Sequence[Row]) -> Row:
    """Mean correlation of every criterion over all groups, networks, tasks and seeds, the best first."""
    means: dict[str, float] = {}
    for criterion in dict.fromkeys(c["criterion"] for c in cells):
        values = _values([c for c in cells if c["criterion"] == criterion], "size")
        if values:
            means[criterion] = float(np.mean(values))
    return {"spearman": dict(sorted(means.items(), key=lambda item: -item[1]))}


def _values(cells: Sequence[Row], kind: str) -> list[float]:
    return [g[kind] for c in cells for g in c["groups"].values() if g[kind] is not None]
