"""One task, network and seed of :mod:`bench.criteria`: trained once, cut by each criterion, repaired."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections.abc import Callable, Mapping
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
                if self._key(criterion, widths, share) not in self.state.rows
            ]
            for criterion in self.options.criteria.split(",")
        }
        if not any(wanted.values()):
            return
        self.case.prepare()
        for criterion, missing in wanted.items():
            if missing:
                self._criterion(criterion, missing)

    def _key(self, criterion: str, widths: str, share: float) -> str:
        return f"{self.case.name}/{criterion}/{widths}/{share}"

    def _criterion(self, criterion: str, missing: list[tuple[str, float]]) -> None:
        case = self.case
        data = loader(case.task.train, shuffle=True, seed=case.seed)
        torch.manual_seed(case.seed)
        begin = time.perf_counter()
        try:
            scores = score(case.captured, case.deps, criterion, data, batches=BATCHES)
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
            self.state.put(self._key(criterion, widths, share), {**cell, "error": None, "stages": stages})
            shown = ", ".join(f"{name} {100 * found['accuracy']:.1f}" for name, found in stages.items())
            self._tell(f"{criterion} {widths} {share:.0%}: {shown}")

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
