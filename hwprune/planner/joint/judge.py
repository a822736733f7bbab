"""Networks within the budget near the end of a search, and which of them is best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from hwprune.errors import RepairError
from hwprune.importance.batches import device_of, split_batch
from hwprune.planner.joint.mapping import Architecture, Mapping
from hwprune.planner.joint.network import SharedNetwork
from hwprune.planner.joint.rounding import round_feasibly
from hwprune.repair.objective import Objective
from hwprune.repair.recalibrate import recalibrate_batchnorm
from hwprune.solve.problem import Problem

#: Perturbations drawn for each candidate wanted, at most: many round to the same network.
DRAWS = 3


def feasible_candidates(
    mapping: Mapping,
    problems: Sequence[Problem],
    vectors: Sequence[np.ndarray],
    sigma: np.ndarray,
    count: int,
    seed: int,
) -> list[Architecture]:
    """Different architectures within all limits near some vectors, those of the vectors themselves first.

    Parameters
    ----------
    sigma
        Standard deviation of perturbations of the first vector that make further ones.
    count
        How many are wanted; fewer come back where perturbations round to the same.

    Raises
    ------
    BudgetError
        Nothing keeps the limits.
    """
    rng = np.random.default_rng(seed)
    first = vectors[0]
    drawn = (first + sigma * rng.standard_normal(len(first)) for _ in range(DRAWS * count))
    found: dict[object, Architecture] = {}
    for v in (*vectors, *drawn):
        if len(found) >= max(count, 1):
            break
        near = round_feasibly(mapping, problems, mapping.space.clip(v))
        found.setdefault(near.key, near)
    return list(found.values())


def best_by_loss(
    network: SharedNetwork,
    candidates: Sequence[Architecture],
    calibration: Sequence[Any],
    evaluation: Sequence[Any],
    objective: Objective,
    progress: Callable[[str, int, int], None],
) -> tuple[Architecture, tuple[float, ...]]:
    """The candidate with the least held-out loss on the shared weights, and the loss of each.

    BatchNorm statistics are taken anew for each, from the same batches; those of the shared network
    belong to no architecture.

    Raises
    ------
    RepairError
        No candidate has a finite loss.
    """
    losses: list[float] = []
    for number, candidate in enumerate(candidates):
        progress("judge candidates", number, len(candidates))
        model = network.cut(candidate)
        recalibrate_batchnorm(model, calibration)
        device = device_of(model)
        total = count = 0.0
        with torch.no_grad():
            for raw in evaluation:
                batch = split_batch(raw, device=device)
                total += batch.size * float(objective(model, batch))
                count += batch.size
        losses.append(total / count)
    if not np.isfinite(losses).any():
        raise RepairError(
            f"held-out losses of all {len(losses)} candidates are not finite",
            hint="check the held-out data for NaN",
        )
    return candidates[int(np.nanargmin(losses))], tuple(losses)
