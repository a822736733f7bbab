"""One task, network and seed of :mod:`bench.criteria`: trained once, cut by each criterion, repaired."""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.plan_accuracy_case import Case, State, loader
from bench.plan_accuracy_peers import uniform_widths
from hwprune.errors import HwpruneError
from hwprune.importance import get, score, to_objective
from hwprune.repair import evaluate_accuracy, recalibrate_batchnorm
from hwprune.repair.after_cut import Origin, repair_cut
from hwprune.repair.options import RepairOptions
from hwprune.solve.domains import domain_values, keep_best
from hwprune.surgery import cut_module
from hwprune.target import Target

#: Batches that a criterion sees.
BATCHES = 16
STAGES = ("cut", "recalibrated", "least_squares", "scales", "finetuned", "least_squares+finetuned")


class Cells:
    """All criteria on one trained network.

    Rows of the state, by ``task/model/seed/criterion/widths/share``: accuracy and seconds of every
    stage, or the error of a criterion that cannot be used here.
    """

    def __init__(
        self, task: str, model: str, seed: int, target: Target, options: argparse.Namespace, state: State
    ) -> None:
        self.case = Case(task, model, seed, target, options, state)
        self.options, self.state = options, state
        self.head = {"task": task, "model": model, "seed": seed}

    def run(self) -> None:
        """What the state lacks."""
        wanted = {
            criterion: [
                (widths, share)
                for widths in self.options.widths.split(",")
                for share in self.case.shares
                if self._lacks(self._key(criterion, widths, share))
            ]
            for criterion in self.options.criteria.split(",")
        }
        if not any(wanted.values()) and not self._untimed():
            return
        self.case.prepare()
        for criterion, missing in wanted.items():
            if missing:
                self._criterion(criterion, missing)
        if untimed := self._untimed():
            self._time(untimed)

    @property
    def _timed(self) -> bool:
        """Whether networks are timed end to end."""
        return self.options.time and self.case.seed == self.options.seed

    def _lacks(self, name: str) -> bool:
        """Whether a row is missing, or is of a time when plans were not kept and is to be timed."""
        row = self.state.rows.get(name)
        return row is None or (self._timed and row["error"] is None and "plan" not in row)

    def _untimed(self) -> list[str]:
        """Rows to be timed end to end."""
        if not self._timed:
            return []
        cells = itertools.product(
            self.options.criteria.split(","), self.options.widths.split(","), self.case.shares
        )
        rows = {name: self.state.rows.get(name) for name in (self._key(*cell) for cell in cells)}
        return [n for n, row in rows.items() if row and row["error"] is None and row["measured"] is None]

    def _time(self, names: Sequence[str]) -> None:
        """Latency end to end over the dense network's, into the rows."""
        # Plans that several criteria agree on are one program.
        plans = {name: self.state.rows[name]["plan"] for name in names}
        ids = {name: str(sorted(plan.items())) for name, plan in plans.items()}
        ratios = self.case.time_plans({ids[name]: plan for name, plan in plans.items()})
        for name in names:
            row = self.state.rows[name] | {"measured": ratios[ids[name]]}
            self.state.put(name, row)
            self._tell(f"{name}: {row['predicted']:.3f} predicted, {row['measured']:.3f} measured")

    def _key(self, criterion: str, widths: str, share: float) -> str:
        return f"{self.case.name}/{criterion}/{widths}/{share}"

    def _criterion(self, criterion: str, missing: list[tuple[str, float]]) -> None:
        case = self.case
        begin = time.perf_counter()
        try:
            scores = self._scores(criterion)
        except HwpruneError as error:
            self._tell(f"{criterion}: {error}")
            for widths, share in missing:
                cell = {**self.head, "criterion": criterion, "widths": widths, "budget": share}
                self.state.put(
                    self._key(criterion, widths, share), {**cell, "error": str(error), "stages": {}}
                )
            return
        took = time.perf_counter() - begin
        for widths, share in missing:
            chosen = self._widths(criterion, scores, widths, share * case.dense_ns)
            stages = self._stages(scores, chosen)
            cell = {**self.head, "criterion": criterion, "widths": widths, "budget": share, "score_s": took}
            cell |= {"dense": case.dense_accuracy, "predicted": case.prices.of(chosen) / case.dense_ns}
            cell |= {"plan": chosen, "measured": None}
            self.state.put(self._key(criterion, widths, share), {**cell, "error": None, "stages": stages})
            shown = ", ".join(f"{name} {100 * found['accuracy']:.1f}" for name, found in stages.items())
            self._tell(f"{criterion} {widths} {share:.0%}: {shown}")

    def _scores(self, criterion: str) -> Mapping[str, torch.Tensor]:
        case = self.case
        data = loader(case.task.train, shuffle=True, seed=case.seed)
        torch.manual_seed(case.seed)
        return score(case.captured, case.deps, criterion, data, batches=BATCHES)

    def _widths(
        self, criterion: str, scores: Mapping[str, torch.Tensor], widths: str, budget_ns: float
    ) -> dict[str, int]:
        prices = self.case.prices
        if widths == "same":
            chosen = uniform_widths(prices, budget_ns)
        else:
            values = to_objective(scores, get(criterion.partition(":")[0]).comparability)
            sums = {g: domain_values(values[g], offered) for g, offered in prices.domains.items()}
            chosen = dict(prices.solve(sums, budget_ns).widths)
        prices.measure(chosen)
        return chosen

    def _stages(
        self, scores: Mapping[str, torch.Tensor], widths: Mapping[str, int]
    ) -> dict[str, dict[str, float]]:
        """Accuracy after each stage, and what it took."""
        case = self.case
        keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
        origin = Origin(case.model, case.captured, case.deps, keep)
        test = loader(case.task.test, 500)
        found: dict[str, dict[str, float]] = {}

        def stage(name: str, start: nn.Module, work: Callable[[nn.Module], object]) -> nn.Module:
            model = copy.deepcopy(start)
            begin = time.perf_counter()
            work(model)
            seconds = time.perf_counter() - begin
            found[name] = {"accuracy": evaluate_accuracy(model, test), "seconds": seconds}
            return model

        def fit(method: Any) -> Callable[[nn.Module], object]:
            options = RepairOptions(method=method, seed=case.seed)
            data = loader(case.task.train, shuffle=True, seed=case.seed)
            return lambda model: repair_cut(model, origin, data, options)

        def recalibrate(model: nn.Module) -> None:
            data = loader(case.task.train, 256, shuffle=True, seed=case.seed)
            recalibrate_batchnorm(model, data, batches=2)

        def tune(model: nn.Module) -> None:
            case.repair(model, self.options.finetune)

        cut = stage("cut", cut_module(case.model, case.deps, keep), lambda _: None)
        stage("recalibrated", cut, recalibrate)
        fitted = stage("least_squares", cut, fit("least_squares"))
        stage("scales", cut, fit("scales"))
        stage("finetuned", cut, tune)  # recalibrates first
        stage("least_squares+finetuned", fitted, tune)
        return found

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%T')} {self.case.name}: {text}", file=sys.stderr, flush=True)
