"""The exact mixed-integer linear form of a model.

Every node has one variable per level, of which exactly one is 1; those of groups and blocks are
binary. A factor over several nodes is a sum of products of those variables. It becomes linear with
transport variables ``z`` in [0, 1], one per combination of levels, whose marginals *equal* the
variables of every node: with one-hot marginals the only such ``z`` is 1 at the chosen combination.
A link is linear in the transport variables of its two ends, so partial sums need no binaries.

This is the bilinear program of MDP (Sun et al., 2024: widths at both ends of a layer, switches for
blocks) in an exactly linear form. Entries that bounds have ruled out get no variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from hwprune.errors import PlanError
from hwprune.solve.model import Factor, Model

#: Most combinations of levels that the linear form is made for.
MAX_COMBINATIONS = 1_000_000


@dataclass(frozen=True)
class Formulation:
    """Columns are the variables of all nodes in order, then the transport variables.

    ``rows`` (shape ``[rows of the model, columns]``, none negative) plus ``constant`` are the
    objective and what is used of each limit; ``equal @ x == right`` are all other equations.
    """

    model: Model
    levels: tuple[np.ndarray, ...]
    starts: tuple[int, ...]
    binary: np.ndarray
    rows: np.ndarray
    constant: np.ndarray
    equal: sparse.csr_array
    right: np.ndarray
    _transports: tuple[tuple[int, np.ndarray, tuple[int, ...]], ...]

    def decode(self, x: np.ndarray) -> np.ndarray:
        """Settled levels that a solution stands for."""
        found = [
            levels[int(np.argmax(x[start : start + levels.size]))] if levels.size > 1 else levels[0]
            for levels, start in zip(self.levels, self.starts, strict=True)
        ]
        return self.model.settle(np.array(found)[None, :])[0]

    def columns(self, levels: np.ndarray) -> np.ndarray | None:
        """Columns of nodes that are 1 for settled levels; ``None`` if a level was ruled out."""
        found: list[int] = []
        for kept, start, level in zip(self.levels, self.starts, levels, strict=True):
            at = int(np.searchsorted(kept, level))
            if at == kept.size or kept[at] != level:
                return None
            if kept.size > 1:
                found.append(start + at)
        return np.array(found, np.intp)

    def encode(self, levels: np.ndarray) -> np.ndarray | None:
        """The solution that stands for settled levels; ``None`` if one of them was ruled out."""
        columns = self.columns(levels)
        if columns is None:
            return None
        x = np.zeros(self.rows.shape[1])
        x[columns] = 1.0
        for start, entries, axes in self._transports:
            where = tuple(int(np.searchsorted(self.levels[a], levels[a])) for a in axes)
            entry = int(np.ravel_multi_index(where, [self.levels[a].size for a in axes]))
            at = int(np.searchsorted(entries, entry))
            if at == entries.size or entries[at] != entry:
                return None
            x[start + at] = 1.0
        return x


def formulate(model: Model, allowed: Sequence[np.ndarray] | None = None) -> Formulation | None:
    """Build the linear form; ``None`` if nothing is left to choose from.

    Parameters
    ----------
    allowed
        Per factor the entries that may be chosen; default all.

    Raises
    ------
    PlanError
        A factor has too many combinations of levels.
    """
    masks = [np.ones(f.shape, bool) for f in model.factors] if allowed is None else list(allowed)
    kept = _kept_levels(model, masks)
    if any(not k.size for k in kept):
        return None
    return _Builder(model, masks, kept).build()


def _kept_levels(model: Model, masks: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """Per node the levels that every factor over it still allows."""
    found = [np.ones(node.size, bool) for node in model.nodes]
    for factor, mask in zip(model.factors, masks, strict=True):
        for k, axis in enumerate(factor.axes):
            found[axis] &= mask.any(axis=tuple(j for j in range(len(factor.axes)) if j != k))
    for i, node in enumerate(model.nodes):
        if node.chosen and node.gate is not None:
            if not found[node.gate][0]:
                found[i][-1] = False
            if not found[node.gate][1]:
                found[i][:-1] = False
            if not found[i][-1]:
                found[node.gate][0] = False
            if not found[i][:-1].any():
                found[node.gate][1] = False
    return tuple(np.flatnonzero(f) for f in found)


class _Builder:
    def __init__(self, model: Model, masks: Sequence[np.ndarray], kept: tuple[np.ndarray, ...]) -> None:
        self.model = model
        self.masks = masks
        self.kept = kept
        sizes = [k.size if k.size > 1 else 0 for k in kept]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(int)
        self.at = int(self.starts[-1])
        self.constant = model.constant.copy()
        self.linear = np.zeros((len(model.rows), self.at))
        self.extra: list[np.ndarray] = []
        self.cells = _Cells()
        self.row = 0
        self.right: list[float] = []
        self.pairs: dict[tuple[int, ...], tuple[int, np.ndarray]] = {}
        self.transports: list[tuple[int, np.ndarray, tuple[int, ...]]] = []

    def build(self) -> Formulation:
        for i in range(len(self.kept)):
            if self._free(i):
                self._equation(self._columns(i), 1.0)
        for factor, mask in zip(self.model.factors, self.masks, strict=True):
            self._add_factor(factor, mask)
        for i, node in enumerate(self.model.nodes):
            if node.chosen and node.gate is not None:
                self._add_gate(i, node.gate, node.size - 1)
        for link in self.model.links:
            self._add_link(link.node, link.left, link.right, link.table)
        binary = np.zeros(self.at, bool)
        for i, node in enumerate(self.model.nodes):
            if node.chosen and self._free(i):
                binary[self._columns(i)] = True
        rows = np.concatenate([self.linear, *self.extra], axis=1)
        spans = [self._columns(i) for i in range(len(self.kept)) if self._free(i)]
        spans += [start + np.arange(entries.size) for start, entries, _ in self.transports]
        for span in spans:
            if span.size:
                # One of these columns is 1, so the least of their costs is paid in any case.
                least = rows[:, span].min(axis=1)
                rows[:, span] -= least[:, None]
                self.constant += least
        return Formulation(
            model=self.model,
            levels=self.kept,
            starts=tuple(int(s) for s in self.starts[:-1]),
            binary=binary,
            rows=rows,
            constant=self.constant,
            equal=self.cells.matrix(self.row, self.at),
            right=np.array(self.right),
            _transports=tuple(self.transports),
        )

    def _free(self, node: int) -> bool:
        return self.kept[node].size > 1

    def _columns(self, node: int) -> np.ndarray:
        return np.arange(self.starts[node], self.starts[node + 1])

    def _equation(self, columns: np.ndarray, right: float, minus: np.ndarray | None = None) -> None:
        """Sum of ``columns`` less sum of ``minus`` equals ``right``."""
        self.cells.add(np.full(len(columns), self.row), columns, 1.0)
        if minus is not None:
            self.cells.add(np.full(len(minus), self.row), minus, -1.0)
        self.right.append(right)
        self.row += 1

    def _add_factor(self, factor: Factor, mask: np.ndarray) -> None:
        where = np.ix_(*(self.kept[a] for a in factor.axes))
        free = tuple(a for a in factor.axes if self._free(a))
        shape = [self.kept[a].size for a in free]
        layers = factor.layers[(slice(None), *where)].reshape(len(self.model.rows), *shape)
        mask = mask[where].reshape(shape)
        if len(free) > 1:
            start, entries = self._transport(free, mask)
            self._spend(start, entries, layers)
        elif free:
            # Levels that this factor forbids are not among the kept ones.
            self.linear[:, self._columns(free[0])] += layers
        else:
            self.constant += layers.reshape(-1)

    def _spend(self, start: int, entries: np.ndarray, layers: np.ndarray) -> None:
        at = start - self.linear.shape[1]
        costs = layers.reshape(layers.shape[0], -1)[:, entries]
        for block in self.extra:
            if at < block.shape[1]:
                block[:, at : at + entries.size] += costs
                return
            at -= block.shape[1]

    def _transport(self, axes: tuple[int, ...], mask: np.ndarray) -> tuple[int, np.ndarray]:
        """Transport variables over some nodes, one set for all that depends on them."""
        if axes in self.pairs:
            start, entries = self.pairs[axes]
            closed = entries[~mask.ravel()[entries]]
            if closed.size:
                self._equation(start + np.searchsorted(entries, closed), 0.0)
            return start, entries
        if mask.size > MAX_COMBINATIONS:
            names = ", ".join(self.model.nodes[a].name for a in axes)
            raise PlanError(
                f"a cost couples {len(axes)} groups ({names}) with {mask.size} combinations of widths;"
                f" at most {MAX_COMBINATIONS} are possible",
                hint="offer fewer widths for these groups, or exclude one of them from pruning",
            )
        entries = np.flatnonzero(mask)
        start = self.at
        self.at += entries.size
        self.extra.append(np.zeros((len(self.model.rows), entries.size)))
        self.pairs[axes] = (start, entries)
        self.transports.append((start, entries, axes))
        index = np.unravel_index(entries, mask.shape)
        for k, axis in enumerate(axes):
            self.cells.add(self.row + index[k], start + np.arange(entries.size), 1.0)
            columns = self._columns(axis)
            self.cells.add(self.row + np.arange(columns.size), columns, -1.0)
            self.row += columns.size
            self.right += [0.0] * columns.size
        return start, entries

    def _add_gate(self, node: int, gate: int, gone: int) -> None:
        """A group is gone exactly where its block is."""
        mine = self._columns(node)[self.kept[node] == gone] if self._free(node) else np.zeros(0, int)
        theirs = self._columns(gate)[self.kept[gate] == 0] if self._free(gate) else np.zeros(0, int)
        if self._free(node) or self._free(gate):
            fixed = float(not self._free(gate) and self.kept[gate][0] == 0)
            fixed -= float(not self._free(node) and self.kept[node][0] == gone)
            self._equation(mine, fixed, theirs)

    def _add_link(self, node: int, left: int, right: int, table: np.ndarray) -> None:
        sums = table[np.ix_(self.kept[left], self.kept[right])]
        mask = np.isin(sums, self.kept[node])
        ends = tuple(a for a in (left, right) if self._free(a))
        if len(ends) == 2:
            if left > right:
                ends, sums, mask = (right, left), sums.T, mask.T
            start, entries = self._transport(ends, mask)
            columns, reached = start + np.arange(entries.size), sums.ravel()[entries]
        elif ends:
            columns, reached = self._columns(ends[0]), sums.ravel()
            if not mask.all():
                self._equation(columns[~mask.ravel()], 0.0)
        else:
            if self._free(node):
                self._equation(self._columns(node)[self.kept[node] == sums.ravel()[0]], 1.0)
            return
        if self._free(node):
            for column, level in zip(self._columns(node), self.kept[node], strict=True):
                self._equation(columns[reached == level], 0.0, np.array([column]))


class _Cells:
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
        if not self.rows:
            return sparse.csr_array((rows, columns))
        where = (np.concatenate(self.rows), np.concatenate(self.columns))
        return sparse.csr_array((np.concatenate(self.entries), where), shape=(rows, columns))
