"""Where a search begins: about uniform, and within the budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.rounding import round_feasibly
from hwprune.solve.problem import Problem

#: Fractions tried, from the largest.
STEPS = 50


def start_vector(mapping: Mapping, problems: Sequence[Problem]) -> np.ndarray:
    """The largest common fraction of all widths that keeps every limit, at full depth and resolution.

    Where no width does, depth and resolution shrink, too; where that is not enough, the vector of
    the architecture nearest to the smallest one that keeps them.

    Raises
    ------
    BudgetError
        No architecture keeps the limits; the message names the closest that can be reached.
    """
    space = mapping.space
    widths = np.array([c.kind == "width" for c in space.coordinates])
    for only_widths in (True, False):
        for fraction in np.linspace(1.0, 0.0, STEPS + 1):
            v = space.clip(np.where(widths | (not only_widths), fraction, 1.0))
            found = mapping.at(v)
            if problems[found.variant].keeps(found.choice):
                return v
    return mapping.vector(round_feasibly(mapping, problems, space.lower))
