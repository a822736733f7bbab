"""A problem as nodes with levels and tables over them: the form that all solvers compute with.

A *node* is what has a level: a block (gone or there), a group (one of its widths) or a partial sum
of a concatenation. A *link* says how a partial sum follows from the sum before it and the width of
the next group, so that a kernel that reads twenty concatenated groups depends on one node. A
*factor* is a table over one or more nodes. It has one layer per *row*: the objective and every
limit, so whatever depends on the same nodes is held, looked up and linearised together.

A group that lies in a removable block has one more level, the last one: gone.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwprune.solve.problem import Choice, Problem


@dataclass(frozen=True)
class Node:
    """Something that has a level. ``gate`` is the node of the block that it lies in.

    ``chosen`` nodes (groups and blocks) are decided upon, the others follow from them.
    """

    name: str
    size: int
    gate: int | None
    chosen: bool


@dataclass(frozen=True)
class Link:
    """``level(node) = table[level(left), level(right)]``."""

    node: int
    left: int
    right: int
    table: np.ndarray


@dataclass(frozen=True)
class Factor:
    """What depends on the levels of ``axes`` (ascending, distinct), one layer per row of the model."""

    axes: tuple[int, ...]
    layers: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of levels of the axes."""
        return self.layers.shape[1:]


@dataclass(frozen=True)
class Model:
    """Maximise row 0 so that every row ``r > 0`` is at most ``at_most[r]``.

    A row is ``constant[r]`` plus the entries of layer ``r`` of all factors.

    Attributes
    ----------
    rows
        Names: the objective, then limits (and the floor of importance as a limit of its negative).
    blocks
        Position of the first group; nodes before it are blocks. Level 0 of a block is gone.
    """

    problem: Problem
    nodes: tuple[Node, ...]
    links: tuple[Link, ...]
    factors: tuple[Factor, ...]
    rows: tuple[str, ...]
    constant: np.ndarray
    at_most: np.ndarray
    blocks: int

    @property
    def groups(self) -> range:
        """Positions of the groups among the nodes."""
        return range(self.blocks, self.blocks + len(self.problem.domains))

    @cached_property
    def _flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All layers side by side; per factor where it starts, its axes and their strides."""
        widest = max((len(f.axes) for f in self.factors), default=0)
        axes = np.zeros((len(self.factors), widest), np.intp)
        strides = np.zeros((len(self.factors), widest), np.intp)
        starts = np.zeros(len(self.factors), np.intp)
        at = 0
        for i, factor in enumerate(self.factors):
            starts[i] = at
            axes[i, : len(factor.axes)] = factor.axes
            strides[i, : len(factor.axes)] = [
                int(np.prod(factor.shape[k + 1 :], dtype=int)) for k in range(len(factor.axes))
            ]
            at += int(np.prod(factor.shape, dtype=int))
        layers = [f.layers.reshape(len(self.rows), -1) for f in self.factors]
        flat = np.concatenate(layers, axis=1) if layers else np.zeros((len(self.rows), 0))
        return flat, starts, axes, strides

    def most(self) -> float:
        """Every factor at its best for the objective: a bound that takes no search."""
        return math.fsum([float(self.constant[0]), *(float(f.layers[0].max()) for f in self.factors)])

    def settle(self, levels: np.ndarray) -> np.ndarray:
        """Levels (``[choices, nodes]``) with everything that follows from groups and blocks filled in."""
        levels = np.array(levels)
        for i in self.groups:
            node = self.nodes[i]
            if node.gate is not None:
                there = np.minimum(levels[:, i], node.size - 2)
                levels[:, i] = np.where(levels[:, node.gate] == 0, node.size - 1, there)
        for link in self.links:
            levels[:, link.node] = link.table[levels[:, link.left], levels[:, link.right]]
        return levels

    def price(self, levels: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Rows (``[rows, choices]``; default all) of settled levels (``[choices, nodes]``)."""
        flat, starts, axes, strides = self._flat
        where = starts + (levels[:, axes] * strides).sum(axis=2)
        constant = self.constant
        if rows is not None:
            flat, constant = flat[rows], constant[rows]
        return constant[:, None] + flat[:, where].sum(axis=2)

    def weighted(self, weights: np.ndarray) -> list[np.ndarray]:
        """Per factor the sum of its layers, by weights of the rows."""
        flat, starts, _, _ = self._flat
        rows = np.flatnonzero(weights)
        total = weights[rows] @ flat[rows]
        sizes = [math.prod(factor.shape) for factor in self.factors]
        return [
            total[start : start + size].reshape(factor.shape)
            for factor, start, size in zip(self.factors, starts.tolist(), sizes, strict=True)
        ]

    def choice(self, levels: np.ndarray) -> Choice:
        """What settled levels (``[nodes]``) stand for."""
        removed = frozenset(self.nodes[i].name for i in range(self.blocks) if not levels[i])
        widths: dict[str, int] = {}
        for i, domain in zip(self.groups, self.problem.domains, strict=True):
            level = int(levels[i])
            widths[domain.group] = domain.widths[level] if level < len(domain.widths) else 0
        return Choice(widths, removed)

    def levels(self, choice: Choice) -> np.ndarray:
        """Inverse of :meth:`choice`."""
        found = np.zeros((1, len(self.nodes)), np.intp)
        for i in range(self.blocks):
            found[0, i] = self.nodes[i].name not in choice.removed
        for i, domain in zip(self.groups, self.problem.domains, strict=True):
            width = choice.widths[domain.group]
            found[0, i] = domain.widths.index(width) if width in domain.widths else 0
        return self.settle(found)[0]


def build_model(problem: Problem) -> Model:
    """The model of a problem that has been checked."""
    return _Builder(problem).build()


class _Builder:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.nodes: list[Node] = []
        self.links: list[Link] = []
        self.position: dict[str, int] = {}
        self.gates = {block.name: i for i, block in enumerate(problem.blocks)}
        self.layers: dict[tuple[int, ...], np.ndarray] = {}
        self.rows = ["objective", *(f"limit {limit.name}" for limit in problem.limits), "floor"]
        self.constant = np.zeros(len(self.rows))
        self.at_most = np.array([np.inf, *(limit.at_most for limit in problem.limits), -problem.floor])

    def build(self) -> Model:
        self._add_nodes()
        self._add_value()
        for row, limit in enumerate(self.problem.limits, 1):
            self.constant[row] += limit.fixed
            for term in limit.terms:
                axes = [self.position[axis] for axis in term.axes]
                self._add(row, axes, np.asarray(term.cost_ns, np.float64), term.block)
        self._set_objective()
        keep = self._binding()
        return Model(
            problem=self.problem,
            nodes=tuple(self.nodes),
            links=tuple(self.links),
            factors=tuple(Factor(axes, self.layers[axes][keep]) for axes in sorted(self.layers)),
            rows=tuple(self.rows[row] for row in keep),
            constant=self.constant[keep],
            at_most=self.at_most[keep],
            blocks=len(self.problem.blocks),
        )

    def _add_nodes(self) -> None:
        self.nodes += [Node(block.name, 2, None, True) for block in self.problem.blocks]
        for domain in self.problem.domains:
            gate = None if domain.block is None else self.gates[domain.block]
            self.position[domain.group] = len(self.nodes)
            self.nodes.append(Node(domain.group, len(domain.widths) + (gate is not None), gate, True))
        sums: dict[tuple[tuple[str, int], ...], tuple[int, tuple[int, ...]]] = {}
        for concat in self.problem.concats:
            per_unit: dict[str, int] = {}
            for group, channels in zip(concat.groups, concat.channels, strict=True):
                per_unit[group] = per_unit.get(group, 0) + channels
            self.position[concat.name] = self._sum(tuple(per_unit.items()), sums)[0]

    def _sum(
        self,
        parts: tuple[tuple[str, int], ...],
        known: dict[tuple[tuple[str, int], ...], tuple[int, tuple[int, ...]]],
    ) -> tuple[int, tuple[int, ...]]:
        """Node of a partial sum, and its totals. Sums that begin alike share their nodes."""
        if parts in known:
            return known[parts]
        group, channels = parts[-1]
        right = self.position[group]
        added = tuple(channels * width for width in self.problem.domain(group).widths)
        if len(parts) == 1:
            known[parts] = (right, added)
            return known[parts]
        left, before = self._sum(parts[:-1], known)
        sums = np.add.outer(np.array(before), np.array(added))
        totals = np.unique(sums)
        gate = self.nodes[left].gate if self.nodes[left].gate is not None else self.nodes[right].gate
        # Where one part is gone, so is the sum.
        table = np.full((self.nodes[left].size, self.nodes[right].size), totals.size)
        table[: len(before), : len(added)] = np.searchsorted(totals, sums)
        node = len(self.nodes)
        name = " + ".join(name for name, _ in parts)
        self.nodes.append(Node(name, totals.size + (gate is not None), gate, False))
        self.links.append(Link(node, left, right, table))
        known[parts] = (node, tuple(totals.tolist()))
        return known[parts]

    def _add_value(self) -> None:
        self.constant[-1] -= self.problem.constant_value
        for domain in self.problem.domains:
            self._add(-1, [self.position[domain.group]], -np.array(domain.values), domain.block)
        for block in self.problem.blocks:
            self._add(-1, [], np.array(-block.value), block.name)

    def _add(self, row: int, axes: list[int], table: np.ndarray, block: str | None) -> None:
        """Add a table to a row; ``axes`` in any order, repeated ones mean the diagonal."""
        distinct = sorted(set(axes))
        table = np.einsum(table, [distinct.index(a) for a in axes], list(range(len(distinct))))
        gated = [self.nodes[a].gate is not None for a in distinct]
        if any(gated):
            table = np.pad(table, [(0, int(gone)) for gone in gated])
        if block is not None and not any(gated):
            # Blocks come before groups and sums, so this axis is the first.
            distinct = [self.gates[block], *distinct]
            table = np.stack([np.zeros_like(table), table])
        keep = [k for k, size in enumerate(table.shape) if size > 1]
        where = tuple(distinct[k] for k in keep)
        table = table.reshape([table.shape[k] for k in keep])
        if not where:
            self.constant[row] += float(table)
            return
        if where not in self.layers:
            self.layers[where] = np.zeros((len(self.rows), *table.shape))
        self.layers[where][row] += table

    def _set_objective(self) -> None:
        name = self.problem.minimise
        row = -1 if name is None else 1 + [limit.name for limit in self.problem.limits].index(name)
        self.constant[0] = -self.constant[row]
        for layers in self.layers.values():
            layers[0] = -layers[row]

    def _binding(self) -> list[int]:
        """The objective and the rows that some choice could break."""
        most = self.constant + sum(
            layers.reshape(len(self.rows), -1).max(axis=1) for layers in self.layers.values()
        )
        size = np.abs(self.constant) + sum(
            np.abs(layers.reshape(len(self.rows), -1)).max(axis=1) for layers in self.layers.values()
        )
        broken = most + 1e-9 * size > self.at_most
        return [0, *itertools.compress(range(1, len(self.rows)), broken[1:])]
