"""What a criterion may say of widths, beside which units are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hwprune.errors import BudgetError


@dataclass(frozen=True)
class Floors:
    """Least widths by group name, and the share that they keep of what the criterion measures."""

    share: float
    widths: Mapping[str, int]


@dataclass(frozen=True)
class Allocation:
    """Least widths of groups, and what widths are worth.

    Attributes
    ----------
    floors
        The strictest first. Several are to be tried in this order until a budget can be kept with
        them; a single one is meant as it is.
    strengths
        Per group ``[size]``, on one scale for all groups: a width ``n`` is worth the sum of the ``n``
        greatest. Not the scores of units: strengths belong to directions, which mix units.
    """

    floors: tuple[Floors, ...]
    strengths: Mapping[str, np.ndarray]

    def fitting(self, fits: Callable[[Mapping[str, int]], bool]) -> Floors:
        """The strictest floors with which a budget can be kept.

        Parameters
        ----------
        fits
            Whether some network with these widths or wider ones keeps the budget.

        Raises
        ------
        BudgetError
            None of them fits.
        """
        for each in self.floors:
            if fits(each.widths):
                return each
        raise BudgetError(
            f"the floors that keep {self.floors[-1].share:.0%} of the energy leave nothing within the budget",
            hint="ask for less, or plan without floors",
        )
