"""Pruning in rounds: do layers that are fitted between a cut and the training behind it help?

    python -m bench.rounds

A network of :mod:`bench.plan_accuracy_tasks` is trained, and then cut and trained in rounds down to a share
of its latency (of made-up kernels, see :mod:`bench.made_up_device`). ``fit``: ``none``, training follows the
cut; ``recalibrated``, BatchNorm statistics are measured again in between; ``least_squares``, layers are
fitted to the network from before the round's cut as well. ``rounds`` 1 is pruning in one go, with as many
training steps in all as the rounds that it is compared with. ``steps`` of AdamW follow each cut.

``cut``, ``fitted`` and ``accuracy`` are on test images: after the last cut, after the fit behind it, and in
the end. ``cpu_s`` is CPU time of the whole run, ``fit_cpu_s`` of the fits in it. A run that was cut off
goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import hwprune
from bench.common import say, write_result
from bench.made_up_device import made_up_device
from bench.plan_accuracy_case import FINETUNE_LR, TRAIN_LR, State, loader
from bench.plan_accuracy_tasks import NETS, SIDE, TASKS, Task
from hwprune.planning.iterative import Iterated, IterativeOptions
from hwprune.repair import FinetuneOptions, evaluate_accuracy, finetune
from hwprune.repair.options import RepairOptions

FITS = {"none": None, "recalibrated": RepairOptions(method="none"), "least_squares": RepairOptions()}


class Way(NamedTuple):
    """How often a network is cut, how many steps follow each cut, and what comes in between."""

    rounds: int
    steps: int
    fit: str


class Watched:
    """Accuracy on test images, and when it was asked for: a fit lies between two of these moments."""

    def __init__(self, task: Task) -> None:
        self._test = loader(task.test, 500)
        self.moments: list[tuple[float, float]] = []

    def __call__(self, model: nn.Module) -> float:
        begin = time.process_time()
        found = evaluate_accuracy(model, self._test)
        self.moments.append((begin, time.process_time()))
        return found

    @property
    def spent(self) -> float:
        """CPU seconds of the tests themselves."""
        return sum(end - begin for begin, end in self.moments)

    def of_fits(self, found: Iterated) -> float:
        """CPU seconds from the test of a cut to that of the fit behind it, over all rounds."""
        total, at = 0.0, 1
        for each in found.rounds:
            if each.fit is not None:
                total += self.moments[at + 1][0] - self.moments[at][1]
            at += 3 if each.fit is not None else 2
        return total


def run(model: nn.Module, task: Task, way: Way, seed: int, share: float, tables: Path) -> dict[str, Any]:
    """One network pruned in one way."""
    training = FinetuneOptions(
        optimizer="adamw", lr=FINETUNE_LR, steps=way.steps, weight_decay=1e-2, seed=seed
    )
    options = IterativeOptions(
        rounds=way.rounds, batches=16, every=5, repair=FITS[way.fit], finetune=training
    )
    test = Watched(task)
    begin = time.process_time()
    with made_up_device():
        found = hwprune.prune_iteratively(
            model,
            torch.zeros(1, 1, SIDE, SIDE),
            latency=f"{100 * share:g}%",
            train=loader(task.train, shuffle=True, seed=seed + 1),
            options=options,
            evaluate=test,
            checks=0,
            tables=tables,
            seed=seed,
        )
    spent = time.process_time() - begin - test.spent
    last, plan = found.rounds[-1], found.pruned.plan
    return {
        "dense": found.dense_metric,
        "predicted": plan.predicted_ns / plan.dense_ns,
        "cut": last.cut_metric,
        "fitted": last.fitted_metric,
        "accuracy": last.trained_metric,
        "cpu_s": spent,
        "fit_cpu_s": test.of_fits(found),
        "cuts": [each.cut_metric for each in found.rounds],
        "fits": [each.fitted_metric for each in found.rounds],
    }


def ways(schedules: Sequence[tuple[int, int]], fits: Sequence[str]) -> Iterator[Way]:
    """What is compared, from rounds and steps behind each cut."""
    least = min(steps for _, steps in schedules)
    for rounds, steps in schedules:
        # BatchNorm alone is soon trained, and compared beside the shortest training only.
        yield from (Way(rounds, steps, fit) for fit in fits if fit != "recalibrated" or steps == least)
        # As many steps in all, behind one cut.
        yield from (Way(1, rounds * steps, fit) for fit in fits if fit == "least_squares")


def trained(task: Task, name: str, seed: int, steps: int) -> nn.Module:
    """The dense network."""
    torch.manual_seed(seed)
    model = NETS[name](task.classes)
    options = FinetuneOptions(optimizer="adamw", lr=TRAIN_LR, steps=steps, weight_decay=1e-2, seed=seed)
    finetune(model, loader(task.train, shuffle=True, seed=seed), options=options)
    return model.eval()


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over tasks, networks and seeds, of each way, and how often a fit ended better than none."""
    found: dict[str, Any] = {}

    def of(rounds: int, steps: int, fit: str) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        kept = [r for r in rows if (r["rounds"], r["steps"], r["fit"]) == (rounds, steps, fit)]
        return {(r["task"], r["model"], r["seed"]): r for r in kept}

    for rounds, steps in dict.fromkeys((r["rounds"], r["steps"]) for r in rows):
        plain = of(rounds, steps, "none")
        for fit in FITS:
            mine = of(rounds, steps, fit)
            if not mine:
                continue
            name = f"{rounds} x {steps} {fit}"
            found[f"{name}: networks"] = len(mine)
            found[f"{name}: accuracy %"] = 100 * _mean(r["accuracy"] for r in mine.values())
            both = mine.keys() & plain.keys()
            if fit != "none" and both:
                gains = [mine[k]["accuracy"] - plain[k]["accuracy"] for k in both]
                found[f"{name}: points gained"] = 100 * _mean(gains)
                found[f"{name}: better, equal, worse"] = ", ".join(
                    str(sum(np.sign(gain) == sign for gain in gains)) for sign in (1, 0, -1)
                )
            found[f"{name}: CPU seconds"] = _mean(r["cpu_s"] for r in mine.values())
    return found


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default="residual,separable")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument(
        "--schedules", default="3x10,5x10,3x50", help="rounds x training steps after each cut"
    )
    parser.add_argument("--fits", default=",".join(FITS))
    parser.add_argument("--seeds", type=int, default=2, help="how many")
    parser.add_argument("--budget", type=float, default=0.3, help="share of the dense latency in the end")
    parser.add_argument("--train", type=int, default=300, help="steps of training the dense network")
    parser.add_argument("--tables", type=Path, default=Path("made-up-tables"), help="stays empty")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench/results/rounds.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    key = {"train": options.train, "budget": options.budget}
    state = State.kept(options.out.with_suffix(".state.json"), key)
    schedules = [(int(r), int(s)) for r, s in (text.split("x") for text in options.schedules.split(","))]
    dense: dict[tuple[str, str, int], tuple[Task, nn.Module]] = {}
    cases = [
        (task, name, seed)
        for seed in range(options.seeds)
        for task in options.tasks.split(",")
        for name in options.models.split(",")
    ]
    compared = list(ways(schedules, options.fits.split(",")))
    for way, (task, name, seed) in itertools.product(compared, cases):
        row = f"{task}/{name}/{seed}/{way.rounds}x{way.steps}/{way.fit}"
        if row in state.rows:
            continue
        if (task, name, seed) not in dense:
            data = TASKS[task](seed)
            dense[task, name, seed] = data, trained(data, name, seed, options.train)
        data, model = dense[task, name, seed]
        found = run(model, data, way, seed, options.budget, options.tables)
        state.put(row, {"task": task, "model": name, "seed": seed, **way._asdict(), **found})
        say(f"{row}: {found['cut']:.3f} {found['fitted']} {found['accuracy']:.4f} {found['cpu_s']:.1f} s")
    rows = list(state.rows.values())
    write_result(options.out, summary(rows), rows, as_json=options.json)


if __name__ == "__main__":
    main()
