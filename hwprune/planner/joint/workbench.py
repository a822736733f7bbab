"""The joint solver for a planning loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.importance.registry import Loss
from hwprune.planner.joint.network import Variant
from hwprune.planner.joint.options import JointOptions
from hwprune.planner.joint.solver import JointSolver
from hwprune.planner.workbench import Workbench
from hwprune.planner.worth import Side


def joint_solver(
    benches: Mapping[Side | None, Workbench],
    scores: Mapping[str, np.ndarray],
    *,
    data: Iterable[Any] | None,
    held_out: Iterable[Any] | None,
    depth: bool = False,
    loss: Loss | None = None,
    options: JointOptions | None = None,
    checkpoint: Path | None = None,
) -> JointSolver[Side | None]:
    """JointPruning as the ``solve`` of a :class:`hwprune.planner.loop.PlanningLoop`.

    Parameters
    ----------
    benches
        The network at every input resolution on offer, by the resolution of the loop's columns (None:
        its own).
    scores
        Per group one score per unit; those that the plan is made with.
    data, held_out
        Labelled batches that train the shared weights, and others that judge networks.
    depth
        Residual blocks may go, those that the workbenches call removable.
    loss
        ``(outputs, targets) -> scalar``; cross entropy by default.
    options
        Length and steps of the search.
    checkpoint
        File from which an interrupted search goes on.

    Raises
    ------
    UsageError
        Data is missing, empty, or can be read only once.
    """
    variants = {
        resolution: Variant(bench.captured, bench.deps, bench.blocks.blocks if depth else ())
        for resolution, bench in benches.items()
    }
    progress = next(iter(benches.values())).progress
    return JointSolver(
        variants,
        scores,
        data=data,
        held_out=held_out,
        loss=loss,
        options=options,
        checkpoint=checkpoint,
        progress=progress,
    )
