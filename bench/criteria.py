"""All criteria at the same latency: before repair, after repairs without training, after fine-tuning.

    python -m bench.criteria                                   # tasks x networks x seeds x criteria x budgets
    python -m bench.criteria --oracle                          # rank correlation with the true loss change

For each task (handwritten digits; made-up images, called synthetic), network (see
:mod:`bench.plan_accuracy_tasks`) and seed a network is trained, scored by every registered criterion, and
cut to shares of its latency by the exact plan over these scores: each criterion decides which units go and,
as far as its scores say, how many of each group. ``l1 (uniform)`` has a common fraction of every group
instead. Every cut network is then judged as it is, after BatchNorm's statistics are measured anew, after
the repairs that need no training (least squares; a factor per channel), and after the same short fine-tuning
with distillation, once from the recalibrated network and once from the one repaired by least squares.
Repairs read training images without their labels.

Latency is that of measured kernels (``--made-up``: of a formula, to try things out). A run that was cut
off goes on where it was. With ``--oracle`` each unit of the trained networks is removed alone, and the
change of the loss that this makes is compared with its score, group by group.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench.common import write_result
from bench.criteria_case import CriteriaCase
from bench.criteria_oracle import oracle_rows, oracle_summary
from bench.criteria_summary import rows_of_cells, summary
from bench.plan_accuracy_case import State
from bench.plan_accuracy_tasks import NETS, TASKS
from hwprune.importance import available
from hwprune.target import load_target

BUDGETS = (0.7, 0.5, 0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--criteria", default=",".join(available()))
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
    parser.add_argument("--oracle", action="store_true", help="rank correlations instead")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", type=Path, default=None, help="default: below bench/results")
    options = parser.parse_args()
    name = "criteria_oracle.json" if options.oracle else "criteria.json"
    out: Path = options.out or Path("bench/results") / name
    torch.set_num_threads(options.threads)
    target = load_target(options.target, threads=options.threads)
    state = State.load(out.with_suffix(".state.json"), options)
    for seed in range(options.seed, options.seed + options.seeds):
        for task in options.tasks.split(","):
            for model in options.models.split(","):
                case = CriteriaCase(task, model, seed, target, options, state)
                if options.oracle:
                    case.run_oracle(options.criteria.split(","))
                else:
                    case.run_criteria(options.criteria.split(","))
                finish(out, options, state, quiet=True)
    finish(out, options, state, quiet=False)


def finish(out: Path, options: argparse.Namespace, state: State, *, quiet: bool) -> None:
    """Write what there is so far."""
    cells = list(state.rows.values())
    rows = oracle_rows(cells) if options.oracle else rows_of_cells(cells)
    found = oracle_summary(cells) if options.oracle else summary(cells)
    write_result(out, found, rows, as_json=options.json, quiet=quiet)


if __name__ == "__main__":
    main()
