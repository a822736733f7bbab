"""Accuracy of plans of the same latency, after the same short fine-tuning: ours, uniform, Torch-Pruning.

    python -m bench.plan_accuracy --models residual,plain,separable --seeds 3

For each task (handwritten digits; made-up images, called synthetic), network (see
:mod:`bench.plan_accuracy_tasks`) and seed, a network is trained and cut to shares of its latency in
four ways: ``ours`` (the exact plan over calibrated curves, checked by its loss against the exact plans
over Taylor scores and over a blend of both, and the uniform one), ``uniform`` (a common fraction, least
L1 norms go), and Torch-Pruning's global magnitude and Taylor criteria in 24 steps with ``round_to`` the
SIMD block. All are then fine-tuned in the same way, with distillation, and judged on images that nothing
else has seen. The fine-tuning is short on purpose (10 steps): the digits are easy, and after 40 steps at
half the latency nearly every plan is back at the dense network's accuracy.

Latency is that of measured kernels (``--made-up``: of a formula, to try things out); the plans of the
first seed are also built and timed end to end (not with ``--no-time``). A run that was cut off goes on
where it was. ``margin`` is ours minus the best of the others, in points of accuracy, averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.common import write_result
from bench.plan_accuracy_peers import TorchPruning, uniform_widths
from bench.plan_accuracy_prices import Prices
from bench.plan_accuracy_summary import rows_with_margins, summary
from bench.plan_accuracy_tasks import NETS, SIDE, TASKS, Task
from hwprune.artifact import atomic_write_text
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.importance import score, to_objective
from hwprune.planner.curves import calibrate
from hwprune.planner.curves_meter import Meter
from hwprune.planner.curves_recheck import choose_by_loss, loss_of_choices
from hwprune.planner.curves_values import blended
from hwprune.repair import FinetuneOptions, evaluate_accuracy, finetune, recalibrate_batchnorm
from hwprune.solve.domains import domain_values, keep_best
from hwprune.solve.problem import Choice
from hwprune.surgery import cut_module
from hwprune.target import Target, load_target

BUDGETS = (0.7, 0.5, 0.33, 0.25)
#: Peak learning rates of training and of fine-tuning (AdamW).
TRAIN_LR, FINETUNE_LR = 3e-3, 5e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", default=",".join(NETS))
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="shares of the dense latency")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--train", type=int, default=400, help="steps of training")
    parser.add_argument("--finetune", type=int, default=10, help="steps of fine-tuning")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="quick", help="care of the kernel measurements")
    parser.add_argument("--tables", type=Path, default=None)
    parser.add_argument("--made-up", action="store_true", help="latency by a formula instead of a table")
    parser.add_argument("--time", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/plan_accuracy.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target = load_target(options.target, threads=options.threads)
    state = State.load(options.out.with_suffix(".state.json"), options)
    for seed in range(options.seed, options.seed + options.seeds):
        for task in options.tasks.split(","):
            for model in options.models.split(","):
                Case(task, model, seed, target, options, state).run()
                finish(options, state, quiet=True)
    finish(options, state, quiet=False)


def finish(options: argparse.Namespace, state: State, *, quiet: bool) -> None:
    """Write what there is so far."""
    rows = rows_with_margins(list(state.rows.values()))
    write_result(options.out, summary(rows), rows, as_json=options.json, quiet=quiet)


@dataclass
class State:
    """Rows by their case, on disk after each."""

    path: Path
    key: dict[str, Any]
    rows: dict[str, dict[str, Any]]

    @staticmethod
    def load(path: Path, options: argparse.Namespace) -> State:
        """Go on with a run of the same options; another run's state is left alone."""
        names = ("budgets", "train", "finetune", "target", "threads", "profile", "made_up")
        key = {name: getattr(options, name) for name in names}
        if not path.is_file():
            return State(path, key, {})
        found = json.loads(path.read_text())
        if found["key"] != key:
            sys.exit(f"{path} belongs to a run with {found['key']}: remove it, or name another --out")
        return State(path, key, found["rows"])

    def put(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self.path, json.dumps({"key": self.key, "rows": self.rows}) + "\n")


def loader(data: TensorDataset, size: int = 64, *, shuffle: bool = False, seed: int = 0) -> Any:
    """Batches in an order fixed by ``seed``."""
    return DataLoader(data, size, shuffle=shuffle, generator=torch.Generator().manual_seed(seed))


class Case:
    """One task, network and seed: its plans at all budgets."""

    def __init__(
        self, task: str, model: str, seed: int, target: Target, options: argparse.Namespace, state: State
    ) -> None:
        self.task_name, self.model_name, self.seed = task, model, seed
        self.target, self.options, self.state = target, options, state
        self.name = f"{task}/{model}/{seed}"
        self.shares = [float(b) for b in options.budgets.split(",")]

    def run(self) -> None:
        """All rows of the case that the state lacks."""
        wanted = [f"{self.name}/{share}/{method}" for share in self.shares for method in METHODS]
        if all(name in self.state.rows for name in wanted) and not self._untimed(wanted):
            return
        self.prepare()
        for method, prepare in METHODS.items():
            missing = [s for s in self.shares if f"{self.name}/{s}/{method}" not in self.state.rows]
            if not missing:
                continue
            begin = time.monotonic()
            plan = prepare(self)
            ready = time.monotonic() - begin
            for share in missing:
                begin = time.monotonic()
                model, widths, note = plan(share * self.dense_ns)
                row = self._judge(model, widths) | {"note": note, "plan_s": ready + time.monotonic() - begin}
                head = {"task": self.task_name, "model": self.model_name, "seed": self.seed, "share": share}
                self.state.put(f"{self.name}/{share}/{method}", {**head, "method": method, **row})
                self._tell(f"{share:.0%} {method}: {row['accuracy']:.4f} at {row['predicted']:.3f} {note}")
        if untimed := self._untimed(wanted):
            self._time(untimed)

    def _untimed(self, names: list[str]) -> list[str]:
        """Rows to be timed end to end."""
        if not self.options.time or self.options.made_up or self.seed != self.options.seed:
            return []
        return [name for name in names if self.state.rows.get(name, {}).get("measured") is None]

    def prepare(self) -> None:
        """Data, trained network, its groups and their prices."""
        self.task: Task = TASKS[self.task_name](self.seed)
        self.model = self._trained()
        self.dense_accuracy = evaluate_accuracy(self.model, loader(self.task.test, 500))
        self._tell(f"dense accuracy {self.dense_accuracy:.4f}")
        self.captured = capture(self.model, torch.zeros(1, 1, SIDE, SIDE))
        self.deps = analyse(self.captured)
        self.prices = (
            Prices.made_up(self.captured, self.deps, self.target)
            if self.options.made_up
            else Prices.measured(
                self.captured,
                self.deps,
                self.target,
                self.options.profile,
                self.options.tables,
                self._progress,
            )
        )
        self.dense_ns = self.prices.of(self.prices.model.dense)

    def _priced(self) -> Prices:
        if self.options.made_up:
            return Prices.made_up(self.captured, self.deps, self.target)
        profile, tables = self.options.profile, self.options.tables
        return Prices.measured(self.captured, self.deps, self.target, profile, tables, self._progress)

    def _trained(self) -> nn.Module:
        torch.manual_seed(self.seed)
        model = NETS[self.model_name](self.task.classes)
        options = FinetuneOptions(
            optimizer="adamw", lr=TRAIN_LR, steps=self.options.train, weight_decay=1e-2, seed=self.seed
        )
        finetune(model, loader(self.task.train, shuffle=True, seed=self.seed), options=options)
        return model.eval()

    def repair(self, model: nn.Module, steps: int) -> None:
        """The same for everybody: BatchNorm statistics, then a few steps with the dense model as teacher.

        Where these did no good to the held-out images, the model from before them is kept.
        """
        recalibrate_batchnorm(model, loader(self.task.train, 256, shuffle=True, seed=self.seed), batches=2)
        options = FinetuneOptions(
            optimizer="adamw",
            lr=FINETUNE_LR,
            steps=steps,
            steps_per_epoch=steps,
            weight_decay=1e-2,
            keep_best=True,
            seed=self.seed,
        )
        held_out = loader(self.task.held_out, 300)
        finetune(
            model,
            loader(self.task.train, shuffle=True, seed=self.seed + 1),
            teacher=self.model,
            options=options,
            evaluate=lambda tuned: evaluate_accuracy(tuned, held_out),
        )

    def _judge(self, model: nn.Module, widths: dict[str, int]) -> dict[str, Any]:
        test = loader(self.task.test, 500)
        recalibrate_batchnorm(model, loader(self.task.train, 256, shuffle=True, seed=self.seed), batches=2)
        before = evaluate_accuracy(model, test)
        self.prices.measure(widths)
        self.repair(model, self.options.finetune)
        return {
            "accuracy": evaluate_accuracy(model, test),
            "before": before,
            "dense": self.dense_accuracy,
            "predicted": self.prices.of(widths) / self.dense_ns,
            "measured": None,
            "widths": widths,
        }

    def _time(self, names: list[str]) -> None:
        """End-to-end latency over the dense network's, into the rows."""
        bench = self.prices.bench
        assert bench is not None
        programs = {"dense": bench.program_at(self.prices.model.dense)}
        programs |= {name: bench.program_at(self.state.rows[name]["widths"]) for name in names}
        times = bench.time_networks(programs)
        for name in names:
            ratio = times[name].median / times["dense"].median
            self.state.put(name, self.state.rows[name] | {"measured": ratio})

    def _progress(self, what: str, done: int, total: int) -> None:
        if done % 50 == 0:
            self._tell(f"{what} {done}/{total}")

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%T')} {self.name}: {text}", file=sys.stderr, flush=True)


Plan = Callable[[float], tuple[nn.Module, dict[str, int], str]]


def ours(case: Case) -> Plan:
    """Calibrated curves, the exact solver, and the recheck against its rivals."""
    train = loader(case.task.train, shuffle=True, seed=case.seed)
    scores = score(case.captured, case.deps, "taylor2019", train, batches=16)
    held_out = loader(case.task.held_out, 150)
    domains = case.prices.domains
    found = calibrate(case.captured, case.deps, domains, held_out, scores=scores)
    values = to_objective(scores, "global")
    sums = {g: domain_values(values[g], widths) for g, widths in domains.items()}
    meter = Meter(case.captured, case.deps, held_out)
    evaluate = loss_of_choices(meter, scores, repair=lambda model: case.repair(model, case.options.finetune))

    def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
        candidates = {
            "calibrated": case.prices.solve(found.values, budget_ns),
            "blend": case.prices.solve(blended(found.values, sums), budget_ns),
            "scores": case.prices.solve(sums, budget_ns),
            "uniform": Choice(uniform_widths(case.prices, budget_ns)),
        }
        check = choose_by_loss(candidates, evaluate)
        widths = dict(check.choice.widths)
        keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in check.losses.items())
        return cut_module(case.model, case.deps, keep), widths, f"{check.name} ({losses})"

    return plan


def uniform(case: Case) -> Plan:
    """The same fraction everywhere; filters of the least L1 norm go (Li et al. 2017)."""
    scores = score(case.captured, case.deps, "l1")

    def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
        widths = uniform_widths(case.prices, budget_ns)
        keep = {g: keep_best(scores[g].numpy(), n) for g, n in widths.items()}
        return cut_module(case.model, case.deps, keep), widths, ""

    return plan


def torch_pruning(kind: str) -> Callable[[Case], Plan]:
    """Torch-Pruning's global pruning by a criterion."""

    def prepare(case: Case) -> Plan:
        images, labels = next(iter(loader(case.task.train, 64, shuffle=True, seed=case.seed)))
        multiple = case.target.multiple("conv2d")
        peer = TorchPruning(case.model, case.deps, case.prices, kind, (images, labels), multiple)

        def plan(budget_ns: float) -> tuple[nn.Module, dict[str, int], str]:
            model = peer.at(budget_ns)
            return model, peer.widths(model), ""

        return plan

    return prepare


METHODS: dict[str, Callable[[Case], Plan]] = {
    "ours": ours,
    "uniform": uniform,
    "tp-magnitude": torch_pruning("magnitude"),
    "tp-taylor": torch_pruning("taylor"),
}

if __name__ == "__main__":
    main()
