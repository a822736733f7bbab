"""Sizes of tensor dimensions as functions of group widths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """The size of one tensor dimension as a function of group widths.

    ``fixed`` positions are always there; each term ``(group, k)`` adds ``k`` positions for every
    kept unit of the group (``k`` is H*W behind a flatten, the group count of a grouped
    convolution, 1 otherwise).
    """

    fixed: int
    terms: tuple[tuple[str, int], ...] = ()

    def at(self, widths: Mapping[str, int]) -> int:
        """Positions when every group has the given width."""
        return self.fixed + sum(k * widths[group] for group, k in self.terms)

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(group for group, _ in self.terms))
