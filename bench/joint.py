"""JointPruning beside the exact plan on the quickstart's task, at the same measured latency.

    python -m bench.joint --latency 50% --tables TABLES

A residual network learns handwritten digits; its kernels are measured (``--tables`` keeps them). For
one budget in nanoseconds the exact program, the uniform baseline and JointPruning each give a plan
through the same planning loop; each is cut, recalibrated and fine-tuned alike, with distillation.
``joint (shared weights)`` is the plan of JointPruning, fine-tuned from the weights of its search.
All networks are then timed in one interleaved run. The search has batches of its own to judge by,
which no other step sees; accuracies are of the test set.

Everything is kept in ``--work`` as it is made: repeated after an interruption, the command goes on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Subset, TensorDataset

from bench.common import write_result
from hwprune import api
from hwprune.artifact import atomic_write_text
from hwprune.importance import score, to_objective
from hwprune.planner.joint import JointOptions, JointSolver, joint_solver
from hwprune.planner.loop import Begun, LoopResult, PlanningLoop
from hwprune.planner.result import Asked, make_plan
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.planner.worth import Side
from hwprune.pruned import Subject
from hwprune.quickstart.digits import batches, load_digits_split
from hwprune.quickstart.network import DigitsNet
from hwprune.repair import FinetuneOptions, evaluate_accuracy, finetune, recalibrate_batchnorm
from hwprune.solve.milp import solve_milp
from hwprune.solve.plan import Plan
from hwprune.solve.problem import Problem, Solution
from hwprune.solve.uniform import solve_uniform
from hwprune.target import load_target

#: Share of the training images that only the search sees, and judges by.
HELD_OUT = 0.2
CRITERION = "taylor2019"
METHODS = ("exact", "uniform", "joint")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--latency", default="50%")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=None, help="of the network that is timed")
    parser.add_argument("--profile", default="quick", help="care of the kernel measurements")
    parser.add_argument("--tables", type=Path, default=None, help="default: inside --work")
    parser.add_argument("--work", type=Path, default=Path("joint-out"))
    parser.add_argument("--depth", action="store_true", help="residual blocks may go, too")
    parser.add_argument("--iterations", type=int, default=160, help="steps of the shared weights")
    parser.add_argument("--epochs", type=int, default=8, help="of the dense network")
    parser.add_argument("--finetune-epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/joint.json"))
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    run = Run(options)
    rows = run.rows()
    write_result(options.out, run.summary(rows), rows, as_json=options.json)


@dataclass
class Notes:
    """Seconds and figures of finished steps, kept on disk."""

    path: Path

    def step(self, name: str, make: Callable[[], Any]) -> Any:
        """The result of a step, made once; seconds of repeated parts add up."""
        known = self.read()
        if name not in known:
            start = time.monotonic()
            known[name] = make()
            known["seconds"] = known.get("seconds", {}) | {name: time.monotonic() - start}
            atomic_write_text(self.path, json.dumps(known, indent=1) + "\n")
        return known[name]

    def read(self) -> dict[str, Any]:
        """Everything so far."""
        return json.loads(self.path.read_text()) if self.path.is_file() else {}


class Run:
    """The steps of the benchmark."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.work, self.seed = options, options.work, options.seed
        self.notes = Notes(options.work / "notes.json")
        learned, self.test = load_digits_split(self.seed)
        order = np.random.default_rng(self.seed).permutation(len(learned)).tolist()
        cut = round(HELD_OUT * len(learned))
        self.held_out, self.train = _subset(learned, order[:cut]), _subset(learned, order[cut:])
        self.example = self.test[0][0].unsqueeze(0)

    def rows(self) -> list[dict[str, Any]]:
        """One row per network."""
        dense = self.notes.step("dense", lambda: {"accuracy": self._accuracy(self.dense)})
        rows: list[dict[str, Any]] = [
            {"network": "dense", **dense, "search_s": None, "kept_importance": None}
        ]
        for method, weights in (*((m, m) for m in METHODS), ("joint", "shared")):
            plan = self.plan(method)
            found = self.notes.step(f"repair {weights}", lambda p=plan, w=weights: self._repaired(p, w))
            name = method if method == weights else f"{method} ({weights} weights)"
            rows.append({"network": name, **found, **self._of_plan(plan, method)})
        times = self.notes.step("timing", self._timed)
        for row in rows:
            name = "joint" if row["network"].startswith("joint") else row["network"]
            row["latency_ms"], row["low_ms"], row["high_ms"] = times[name]
        return rows

    def summary(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The figures that the README quotes."""
        of = {row["network"]: row for row in rows}
        notes = self.notes.read()
        budget = self.plan("exact").budget_ns / self.plan("exact").dense_ns * of["dense"]["latency_ms"]
        return {
            "budget_ms": budget,
            "accuracy_dense": of["dense"]["accuracy"],
            "accuracy_exact": of["exact"]["accuracy"],
            "accuracy_uniform": of["uniform"]["accuracy"],
            "accuracy_joint": of["joint"]["accuracy"],
            "accuracy_joint_shared": of["joint (shared weights)"]["accuracy"],
            "joint_over_exact_latency": of["joint"]["latency_ms"] / of["exact"]["latency_ms"],
            "over_budget_max": max(of[m]["latency_ms"] for m in METHODS) / budget,
            "joint_s": notes["seconds"]["plan joint"],
            "total_s": sum(notes["seconds"].values()),
        }

    @cached_property
    def dense(self) -> nn.Module:
        """The trained network, in evaluation mode."""
        torch.manual_seed(self.seed)
        model = DigitsNet()
        options = FinetuneOptions(
            optimizer="adamw",
            lr=4e-3,
            weight_decay=1e-2,
            epochs=self.options.epochs,
            warmup_fraction=0.25,
            seed=self.seed,
        )
        self._finetune(model, options, "train", None)
        return model.eval()

    @cached_property
    def subject(self) -> Subject:
        """The network, captured and analysed."""
        return Subject.open(self.dense, self.example)

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Importance of every channel."""
        calibration = list(itertools.islice(batches(self.train, shuffle=True, seed=self.seed), 8))
        scores = score(self.subject.captured, self.subject.deps, criterion=CRITERION, data=calibration)
        return to_objective(scores, "global")

    @cached_property
    def bench(self) -> Workbench:
        """The network on the target."""
        return Workbench.open(
            self.subject.captured,
            self.subject.deps,
            load_target(self.options.target, threads=self.options.threads),
            profile=measure_profile(self.options.profile),
            tables=self.options.tables or self.work / "tables",
            seed=self.seed,
            progress=_progress,
        )

    @cached_property
    def begun(self) -> Begun:
        """Table, and latency of the dense network, for all methods."""
        return self._loop(solve_milp).begin()

    def plan(self, method: str) -> Plan:
        """The plan of a method, by the same loop, for the same budget."""
        path = self.work / f"{method}.plan.json"
        self.notes.step(f"plan {method}", lambda: self._made(method, path))
        return Plan.load(path)

    def _made(self, method: str, path: Path) -> dict[str, Any]:
        self.begun  # noqa: B018 - measured before the clock of a method matters
        start, solver = time.monotonic(), {"exact": solve_milp, "uniform": solve_uniform}.get(method)
        joint = self._joint() if solver is None else None
        loop = self._loop(solver or joint or solve_milp)
        result: LoopResult = loop.run(self.options.latency, begun=self.begun)
        if joint is not None:
            save_file(joint.weights, self.work / "shared.safetensors")
        plan = make_plan(
            self.bench,
            result,
            self.values,
            Asked(CRITERION, self.options.latency, self.seed),
        )
        plan.save(path)
        found: dict[str, Any] = {"search_s": time.monotonic() - start, "measured_ms": _ms(result.measured_ns)}
        if joint is not None:
            found |= {"moves": len(joint.result.trail), "losses": joint.result.losses}
        return found

    def _joint(self) -> JointSolver[Side | None]:
        options = JointOptions(iterations=self.options.iterations, every=2, eta=0.04, lr=0.02, seed=self.seed)
        return joint_solver(
            {None: self.bench},
            self.values,
            data=batches(self.train, shuffle=True, seed=self.seed),
            held_out=batches(self.held_out, shuffle=True, seed=self.seed),
            depth=self.options.depth,
            options=options,
            checkpoint=self.work / "joint.checkpoint",
        )

    def _loop(self, solve: Callable[[Problem], Solution]) -> PlanningLoop:
        return PlanningLoop(
            self.bench,
            self.values,
            profile=self.bench.measure_kernels,
            time_networks=self.bench.time_networks,
            depth=self.options.depth,
            known=self.bench.known_table(),
            solve=solve,
        )

    def _of_plan(self, plan: Plan, method: str) -> dict[str, Any]:
        return {
            "kept_importance": plan.value,
            "predicted_ms": plan.predicted_ns / 1e6,
            "search_s": self.notes.read()[f"plan {method}"]["search_s"],
            "widths": plan.widths,
        }

    def _repaired(self, plan: Plan, name: str) -> dict[str, Any]:
        model = self.dense
        if name == "shared":
            model = copy.deepcopy(self.dense)
            model.load_state_dict(load_file(self.work / "shared.safetensors"), strict=False)
        pruned = api.apply_plan(model, self.example, plan).model
        cut = self._accuracy(pruned)
        recalibrate_batchnorm(pruned, batches(self.train, shuffle=True, seed=self.seed))
        recalibrated = self._accuracy(pruned)
        options = FinetuneOptions(
            optimizer="adamw", lr=1e-3, weight_decay=1e-2, epochs=self.options.finetune_epochs, seed=self.seed
        )
        self._finetune(pruned, options, f"finetune-{name}", self.dense)
        return {"accuracy": self._accuracy(pruned), "after_cut": cut, "after_recalibration": recalibrated}

    def _finetune(
        self, model: nn.Module, options: FinetuneOptions, what: str, teacher: nn.Module | None
    ) -> None:
        finetune(
            model,
            batches(self.train, shuffle=True, seed=self.seed),
            options=options,
            teacher=teacher,
            checkpoint=self.work / f"{what}.checkpoint",
            progress=lambda state: _progress(what, state.step, state.steps),
        )

    def _accuracy(self, model: nn.Module) -> float:
        return evaluate_accuracy(model, batches(self.test, size=360, shuffle=False, seed=self.seed))

    def _timed(self) -> dict[str, tuple[float, float, float]]:
        programs = {"dense": self.bench.program_at(self.bench.dense)}
        for method in METHODS:
            plan = self.plan(method)
            programs[method] = self.bench.program_at(plan.widths, frozenset(plan.removed))
        summaries = self.bench.time_networks(programs)
        return {n: (s.median / 1e6, s.ci_low / 1e6, s.ci_high / 1e6) for n, s in summaries.items()}


def _subset(data: TensorDataset, rows: list[int]) -> TensorDataset:
    return TensorDataset(*Subset(data, rows)[:])


def _ms(ns: float | None) -> float | None:
    return None if ns is None else ns / 1e6


def _progress(what: str, done: int, total: int) -> None:
    if done % 20 == 0 or done == total:
        print(f"{what} {done}/{total}", file=sys.stderr)


if __name__ == "__main__":
    main()
