"""Rank correlation of scores with what the loss does without a unit.

Criteria estimate that near a network as it is; how well depends on how far its training has come (where the
loss is nearly zero, so is its slope). Networks are therefore looked at early and late.
"""

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
BATCHES = 4
#: Networks by default.
NETWORKS = ("small", "residual", "separable")
#: The group of a row that is about all units of the network.
ALL = "*"


class Oracle:
    """All criteria on one trained network, against the oracle.

    The criteria and the oracle see the same images. Rows of the state, by
    ``steps/task/model/seed/criterion``: the correlation in every group, and over all units.
    """

    def __init__(
        self,
        task: str,
        model: str,
        seed: int,
        target: Target,
        options: argparse.Namespace,
        state: State,
        *,
        steps: int,
    ) -> None:
        # No latency is asked for.
        options = argparse.Namespace(**{**vars(options), "made_up": True, "train": steps})
        self.case = Case(task, model, seed, target, options, state)
        self.options, self.state = options, state
        self.name = f"{steps}/{self.case.name}"
        self.head = {"task": task, "model": model, "seed": seed, "steps": steps}

    def run(self) -> None:
        """What the state lacks."""
        criteria = self.options.criteria.split(",")
        missing = [c for c in criteria if f"{self.name}/{c}" not in self.state.rows]
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
            self.state.put(f"{self.name}/{criterion}", {"rows": rows})
            self._tell(f"{criterion}: {rows[-1]['spearman_size']}")

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%T')} {self.name}: {text}", file=sys.stderr, flush=True)


def correlations(scores: dict[str, torch.Tensor], changes: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """Spearman's correlation with the loss change and with its size: per group, last over all units."""
    pairs = [(group, found, changes[group]) for group, found in scores.items()]
    _, found, truth = zip(*pairs, strict=True)
    return [
        {
            "group": group,
            "units": len(score),
            "spearman": _rank(score, change),
            "spearman_size": _rank(score, change.abs()),
        }
        for group, score, change in [*pairs, (ALL, torch.cat(found), torch.cat(truth))]
    ]


def _rank(left: torch.Tensor, right: torch.Tensor) -> float:
    """0 where one of them is constant: it orders nothing."""
    if left.unique().numel() < 2 or right.unique().numel() < 2:
        return 0.0
    found: Any = spearmanr(left.numpy(), right.numpy())
    return float(found.statistic)


def oracle_summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means per criterion, over tasks, networks and seeds; the best over all units first.

    Correlations are with the size of the change, which a squared estimate follows: ``within_groups``
    is the mean over groups, ``all_units`` ranks all units of a network together, and ``least`` is the
    least of those. ``by_steps`` has the same for each length of training.
    """
    steps = dict.fromkeys(row["steps"] for row in rows)
    return {
        "criteria": _by_criterion(rows),
        "by_steps": {str(n): _by_criterion([row for row in rows if row["steps"] == n]) for n in steps},
        "failed": sorted({row["criterion"] for row in rows if row["spearman"] is None}),
    }


def _by_criterion(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for criterion in dict.fromkeys(row["criterion"] for row in rows):
        here = [row for row in rows if row["criterion"] == criterion and row["spearman"] is not None]
        whole = [row["spearman_size"] for row in here if row["group"] == ALL]
        if whole:
            found[criterion] = {
                "all_units": _mean(whole),
                "least": round(min(whole), 3),
                "within_groups": _mean([row["spearman_size"] for row in here if row["group"] != ALL]),
            }
    return dict(sorted(found.items(), key=lambda item: -item[1]["all_units"]))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)
