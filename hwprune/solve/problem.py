"""The optimisation problem: which width for every group, under a latency budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Domain:
    """The widths a group may take, ascending, and the importance kept at each.

    ``widths`` are numbers of kept units; alignment, minimum widths and protection are already
    in them. ``values[i]`` is the importance kept at ``widths[i]`` (nondecreasing).
    """

    group: str
    widths: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Term:
    """Latency of one or several kernels as a function of the widths of ``groups``.

    ``cost_ns`` has one axis per group, in order, indexed like the domain's ``widths``.
    """

    name: str
    groups: tuple[str, ...]
    cost_ns: np.ndarray


@dataclass(frozen=True)
class Problem:
    """Maximise kept importance subject to ``fixed_ns + sum of terms <= budget_ns``."""

    domains: tuple[Domain, ...]
    terms: tuple[Term, ...]
    fixed_ns: float
    budget_ns: float

    def latency_ns(self, widths: Mapping[str, int]) -> float:
        """Latency of a choice of widths, by the problem's own terms."""
        index = {d.group: d.widths.index(widths[d.group]) for d in self.domains}
        return self.fixed_ns + sum(float(t.cost_ns[tuple(index[g] for g in t.groups)]) for t in self.terms)

    def value(self, widths: Mapping[str, int]) -> float:
        """Importance kept by a choice of widths."""
        return sum(d.values[d.widths.index(widths[d.group])] for d in self.domains)


@dataclass(frozen=True)
class Solution:
    """A feasible choice with its proof.

    ``bound`` is the proven upper bound on the value; ``gap`` is ``(bound - value) / max(|bound|, tiny)``.
    """

    widths: Mapping[str, int]
    value: float
    latency_ns: float
    bound: float
    gap: float
    seconds: float
    solver: str
