"""The exact mixed-integer linear form of a pruning problem.

Every group has one binary variable per width, of which exactly one is 1. A latency term over
several groups is a sum of products of those binaries. It becomes linear with transport variables
``z`` in [0, 1], one per combination of widths, whose marginals *equal* the binaries of every
group: with one-hot marginals the only such ``z`` is 1 at the chosen combination. Terms over one
group need no ``z``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from hwprune.errors import PlanError
from hwprune.solve.problem import Problem
from hwprune.solve.terms import Merged, merge_terms

#: Most combinations of widths that one term over three or more groups may have.
MAX_COMBINATIONS = 50_000


@dataclass(frozen=True)
class Formulation:
    """Variables are the binaries of all domains in order, then the transport variables.

    ``value`` and ``latency_ns`` are linear forms over the variables; the latency is that form plus
    ``constant_ns``, and the form is never negative. ``equal @ x == right`` are the one-hot and
    marginal equations.
    """

    problem: Problem
    offsets: tuple[int, ...]
    binaries: int
    value: np.ndarray
    latency_ns: np.ndarray
    constant_ns: float
    equal: sparse.csr_array
    right: np.ndarray

    def widths(self, x: np.ndarray) -> dict[str, int]:
        """The choice that a solution vector stands for."""
        ends = (*self.offsets[1:], self.binaries)
        return {
            d.group: d.widths[int(np.argmax(x[start:end]))]
            for d, start, end in zip(self.problem.domains, self.offsets, ends, strict=True)
        }

    def chosen(self, widths: Mapping[str, int]) -> np.ndarray:
        """Columns of the binaries that are 1 for a choice."""
        return np.array(
            [
                o + d.widths.index(widths[d.group])
                for d, o in zip(self.problem.domains, self.offsets, strict=True)
            ]
        )


def formulate(problem: Problem) -> Formulation:
    """Build the linear form.

    Raises
    ------
    PlanError
        A term couples more than two groups with more than ``MAX_COMBINATIONS`` combinations.
    """
    constant, merged = merge_terms(problem)
    sizes = [len(d.widths) for d in problem.domains]
    offsets = [0, *np.cumsum(sizes).tolist()]
    binaries = int(offsets[-1])
    value = [np.asarray(d.values, np.float64) for d in problem.domains]
    linear = np.zeros(binaries)
    transport: list[np.ndarray] = []
    blocks = _Blocks()
    for i, size in enumerate(sizes):
        blocks.add(np.full(size, i), np.arange(offsets[i], offsets[i + 1]), 1.0)
    row, column = len(sizes), binaries
    for term in merged:
        # One combination of every term is on, so its least cost is paid in any case.
        least = float(term.cost_ns.min())
        constant += least
        cost = term.cost_ns - least
        if len(term.axes) == 1:
            start = offsets[term.axes[0]]
            linear[start : start + cost.size] += cost
            continue
        _check_size(term, problem)
        transport.append(cost.ravel())
        index = np.indices(cost.shape).reshape(len(term.axes), -1)
        columns = column + np.arange(cost.size)
        for k, axis in enumerate(term.axes):
            blocks.add(row + index[k], columns, 1.0)
            blocks.add(row + np.arange(sizes[axis]), np.arange(offsets[axis], offsets[axis + 1]), -1.0)
            row += sizes[axis]
        column += cost.size
    right = np.zeros(row)
    right[: len(sizes)] = 1.0
    return Formulation(
        problem=problem,
        offsets=tuple(int(o) for o in offsets[:-1]),
        binaries=binaries,
        value=np.concatenate([*value, np.zeros(column - binaries)]),
        latency_ns=np.concatenate([linear, *transport]),
        constant_ns=constant,
        equal=blocks.matrix(row, column),
        right=right,
    )


class _Blocks:
    """Collects coordinates of a sparse matrix."""

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.columns: list[np.ndarray] = []
        self.entries: list[np.ndarray] = []

    def add(self, rows: np.ndarray, columns: np.ndarray, entry: float) -> None:
        self.rows.append(rows)
        self.columns.append(columns)
        self.entries.append(np.full(len(rows), entry))

    def matrix(self, rows: int, columns: int) -> sparse.csr_array:
        where = (np.concatenate(self.rows), np.concatenate(self.columns))
        return sparse.csr_array((np.concatenate(self.entries), where), shape=(rows, columns))


def _check_size(term: Merged, problem: Problem) -> None:
    combinations = math.prod(term.cost_ns.shape)
    if len(term.axes) > 2 and combinations > MAX_COMBINATIONS:
        groups = ", ".join(problem.domains[a].group for a in term.axes)
        raise PlanError(
            f"latency term '{term.names[0]}' couples {len(term.axes)} groups ({groups}) with "
            f"{combinations} combinations of widths; at most {MAX_COMBINATIONS} are possible",
            hint="offer fewer widths for these groups, or exclude one of them from pruning",
        )
