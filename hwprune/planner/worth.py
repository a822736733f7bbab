"""What widths, blocks and resolutions are worth to a plan, in one unit of importance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hwprune.errors import UsageError
from hwprune.solve.domains import domain_values


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
        What is lost at each input resolution; needed where there is more than one to choose from.
    constant
        Importance that is kept in any case.
    """

    groups: Mapping[str, tuple[float, ...]]
    blocks: Mapping[str, float] = field(default_factory=dict[str, float])
    resolutions: Mapping[int, float] = field(default_factory=dict[int, float])
    constant: float = 0.0

    @staticmethod
    def of_scores(
        scores: Mapping[str, np.ndarray],
        widths: Mapping[str, Sequence[int]],
        *,
        resolutions: Mapping[int, float] | None = None,
    ) -> Worth:
        """The sum of the best scores at every width.

        Parameters
        ----------
        scores
            For every group one comparable score per unit; higher means keep.
        widths
            For every group the widths on offer.
        resolutions
            What is lost at each input resolution, in the unit of the scores.

        Raises
        ------
        CriterionError
            A score is not finite.
        """
        found = {group: domain_values(scores[group], own) for group, own in widths.items()}
        return Worth(found, resolutions=dict(resolutions or {}))

    def at_resolution(self, resolution: int | None, *, alone: bool) -> float:
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
                f"several input resolutions are on offer, but nothing says what is lost at {resolution}",
                hint="calibrate with held-out data, or give the loss of importance of every resolution",
            )
        return self.constant - self.resolutions[resolution]
