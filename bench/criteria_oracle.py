"""Rank correlation of scores with what the loss does without a unit."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from bench.plan_accuracy_case import Case, State, loader
from hwprune.errors import HwpruneError
from hwprune.importance import score, true_loss_change
from hwprune.target import Target

#: Batches of 64 images that criteria and oracle see.
BATCHES = 8


class Oracle:
    """All criteria on one trained network, against the oracle.

    The criteria and the oracle see the same images. Rows of the state, by
    ``task/model/seed/criterion``: the correlation in every group.
    """

    def __init__(
        self, task: str, model: str, seed: int, target: Target, options: argparse.Namespace, state: State
    ) -> None:
        # No latency is asked for.
        options = argparse.Namespace(**{**vars(options), "made_up": True})
        self.case = Case(task, model, seed, target, options, state)
        self.options, self.state = options, state
        self.head = {"task": task, "model": model, "seed": seed}

    def run(self) -> None:
        """What the state lacks."""
        criteria = self.options.criteria.split(",")
        missing = [c for c in criteria if f"{self.case.name}/{c}" not in self.state.rows]
        if not missing:
            return
        self.case.prepare()
        case = self.case

        def data() -> Any:
            return loader(case.task.train, shuffle=True, seed=case.seed)

        begin = time.perf_counter()
        changes = true_loss_change(case.captured, case.deps, data(), batches=BATCHES)
        self._tell(f"oracle: {time.perf_counter() - begin:.1f} s")
        for criterion in missing:
            torch.manual_seed(case.seed)
            head = {"criterion": criterion, **self.head}
            begin = time.perf_counter()
            try:
                scores = score(case.captured, case.deps, criterion, data(), batches=BATCHES)
            except HwpruneError as error:
                rows = [{**head, "group": None, "spearman": None, "spearman_size": None, "error": str(error)}]
            else:
                took = time.perf_counter() - begin
                rows = [{**head, **row, "seconds": took} for row in correlations(scores, changes)]
            self.state.put(f"{case.name}/{criterion}", {"rows": rows})
            self._tell(f"{criterion}: {_mean([row['spearman_size'] for row in rows])}")

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%T')} {self.case.name}: {text}", file=sys.stderr, flush=True)


def correlations(scores: dict[str, torch.Tensor], changes: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Per group Spearman's correlation with the change of the loss, and with its size."""
    rows: list[dict[str, Any]] = []
    for group, found in scores.items():
        change = changes[group]
        row = {"group": group, "units": len(found)}
        row |= {"spearman": _rank(found, change), "spearman_size": _rank(found, change.abs())}
        rows.append(row)
    return rows


def _rank(left: torch.Tensor, right: torch.Tensor) -> float:
    """0 where one of them is constant: it orders nothing."""
    if left.unique().numel() < 2 or right.unique().numel() < 2:
        return 0.0
    found: Any = spearmanr(left.numpy(), right.numpy())
    return float(found.statistic)


def oracle_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and least values per criterion, over groups, tasks, networks and seeds; the best first.

    ``spearman`` is with the change of the loss, ``spearman_size`` with its size (which a squared
    estimate follows).
    """
    found: dict[str, dict[str, float]] = {}
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        here = [row for row in rows if row["criterion"] == criterion and row["spearman"] is not None]
        if here:
            found[criterion] = {
                "spearman": _mean([row["spearman"] for row in here]),
                "spearman_size": _mean([row["spearman_size"] for row in here]),
                "least": min(row["spearman"] for row in here),
                "least_size": min(row["spearman_size"] for row in here),
            }
    order = sorted(found, key=lambda criterion: -found[criterion]["spearman_size"])
    failed = sorted({row["criterion"] for row in rows if row["spearman"] is None})
    return {"criteria": {criterion: found[criterion] for criterion in order}, "failed": failed}


def _mean(values: Sequence[Any]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else float("nan")
