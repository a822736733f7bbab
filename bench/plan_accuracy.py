"""Accuracy of plans of the same latency, after the same short fine-tuning: ours, uniform, Torch-Pruning.

    python -m bench.plan_accuracy --models residual,plain,separable --seeds 3

For each task (handwritten digits; made-up images, called synthetic), network (see
:mod:`bench.plan_accuracy_tasks`) and seed, a network is trained and cut to shares of its latency in
four ways: ``ours`` (the exact plan over calibrated curves, checked by its loss against the exact plans
over scores and over a blend of both, and the uniform one; with the units that Taylor scores would keep and
with those that BatchNorm's scales would), ``uniform`` (a common fraction, least L1 norms go), and
Torch-Pruning's global magnitude and Taylor criteria in 24 steps with ``round_to`` the SIMD block. All are
then fine-tuned in the same way, with distillation, and judged on images that nothing else has seen. The
fine-tuning is short on purpose (10 steps): the digits are easy, and after 40 steps at half the latency
nearly every plan is back at the dense network's accuracy.

Latency is that of measured kernels (``--made-up``: of a formula, to try things out); the plans of the
first seed are also built and timed end to end (not with ``--no-time``). A run that was cut off goes on
where it was. ``margin`` is ours minus the best of the others, in points of accuracy, averaged over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.common import write_result
from bench.plan_accuracy_case import Case, State
from bench.plan_accuracy_methods import METHODS
from bench.plan_accuracy_summary import rows_with_margins, summary
from bench.plan_accuracy_tasks import PRUNED, TASKS
from hwprune.target import load_target

BUDGETS = (0.7, 0.5, 0.33, 0.25)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--models", default=",".join(PRUNED))
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
                Case(task, model, seed, target, options, state).run(METHODS)
                finish(options, state, quiet=True)
    finish(options, state, quiet=False)


def finish(options: argparse.Namespace, state: State, *, quiet: bool) -> None:
    """Write what there is so far."""
    rows = rows_with_margins(list(state.rows.values()))
    write_result(options.out, summary(rows), rows, as_json=options.json, quiet=quiet)


if __name__ == "__main__":
    main()
