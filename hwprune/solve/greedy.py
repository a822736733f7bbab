"""Greedy search: one step down at a time, the one that saves most per lost importance.

This is the step rule of NetAdapt (Yang et al., 2018) with importance in the place of its short
fine-tuning, and with the removal of a block as one more kind of step. It exists for comparison with
the optimal solver, which it gives a choice to start from.
"""

from __future__ import annotations

import time

import numpy as np

from hwprune.errors import BudgetError
from hwprune.solve.checks import check_problem
from hwprune.solve.model import Model, build_model
from hwprune.solve.problem import Problem, Solution


def solve_greedy(problem: Problem) -> Solution:
    """Go down step by step until all limits are kept.

    With an objective that is to be least, steps that lower it are taken as long as the importance
    stays above its floor. The bound of the result is the sum of all largest values, the only one
    that this search proves.

    Raises
    ------
    BudgetError
        No further step saves anything and a limit is not kept. That does not prove it
        unreachable; the optimal solver can tell.
    PlanError
        The problem contradicts itself.
    """
    start = time.perf_counter()
    check_problem(problem)
    model = build_model(problem)
    choice = model.choice(lower_greedily(model, model.at_most[1:]))
    if not problem.keeps(choice):
        raise BudgetError(
            f"greedy search ends where {what_is_broken(problem, model, model.levels(choice))}",
            hint="use the milp solver, which finds what can be reached, or ask for more",
        )
    return Solution.of(
        problem,
        choice,
        bound=model.most(),
        seconds=time.perf_counter() - start,
        solver="greedy",
    )


def what_is_broken(problem: Problem, model: Model, levels: np.ndarray) -> str:
    """The first limit that levels break, in words."""
    choice = model.choice(levels)
    for limit in problem.limits:
        usage = problem.usage(limit, choice)
        if usage > limit.at_most:
            scale, unit = (1e6, "ms") if limit.unit == "ns" else (1.0, limit.unit)
            return (
                f"the {limit.name} is {usage / scale:.6g} {unit}, "
                f"above the budget of {limit.at_most / scale:.6g} {unit}"
            )
    return f"the importance is {problem.value(choice):.6g}, below the floor of {problem.floor:.6g}"


def lower_greedily(model: Model, at_most: np.ndarray) -> np.ndarray:
    """Levels where the search ends; limits may still be broken."""
    return _Descent(model, at_most).run()


class _Descent:
    """State of the search: the levels, and what every step down from them would change."""

    def __init__(self, model: Model, at_most: np.ndarray) -> None:
        self.model, self.at_most = model, at_most
        self.levels = model.levels(model.problem.dense)
        self.rows = model.price(self.levels[None, :])[:, 0]
        self.unit, self.target = self._targets()
        self.deltas = np.zeros((len(model.rows), len(self.unit)))
        self.near = _neighbours(model)
        self._price(np.ones(len(self.unit), bool))

    def run(self) -> np.ndarray:
        while True:
            over = self.rows[1:] > self.at_most
            step = self._down(over) if over.any() else self._better()
            if step is None:
                return self.levels
            unit = int(self.unit[step])
            self.levels[unit] = self.target[step]
            self.levels = self.model.settle(self.levels[None, :])[0]
            self.rows = self.model.price(self.levels[None, :])[:, 0]
            self._price(self.near[unit][self.unit])

    def _targets(self) -> tuple[np.ndarray, np.ndarray]:
        """All steps, of each node from the nearest to the farthest."""
        pairs = [(b, 0) for b in range(self.model.blocks)]
        for i in self.model.groups:
            pairs += [(i, level) for level in range(int(self.levels[i]) - 1, -1, -1)]
        table = np.array(pairs, np.intp).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _price(self, steps: np.ndarray) -> None:
        at = np.flatnonzero(steps)
        if at.size:
            changed = np.repeat(self.levels[None, :], at.size, axis=0)
            changed[np.arange(at.size), self.unit[at]] = self.target[at]
            self.deltas[:, at] = self.model.price(self.model.settle(changed)) - self.rows[:, None]

    def _open(self) -> np.ndarray:
        """Steps that lead down from here."""
        gates = np.array([-1 if n.gate is None else n.gate for n in self.model.nodes], np.intp)[self.unit]
        there = (gates < 0) | (self.levels[gates] > 0)
        return there & (self.target < self.levels[self.unit])

    def _down(self, over: np.ndarray) -> int | None:
        """The nearest saving step of every node, of these the one with the best rate."""
        weights = over / np.maximum(np.abs(self.at_most), 1e-300)
        weights = weights / weights.max()
        saved = -(weights @ self.deltas[1:])
        return self._best_rate(saved, -self.deltas[0], self._open() & (saved > 0))

    def _better(self) -> int | None:
        """A step that serves the objective and keeps all limits."""
        after = self.rows[1:, None] + self.deltas[1:]
        fits = (after <= self.at_most[:, None]).all(axis=0) & self._open()
        gained = self.deltas[0]
        used = (self.deltas[1:] / np.maximum(np.abs(self.at_most), 1e-300)[:, None]).sum(axis=0)
        return self._best_rate(gained, used, fits & (gained > 1e-12 * (1.0 + abs(self.rows[0]))))

    def _best_rate(self, gained: np.ndarray, paid: np.ndarray, good: np.ndarray) -> int | None:
        steps = np.flatnonzero(good)
        if not steps.size:
            return None
        _, first = np.unique(self.unit[steps], return_index=True)
        steps = steps[first]
        with np.errstate(divide="ignore", over="ignore"):
            rates = np.where(paid[steps] > 0, gained[steps] / np.maximum(paid[steps], 1e-300), np.inf)
        best = max(range(len(steps)), key=lambda k: (rates[k], gained[steps[k]]))
        return int(steps[best])


def _neighbours(model: Model) -> np.ndarray:
    """Which chosen node's steps (columns) are worth something else once a node (row) has moved."""
    count = len(model.nodes)
    moves = np.eye(count, dtype=bool)  # moves[u, v]: v may change with u
    for i in model.groups:
        gate = model.nodes[i].gate
        if gate is not None:
            moves[gate, i] = True
    for link in model.links:
        moves[:, link.node] |= moves[:, link.left] | moves[:, link.right]
    reads = moves.copy()  # reads[u, v]: what a step of u is worth depends on v
    for factor in model.factors:
        axes = list(factor.axes)
        reads[:, axes] |= moves[:, axes].any(axis=1, keepdims=True)
    for link in model.links:
        reads[:, [link.left, link.right]] |= moves[:, [link.node]]
    common: np.ndarray = moves.astype(np.intp) @ reads.T.astype(np.intp)
    return common > 0
