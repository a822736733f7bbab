"""Accuracy by importance criterion at the same latency, and after the same repairs.

    python -m bench.criteria                   # all criteria, two tasks, three networks, three seeds
    python -m bench.criteria --criteria l1,taylor2019:form=gate --models residual --budgets 0.5
    python -m bench.criteria --oracle          # rank correlation with the true change of the loss

For each task, network (those of :mod:`bench.plan_accuracy`) and seed, a network is trained and cut to shares
of its latency with the units that each criterion would keep. ``--widths same``: every criterion at one
plan per budget, a common fraction of every group, so that all have the same network of the same latency and
only the units differ; this is what compares criteria as rankings. ``--widths own``: each criterion's scores,
made comparable between groups as it declares, also choose the widths, by the exact solver within the same
budget; ``predicted`` is the share of the dense latency that the plan has, ``measured`` (with ``--time``, for
the first seed) that of the compiled network timed end to end beside the dense one.

Stages: ``cut``, nothing repaired; ``recalibrated``, BatchNorm statistics measured again; ``least_squares``,
layers fitted to the dense network's outputs one after another with He, Zhang and Sun's (2017) correction
of residual branches; ``scales``, ThiNet's factors per channel instead; ``finetuned``, a fixed short
fine-tuning after the recalibration; ``least_squares+finetuned``, the same after the fit. No stage but the
last two takes a gradient step. ``seconds`` is what the stage took, ``score_s`` what scoring took.

``--oracle`` compares scores with the loss without each unit instead (:mod:`bench.criteria_oracle`).

Latency is that of measured kernels (``--made-up``: of a formula, to try things out). A run that was cut off
goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.common import write_result
from bench.criteria_cells import Cells
from bench.criteria_oracle import NETWORKS, Oracle, oracle_summary
from bench.criteria_summary import rows_of, short, summary
from bench.plan_accuracy_case import State
from bench.plan_accuracy_tasks import PRUNED, TASKS
from hwprune.importance import available
from hwprune.target import load_target

BUDGETS = (0.7, 0.5, 0.3)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--criteria", default=",".join(available()), help="name or name:parameter=value")
    parser.add_argument("--models", default=None, help=f"{', '.join(PRUNED)}; of --oracle: small too")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="shares of the dense latency")
    parser.add_argument("--widths", default="same,own", help="same, own, or both")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--train", type=int, default=400, help="steps of training")
    parser.add_argument("--oracle-train", default="100,400", help="steps of training, each with --oracle")
    parser.add_argument("--finetune", type=int, default=10, help="steps of fine-tuning")
    parser.add_argument("--target", default="host")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", default="quick", help="care of the kernel measurements")
    parser.add_argument("--tables", type=Path, default=None)
    parser.add_argument("--made-up", action="store_true", help="latency by a formula instead of a table")
    parser.add_argument("--time", action="store_true", help="time the first seed's networks end to end")
    parser.add_argument("--oracle", action="store_true", help="correlate scores with the true loss change")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args(arguments)
    unknown = set(options.widths.split(",")) - {"same", "own"}
    if unknown:
        parser.error(f"--widths {', '.join(sorted(unknown))}: use same, own, or same,own")
    if options.time and (options.made_up or options.oracle):
        parser.error("--time is for networks that a measured table prices: leave --made-up and --oracle out")
    if options.out is None:
        options.out = Path(f"bench/results/criteria{'_oracle' if options.oracle else ''}.json")
    torch.set_num_threads(options.threads)
    target = load_target(options.target, threads=options.threads)
    state = State.load(options.out.with_suffix(".state.json"), options)
    models = options.models.split(",") if options.models else NETWORKS if options.oracle else PRUNED
    for seed in range(options.seed, options.seed + options.seeds):
        for task, model in itertools.product(options.tasks.split(","), models):
            if options.oracle:
                for steps in map(int, options.oracle_train.split(",")):
                    Oracle(task, model, seed, target, options, state, steps=steps).run()
            else:
                Cells(task, model, seed, target, options, state).run()
            finish(options, state, quiet=True)
    finish(options, state, quiet=False)


def finish(options: argparse.Namespace, state: State, *, quiet: bool) -> None:
    """Write what there is so far."""
    kept = list(state.rows.values())
    if options.oracle:
        rows = [{key: short(value) for key, value in row.items()} for each in kept for row in each["rows"]]
    else:
        rows = rows_of(kept)
    found = oracle_summary(rows) if options.oracle else summary(rows)
    write_result(options.out, found, rows, as_json=options.json, quiet=quiet)


if __name__ == "__main__":
    main()
