"""The finished plan beside its rivals: the one with the least measured loss is taken.

Whatever the objective, it is a stand-in for the loss. So before a plan is accepted, it is carried out
and repaired on the model, and so are plans of the same latency that were made in other ways (by
uniform widths, greedily). Where one of them does better, it is the plan, and the result says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from hwprune.dependency.blocks import Block
from hwprune.errors import PlanError
from hwprune.planner.curves.meter import Meter, Repair
from hwprune.planner.workbench import Progress, silent
from hwprune.solve.domains import keep_best
from hwprune.solve.problem import Choice

#: A rival must have a loss lower by more than this share to take the first plan's place.
MARGIN = 0.01


@dataclass(frozen=True)
class Recheck:
    """Which plan was taken, and the measured losses behind that.

    Attributes
    ----------
    name, choice
        The plan that was taken.
    losses
        Held-out loss of every candidate after its repair, by name, the preferred plan first.
    dense_loss
        That of the model itself, None where it was not given.
    """

    name: str
    choice: Choice
    losses: Mapping[str, float]
    dense_loss: float | None = None

    @property
    def replaced(self) -> bool:
        """Whether a rival has taken the place of the preferred plan."""
        return self.name != next(iter(self.losses))

    def summary(self) -> str:
        """One sentence for people."""
        first = next(iter(self.losses))
        others = ", ".join(f"{n} {value:.4g}" for n, value in self.losses.items() if n != self.name)
        dense = "" if self.dense_loss is None else f"; dense {self.dense_loss:.4g}"
        beside = f" (beside {others}{dense})" if others else f" (alone{dense})"
        told = f"the {self.name} plan has the held-out loss {self.losses[self.name]:.4g} after repair{beside}"
        return f"{told}: it takes the place of the {first} plan" if self.replaced else told


def choose_by_loss(
    candidates: Mapping[str, Choice],
    evaluate: Callable[[Choice], float],
    *,
    margin: float = MARGIN,
    dense_loss: float | None = None,
    progress: Progress = silent,
) -> Recheck:
    """Measure every candidate and take the best.

    Parameters
    ----------
    candidates
        Plans by how they were made, the preferred one first. All must keep the budget. Equal ones
        are measured once.
    evaluate
        Held-out loss of a plan that was carried out and repaired; see :func:`loss_of_choices`.
        Infinite where the plan ruins the model.
    margin
        Share by which a rival's loss must be lower than the preferred plan's.
    dense_loss
        For the record.

    Raises
    ------
    PlanError
        There is no candidate, a loss is NaN, or every one of them is infinite.
    """
    if not candidates:
        raise PlanError("there is no plan to check by its loss", hint="give at least one candidate")
    losses: dict[str, float] = {}
    seen: dict[tuple[object, ...], float] = {}
    for number, (name, choice) in enumerate(candidates.items()):
        key = (tuple(sorted(choice.widths.items())), choice.removed)
        if key not in seen:
            seen[key] = evaluate(choice)
        losses[name] = seen[key]
        progress(f"check the {name} plan by its loss", number + 1, len(candidates))
        if math.isnan(losses[name]):
            raise PlanError(
                f"the held-out loss of the {name} plan is NaN",
                hint="look for NaN in the held-out data and in the repair",
            )
    taken = clearly_best(losses, margin)
    if math.isinf(losses[taken]):
        raise PlanError(
            "no plan has a finite held-out loss after its repair",
            hint="allow a larger budget, or repair more gently (a lower learning rate)",
        )
    return Recheck(taken, candidates[taken], losses, dense_loss)


def clearly_best(losses: Mapping[str, float], margin: float = MARGIN) -> str:
    """The first name, unless another one has a loss that is lower by more than ``margin``."""
    first = next(iter(losses))
    best = min(losses, key=lambda name: losses[name])
    # A loss below 0 (an own loss function) has no share: the margin is then one of its size.
    better = losses[best] < losses[first] - margin * abs(losses[first])
    return best if better or math.isinf(losses[first]) else first


def loss_of_choices(
    meter: Meter,
    scores: Mapping[str, np.ndarray | torch.Tensor],
    *,
    blocks: Sequence[Block] = (),
    repair: Repair | None = None,
) -> Callable[[Choice], float]:
    """What :func:`choose_by_loss` measures with: cut, blocks out, repair, loss.

    Parameters
    ----------
    meter
        The model and its held-out data.
    scores
        Per group one score per unit; the best are kept.
    blocks
        Those that choices may leave out.
    repair
        In place of the meter's own; a few steps of fine-tuning on training data are closest to what
        the finished model will go through.
    """
    order = {name: np.asarray(score, np.float64) for name, score in scores.items()}
    known = {block.name: block for block in blocks}

    def evaluate(choice: Choice) -> float:
        unknown = sorted(choice.removed - known.keys())
        if unknown:
            raise PlanError(
                f"the plan leaves out block {unknown[0]!r}, which is not among those given",
                hint=f"the blocks are {', '.join(known) or 'none'}",
            )
        keep = {group: keep_best(order[group], width) for group, width in choice.widths.items() if width > 0}
        return meter.choice(keep, [known[name] for name in sorted(choice.removed)], repair)

    return evaluate
