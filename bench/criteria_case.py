"""One task, network and seed of :mod:`bench.criteria`: scored, cut, repaired, fine-tuned, judged."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bench.criteria_oracle import correlations
from bench.plan_accuracy_case import Case, loader
from bench.plan_accuracy_peers import uniform_widths
from hwprune.errors import HwpruneError
from hwprune.importance import get, score, to_objective, true_loss_change
from hwprune.repair import Origin, RepairOptions, evaluate_accuracy, repair_cut
from hwprune.solve.domains import domain_values, keep_best
from hwprune.surgery import cut_module

#: Batches of 64 that a criterion and the oracle see.
SCORING_BATCHES = 16
#: L1 norms with a common fraction of every group: what most papers compare with.
UNIFORM = "l1 (uniform)"

Keep = Mapping[str, Sequence[int]]


class CriteriaCase(Case):
    """The trained network of a case, and every criterion's plans for it."""

    def run_criteria(self, criteria: Sequence[str]) -> None:
        """All cells that the state lacks."""
        wanted = {c: self._missing(c) for c in (*criteria, UNIFORM)}
        if not any(wanted.values()):
            return
        self.prepare()
        for criterion, shares in wanted.items():
            if not shares:
                continue
            begin = time.monotonic()
            try:
                scores = self._scores("l1" if criterion == UNIFORM else criterion)
            except HwpruneError as error:
                self._tell(f"{criterion}: {error}")
                for share in shares:
                    self._put(criterion, share, "declined", None, None, str(error))
                continue
            seconds = time.monotonic() - begin
            for share in shares:
                widths = self._widths(criterion, scores, share)
                keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
                self.prices.measure(widths)
                predicted = self.prices.of(widths) / self.dense_ns
                told: list[str] = []
                for stage, accuracy, took in self._stages(keep):
                    spent = seconds if stage == "cut" else took
                    self._put(criterion, share, stage, accuracy, spent, predicted=predicted, widths=widths)
                    told.append(f"{stage} {accuracy:.3f}")
                self._tell(f"{share:.0%} {criterion} at {predicted:.3f}: {', '.join(told)}")

    def run_oracle(self, criteria: Sequence[str]) -> None:
        """Rank correlation of every criterion's scores with the true loss change, for each group."""
        missing = [c for c in criteria if f"{self.name}/oracle/{c}" not in self.state.rows]
        if not missing:
            return
        self.prepare_network()
        train = loader(self.task.train, shuffle=True, seed=self.seed)
        change = true_loss_change(self.captured, self.deps, train, batches=SCORING_BATCHES)
        for criterion in missing:
            head = {"task": self.task_name, "model": self.model_name, "seed": self.seed}
            try:
                found: dict[str, Any] = {"groups": correlations(self._scores(criterion), change)}
            except HwpruneError as error:
                found = {"groups": {}, "note": str(error)}
            self.state.put(f"{self.name}/oracle/{criterion}", {**head, "criterion": criterion, **found})
        self._tell("oracle done")

    def _missing(self, criterion: str) -> list[float]:
        rows = self.state.rows
        last = ("least_squares_finetuned", "declined")
        return [
            share
            for share in self.shares
            if not any(self._key(criterion, share, stage) in rows for stage in last)
        ]

    def _scores(self, criterion: str) -> dict[str, torch.Tensor]:
        name, _, text = criterion.partition(":")
        given = dict(pair.split("=", 1) for pair in text.split(";") if pair)
        found = get(name, **given)
        train = loader(self.task.train, shuffle=True, seed=self.seed)
        return score(self.captured, self.deps, found, train, batches=SCORING_BATCHES)

    def _widths(self, criterion: str, scores: Mapping[str, torch.Tensor], share: float) -> dict[str, int]:
        budget = share * self.dense_ns
        if criterion == UNIFORM:
            return uniform_widths(self.prices, budget)
        values = to_objective(scores, get(criterion.partition(":")[0]).comparability)
        sums = {g: domain_values(values[g], w) for g, w in self.prices.domains.items()}
        return dict(self.prices.solve(sums, budget).widths)

    def _stages(self, keep: Keep) -> Iterator[tuple[str, float, float]]:
        """Stage, accuracy on the test images, seconds that the stage took."""
        cut = cut_module(self.model, self.deps, keep)
        yield "cut", self._accuracy(cut), 0.0
        repaired: dict[str, nn.Module] = {}
        for stage, method in (
            ("recalibrated", "none"),
            ("scales", "scales"),
            ("least_squares", "least_squares"),
        ):
            model, begin = copy.deepcopy(cut), time.monotonic()
            options = RepairOptions.model_validate({"method": method, "seed": self.seed})
            origin = Origin(self.model, self.captured, self.deps, keep)
            repair_cut(model, origin, loader(self.task.train, shuffle=True, seed=self.seed), options)
            yield stage, self._accuracy(model), time.monotonic() - begin
            repaired[stage] = model
        for stage, start in (("finetuned", "recalibrated"), ("least_squares_finetuned", "least_squares")):
            begin = time.monotonic()
            self.tune(repaired[start], self.options.finetune)
            yield stage, self._accuracy(repaired[start]), time.monotonic() - begin

    def _accuracy(self, model: nn.Module) -> float:
        return evaluate_accuracy(model, loader(self.task.test, 500))

    def _key(self, criterion: str, share: float, stage: str) -> str:
        return f"{self.name}/{share}/{criterion}/{stage}"

    def _put(
        self,
        criterion: str,
        share: float,
        stage: str,
        accuracy: float | None,
        seconds: float | None,
        note: str = "",
        **more: Any,
    ) -> None:
        row = {
            "task": self.task_name,
            "model": self.model_name,
            "criterion": criterion,
            "budget": share,
            "seed": self.seed,
            "stage": stage,
            "accuracy": accuracy,
            "seconds": seconds,
            "dense": self.dense_accuracy,
        }
        self.state.put(self._key(criterion, share, stage), {**row, **more, "note": note})
