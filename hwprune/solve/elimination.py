"""The best choice by a weighted sum of rows, exactly, by eliminating one node after the other.

A sum of tables over few nodes each is maximised by variable elimination (Bertele and Brioschi,
1972; as "bucket elimination" Dechter, 1999): the tables that contain a node are added, and the node
is maximised away. A second pass backwards gives, for every entry of every table, the best that any
choice with that entry can reach. Networks are chains with short side branches, so the tables in
between stay small; where one would not, the sum is split (mini-buckets, Dechter and Rish, 2003),
and everything is an upper bound instead.

A node that follows from two others by a link needs no maximisation: it is replaced by them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hwprune.solve.model import Link, Model

#: Most entries of a table that elimination makes.
MAX_ENTRIES = 2_000_000


@dataclass(frozen=True)
class _Step:
    """Maximise ``node`` away from the sum of ``inputs``; with a link, replace it in the one input.

    ``entries`` then says for every entry over ``axes`` which one of the input it is.
    """

    node: int
    inputs: tuple[int, ...]
    axes: tuple[int, ...]
    output: int
    link: Link | None = None
    entries: np.ndarray = field(default_factory=lambda: np.zeros(0, np.intp))


@dataclass(frozen=True)
class Swept:
    """The outcome of a pass: the best (or a bound on it), the choice behind it, and the tables."""

    best: float
    levels: np.ndarray
    tables: list[np.ndarray]
    sums: list[np.ndarray]


class Elimination:
    """Order and shapes of the tables for one model, reused for every weighting of its rows.

    Attributes
    ----------
    exact
        Whether the best is reached by a choice; otherwise it is an upper bound.
    """

    def __init__(self, model: Model, max_entries: int = MAX_ENTRIES) -> None:
        self.model = model
        self.sizes = [node.size for node in model.nodes]
        self.max_entries = max_entries
        self.exact = True
        self.scopes: list[tuple[int, ...]] = [f.axes for f in model.factors]
        self._gates: list[np.ndarray] = []
        for i, node in enumerate(model.nodes):
            if node.chosen and node.gate is not None:
                # Gone exactly where the block is gone.
                table = np.full((2, node.size), -np.inf)
                table[0, -1] = 0.0
                table[1, :-1] = 0.0
                self.scopes.append((node.gate, i))
                self._gates.append(table)
        self.inputs = len(self.scopes)
        self.steps: list[_Step] = []
        self._plan()

    def sweep(self, weights: np.ndarray, allowed: Sequence[np.ndarray] | None = None) -> Swept:
        """Maximise the sum of rows times weights; constants are left out.

        Parameters
        ----------
        weights
            Shape ``[rows]``.
        allowed
            Per factor of the model the entries that may be chosen; default all.
        """
        tables = self.model.weighted(weights)
        if allowed is not None:
            tables = [np.where(may, t, -np.inf) for t, may in zip(tables, allowed, strict=True)]
        tables += self._gates
        sums: list[np.ndarray] = []
        for step in self.steps:
            if step.link is not None:
                tables.append(tables[step.inputs[0]].ravel()[step.entries])
                sums.append(tables[-1])
                continue
            total = _expanded(tables[step.inputs[0]], self.scopes[step.inputs[0]], step.axes)
            for i in step.inputs[1:]:
                total = total + _expanded(tables[i], self.scopes[i], step.axes)
            sums.append(total)
            tables.append(total.max(axis=step.axes.index(step.node)))
        ends = [i for i, scope in enumerate(self.scopes) if not scope]
        return Swept(math.fsum(float(tables[i]) for i in ends), self._decode(sums), tables, sums)

    def marginals(self, swept: Swept) -> list[np.ndarray]:
        """Per factor of the model: the best (or a bound on it) of all choices with that entry."""
        totals: list[np.ndarray | None] = [None] * len(self.scopes)
        for i, scope in enumerate(self.scopes):
            if not scope:
                totals[i] = np.array(swept.best)
        for step, total in zip(reversed(self.steps), reversed(swept.sums), strict=True):
            out = totals[step.output]
            assert out is not None
            if step.link is not None:
                where = step.inputs[0]
                totals[where] = _best_per_entry(out, step.entries, swept.tables[where].shape)
                continue
            reached = swept.tables[step.output]
            # What is impossible stays so; a difference of infinities would not say that.
            with np.errstate(invalid="ignore"):
                others = np.where(np.isneginf(reached), -np.inf, out - reached)
            belief = total + _expanded(others, self.scopes[step.output], step.axes)
            for i in step.inputs:
                gone = tuple(k for k, a in enumerate(step.axes) if a not in self.scopes[i])
                totals[i] = belief.max(axis=gone)
        found = totals[: len(self.model.factors)]
        assert all(t is not None for t in found)
        return [t for t in found if t is not None]

    def _decode(self, sums: list[np.ndarray]) -> np.ndarray:
        levels = np.zeros(len(self.sizes), np.intp)
        done: set[int] = set()
        for step, total in zip(reversed(self.steps), reversed(sums), strict=True):
            if step.node in done:
                continue
            done.add(step.node)
            if step.link is not None:
                levels[step.node] = step.link.table[levels[step.link.left], levels[step.link.right]]
                continue
            where = tuple(slice(None) if a == step.node else levels[a] for a in step.axes)
            levels[step.node] = int(np.argmax(total[where]))
        return self.model.settle(levels[None, :])[0]

    def _plan(self) -> None:
        live = set(range(self.inputs))
        links = {link.node: link for link in self.model.links}
        left = [i for i, size in enumerate(self.sizes) if size > 1]
        while left:
            waiting = {parent for n in left if n in links for parent in (links[n].left, links[n].right)}
            node = min((n for n in left if n not in waiting), key=lambda n: (self._cost(n, live, links), n))
            left.remove(node)
            touching = sorted(i for i in live if node in self.scopes[i])
            live.difference_update(touching)
            if node in links:
                for i in touching:
                    axes = {*self.scopes[i], links[node].left, links[node].right} - {node}
                    kept = tuple(sorted(a for a in axes if self.sizes[a] > 1))
                    self.scopes.append(kept)
                    entries = self._entries_of(self.scopes[i], kept, links[node])
                    self.steps.append(_Step(node, (i,), kept, len(self.scopes) - 1, links[node], entries))
                    live.add(len(self.scopes) - 1)
                continue
            for inputs in self._buckets(touching):
                axes = tuple(sorted({a for i in inputs for a in self.scopes[i]}))
                self.scopes.append(tuple(a for a in axes if a != node))
                self.steps.append(_Step(node, tuple(inputs), axes, len(self.scopes) - 1))
                live.add(len(self.scopes) - 1)

    def _entries_of(self, scope: tuple[int, ...], axes: tuple[int, ...], link: Link) -> np.ndarray:
        """Where in a table over ``scope`` those over ``axes`` are, in which the linked node is replaced."""
        at: dict[int, np.ndarray] = dict(zip(axes, np.indices([self.sizes[a] for a in axes]), strict=True))
        zero = np.zeros([self.sizes[a] for a in axes], np.intp)
        at[link.node] = link.table[at.get(link.left, zero), at.get(link.right, zero)]
        return np.ravel_multi_index(tuple(at[a] for a in scope), [self.sizes[a] for a in scope])

    def _cost(self, node: int, live: set[int], links: dict[int, Link]) -> int:
        """Entries of the tables that eliminating a node would make."""
        scopes = [self.scopes[i] for i in live if node in self.scopes[i]]
        axes = {a for s in scopes for a in s}
        if node in links and scopes:
            # Tables are replaced one by one, but they will meet when the parents are eliminated.
            axes = axes - {node} | {links[node].left, links[node].right}
        return self._entries(axes)

    def _entries(self, axes: set[int]) -> int:
        return math.prod(self.sizes[a] for a in axes)

    def _buckets(self, touching: list[int]) -> list[list[int]]:
        """All in one, or in several where one would be too large."""
        if self._entries({a for i in touching for a in self.scopes[i]}) <= self.max_entries:
            return [touching] if touching else []
        self.exact = False
        buckets: list[tuple[list[int], set[int]]] = []
        for i in sorted(touching, key=lambda i: (-self._entries(set(self.scopes[i])), i)):
            axes = set(self.scopes[i])
            for inputs, scope in buckets:
                if self._entries(scope | axes) <= self.max_entries:
                    inputs.append(i)
                    scope |= axes
                    break
            else:
                buckets.append(([i], axes))
        return [inputs for inputs, _ in buckets]


def _expanded(table: np.ndarray, scope: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """A view that broadcasts over ``axes``, of which ``scope`` is a part in the same order."""
    sizes = iter(table.shape)
    return table.reshape([next(sizes) if a in scope else 1 for a in axes])


def _best_per_entry(values: np.ndarray, entries: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The largest of the values that belong to each entry; minus infinity where there is none."""
    best = np.full(math.prod(shape), -np.inf)
    np.maximum.at(best, entries.ravel(), values.ravel())
    return best.reshape(shape)
