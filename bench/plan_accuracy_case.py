"""One task, network and seed of :mod:`bench.plan_accuracy`: trained, cut, fine-tuned, judged."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.plan_accuracy_peers import OutOfReachError
from bench.plan_accuracy_prices import Prices
from bench.plan_accuracy_tasks import NETS, SIDE, TASKS, Task
from hwprune.artifact import atomic_write_text
from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.repair import FinetuneOptions, evaluate_accuracy, finetune, recalibrate_batchnorm
from hwprune.target import Target

#: Peak learning rates of training and of fine-tuning (AdamW).
TRAIN_LR, FINETUNE_LR = 3e-3, 5e-4

#: From a latency to a pruned model, its widths, and a remark.
Plan = Callable[[float], tuple[nn.Module, dict[str, int], str]]


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
        return State.kept(path, {name: getattr(options, name) for name in names})

    @staticmethod
    def kept(path: Path, key: dict[str, Any]) -> State:
        """What a run with the same ``key`` left at ``path``."""
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

    def run(self, methods: Mapping[str, Method]) -> None:
        """All rows of the case that the state lacks."""
        wanted = [f"{self.name}/{share}/{method}" for share in self.shares for method in methods]
        if all(name in self.state.rows for name in wanted) and not self._untimed(wanted):
            return
        self.prepare()
        for method, prepare in methods.items():
            missing = [s for s in self.shares if f"{self.name}/{s}/{method}" not in self.state.rows]
            if not missing:
                continue
            begin = time.monotonic()
            plan = prepare(self)
            ready = time.monotonic() - begin
            for share in missing:
                begin = time.monotonic()
                head = {"task": self.task_name, "model": self.model_name, "seed": self.seed, "share": share}
                try:
                    model, widths, note = plan(share * self.dense_ns)
                except OutOfReachError as error:
                    self._tell(f"{share:.0%} {method}: {error}")
                    failed = {"accuracy": None, "note": str(error)}
                    self.state.put(f"{self.name}/{share}/{method}", {**head, "method": method, **failed})
                    continue
                row = self._judge(model, widths) | {"note": note, "plan_s": ready + time.monotonic() - begin}
                self.state.put(f"{self.name}/{share}/{method}", {**head, "method": method, **row})
                self._tell(f"{share:.0%} {method}: {row['accuracy']:.4f} at {row['predicted']:.3f} {note}")
        if untimed := self._untimed(wanted):
            self._time(untimed)

    def _untimed(self, names: list[str]) -> list[str]:
        """Rows to be timed end to end."""
        if not self.options.time or self.options.made_up or self.seed != self.options.seed:
            return []
        rows = {name: self.state.rows.get(name, {}) for name in names}
        return [
            n for n, row in rows.items() if row.get("accuracy", 0) is not None and row.get("measured") is None
        ]

    def prepare(self) -> None:
        """Data, trained network, its groups and their prices."""
        self.task: Task = TASKS[self.task_name](self.seed)
        self.model = self._trained()
        self.dense_accuracy = evaluate_accuracy(self.model, loader(self.task.test, 500))
        self._tell(f"dense accuracy {self.dense_accuracy:.4f}")
        self.captured = capture(self.model, torch.zeros(1, 1, SIDE, SIDE))
        self.deps = analyse(self.captured)
        self.prices = self._priced()
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
        ratios = self.time_plans({name: self.state.rows[name]["widths"] for name in names})
        for name, ratio in ratios.items():
            self.state.put(name, self.state.rows[name] | {"measured": ratio})

    def time_plans(self, plans: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
        """End-to-end latency of compiled networks over the dense one's, timed in turn."""
        bench = self.prices.bench
        assert bench is not None
        programs = {"dense": bench.program_at(self.prices.model.dense)}
        programs |= {name: bench.program_at(widths) for name, widths in plans.items()}
        times = bench.time_networks(programs)
        return {name: times[name].median / times["dense"].median for name in plans}

    def _progress(self, what: str, done: int, total: int) -> None:
        if done % 50 == 0:
            self._tell(f"{what} {done}/{total}")

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%T')} {self.name}: {text}", file=sys.stderr, flush=True)


#: A way of choosing plans, made ready for a case.
Method = Callable[[Case], Plan]
