"""What widths, blocks and resolutions are worth to a plan, in one unit of importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwprune.errors import UsageError
from hwprune.solve.domains import domain_values

#: Height and width of an input.
Side = tuple[int, int]


@dataclass(frozen=True)
class Worth:
    """Importance that a plan keeps.

    Attributes
    ----------
    groups
        For every group the importance kept at each width on offer, ascending widths.
    blocks
        What a removable block is worth besides its groups; 0 where there is no entry.
    resolutions
        What the model is worth less (0 or below) at each input resolution (height, width) besides its
        own; needed where there is one to choose from.
    constant
        Importance that is kept in any case.
    """

    groups: Mapping[str, tuple[float, ...]]
    blocks: Mapping[str, float] = field(default_factory=dict[str, float])
    resolutions: Mapping[Side, float] = field(default_factory=dict[Side, float])
    constant: float = 0.0

    @staticmethod
    def of_scores(scores: Mapping[str, np.ndarray], widths: Mapping[str, Sequence[int]]) -> Worth:
        """The sum of the best scores at every width.

        Parameters
        ----------
        scores
            For every group one comparable score per unit; higher means keep.
        widths
            For every group the widths on offer.

        Raises
        ------
        CriterionError
            A score is not finite.
        """
        return Worth({group: domain_values(scores[group], own) for group, own in widths.items()})

    def at_resolution(self, resolution: Side | None, *, alone: bool) -> float:
        """Importance that is kept in any case at a resolution; ``alone`` if there is no other.

        Raises
        ------
        UsageError
            Nothing says what the resolution costs.
        """
        if resolution is None or alone:
            return self.constant
        if resolution not in self.resolutions:
            raise UsageError(
                "several input resolutions are on offer, but nothing says what is lost at "
                f"{resolution[0]}x{resolution[1]}",
                hint="calibrate with held-out data, or give the loss of importance of every resolution",
            )
        return self.constant + self.resolutions[resolution]
