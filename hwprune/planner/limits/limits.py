"""Limits beside latency: the number of parameters, and the memory that a network needs at once.

Both are exact for every choice of widths. Memory is what must exist while a kernel runs: all
weights, as they are shipped (BatchNorm folded, float32), and the activations that are still to be
read, the kernel's own result included. The order of kernels is fixed, so the peak is within a budget
if and only if every step is; steps that can never be the peak are left out. What an allocator adds,
and what operators without a kernel of ours use inside, is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import BudgetError
from hwprune.extent import Extent
from hwprune.latency.fused import FusedGraph
from hwprune.latency.sizes import open_shape
from hwprune.planner.limits.amount import Amount, describe
from hwprune.planner.limits.sizes import Quantity, gathered
from hwprune.planner.removable import RemovableBlocks
from hwprune.solve.problem import Concat, Limit, Problem

#: Names of the limits; those of memory go on with the step, ``memory at layer1.0.conv1``.
PARAMETERS, MEMORY = "parameters", "memory"
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Needs:
    """What a network takes: parameters, and bytes of memory at its peak, which is at ``step``."""

    parameters: int
    bytes: int
    step: str


@dataclass(frozen=True)
class Sizes:
    """Parameters and memory of a network as functions of its widths.

    Attributes
    ----------
    parameters
        Elements of all parameters of the model, each counted once (tied ones too).
    weights
        Bytes of the weights of all kernels.
    live
        For every kernel, in order, its name and the bytes of activations while it runs.
    concats
        Sums of widths that occur in them.
    dense
        Full size of every group.
    """

    parameters: Quantity
    weights: Quantity
    live: tuple[tuple[str, Quantity], ...]
    concats: Mapping[str, Concat]
    dense: Mapping[str, int]

    @staticmethod
    def of(
        captured: Captured,
        deps: Dependencies,
        fused: FusedGraph,
        *,
        blocks: RemovableBlocks | None = None,
        concats: Sequence[Concat] = (),
    ) -> Sizes:
        """Read them off a captured model.

        Parameters
        ----------
        captured, deps, fused
            The model, its groups and its kernels.
        blocks
            Blocks that may be removed: what is theirs goes with them.
        concats
            Sums of widths that have a name already.
        """
        named = {concat.name: concat for concat in concats}
        found, kernels = ((), ()) if blocks is None else (blocks.blocks, blocks.removable)
        home = {name: block.name for block in found for name in (*block.nodes, *block.parameters)}
        home_of_step = {step: block.name for block in kernels for step in block.families}
        parameters = _parameters(captured, deps, home, named)
        weights = Quantity()
        for step, family in zip(fused.steps, fused.families(deps.extents), strict=True):
            for item in family.inputs:
                if item.role == "weight":
                    weights.add(gathered(item.shape, named), _FLOAT_BYTES, home_of_step.get(step.name))
        return Sizes(parameters, weights, _live(deps, fused, home, home_of_step), named, deps.dense_widths)

    def needs(self, widths: Mapping[str, int], removed: frozenset[str] = frozenset()) -> Needs:
        """Parameters and peak memory at widths of groups, without the blocks in ``removed``."""
        levels = self._levels(widths)
        step, live = max(
            ((name, quantity.at(levels, removed)) for name, quantity in self.live), key=lambda pair: pair[1]
        )
        weights = self.weights.at(levels, removed)
        return Needs(round(self.parameters.at(levels, removed)), round(weights + live), step)

    def limited(
        self, problem: Problem, parameters: Amount | None = None, memory: Amount | None = None
    ) -> Problem:
        """The problem with these limits added to its own; those that nothing can exceed are left out.

        Raises
        ------
        BudgetError
            Not even the smallest choice is within a limit; the message names what can be reached.
        """
        used = {concat.name for concat in problem.concats}
        added = tuple(c for name, c in self.concats.items() if name not in used)
        problem = replace(problem, concats=(*problem.concats, *added))
        smallest = {domain.group: domain.widths[0] for domain in problem.domains}
        most = self.needs(self.dense)
        least = self.needs(smallest, frozenset(block.name for block in problem.blocks))
        limits: list[Limit] = []
        if parameters is not None:
            at_most = _checked(parameters, most.parameters, least.parameters, PARAMETERS)
            if at_most < most.parameters:
                limits.append(_limit(PARAMETERS, self.parameters, problem, at_most, parameters.unit))
        if memory is not None:
            at_most = _checked(memory, most.bytes, least.bytes, MEMORY)
            largest = self._levels(problem.dense.widths)
            weights = self.weights.at(largest)
            for name, live in peaks(self.live, problem):
                # Where the largest network is within the budget every other one is, too.
                if weights + live.at(largest) > at_most:
                    quantity = self.weights.plus(live)
                    limits.append(_limit(f"{MEMORY} at {name}", quantity, problem, at_most, memory.unit))
        return replace(problem, limits=(*problem.limits, *limits))

    def _levels(self, widths: Mapping[str, int]) -> dict[str, int]:
        sums = {
            name: sum(n * widths[g] for g, n in zip(concat.groups, concat.channels, strict=True))
            for name, concat in self.concats.items()
        }
        return {**widths, **sums}


def peaks(live: Sequence[tuple[str, Quantity]], problem: Problem) -> list[tuple[str, Quantity]]:
    """Steps of which some choice may make the peak: those that no other step always exceeds."""
    kept: list[tuple[str, Quantity]] = []
    # The largest first: it is most likely to rule out others.
    dense = problem.dense.widths
    for name, quantity in sorted(live, key=lambda pair: -pair[1].at(dense)):
        if not any(_exceeds(other, quantity, problem) for _, other in kept):
            kept.append((name, quantity))
    return kept


def _exceeds(one: Quantity, other: Quantity, problem: Problem) -> bool:
    """Whether ``one`` is at least ``other`` for every choice."""
    difference = {
        key: one.coefficients.get(key, 0.0) - other.coefficients.get(key, 0.0)
        for key in one.coefficients.keys() | other.coefficients.keys()
    }
    if all(value >= 0 for value in difference.values()):
        return True
    if not Quantity(difference).linear:
        return False
    # A block's part is there or not, so it counts where it makes the difference smaller.
    total = 0.0
    for block in {block for block, _ in difference}:
        part = Quantity({key: value for key, value in difference.items() if key[0] == block})
        least = part.least(problem.all_levels)
        total += least if block is None else min(0.0, least)
    return total >= 0


def _limit(name: str, quantity: Quantity, problem: Problem, at_most: float, unit: str) -> Limit:
    fixed, terms = quantity.terms(name, problem)
    return Limit(name, terms, fixed, at_most, unit)


def _checked(amount: Amount, dense: int, least: int, what: str) -> float:
    at_most = math.floor(amount.of(dense))
    if at_most < least:
        raise BudgetError(
            f"the limit '{amount.asked}' on {what} cannot be reached: with everything at its smallest the "
            f"model still needs {describe(least, amount.unit)} ({least / dense:.1%} of the dense model's)",
            hint="ask for more than that, lower the minimum width, or let more layers be pruned",
        )
    return at_most


def _parameters(
    captured: Captured, deps: Dependencies, home: Mapping[str, str], concats: dict[str, Concat]
) -> Quantity:
    names = dict(captured.model.named_parameters(remove_duplicate=False))
    total = Quantity()
    counted: set[int] = set()
    for node in captured.graph.graph.nodes:
        own = names.get(str(node.target)) if node.op == "get_attr" else None
        if own is None or id(own) in counted:
            continue
        counted.add(id(own))
        total.add(gathered(_dims(node, deps), concats), 1.0, home.get(str(node.target)))
    unread = {id(p): p.numel() for p in names.values() if id(p) not in counted}
    return total.add((Extent(sum(unread.values())),), 1.0)


def _live(
    deps: Dependencies, fused: FusedGraph, home: Mapping[str, str], home_of_step: Mapping[str, str]
) -> tuple[tuple[str, Quantity], ...]:
    """Bytes of activations while each kernel runs.

    While a kernel of a block that is gone would run, what is alive around the block still is: that
    is never more than when the next kernel runs.
    """
    made = dict.fromkeys(fused.placeholders, -1) | {s.node: i for i, s in enumerate(fused.steps)}
    last = dict(made)
    for number, step in enumerate(fused.steps):
        last.update({item: number for item in step.inputs if isinstance(item, fx.Node)})
    last.update({node: len(fused.steps) for node in fused.outputs})
    found: list[tuple[str, Quantity]] = []
    for number, step in enumerate(fused.steps):
        live = Quantity()
        for node, begin in made.items():
            if begin <= number <= last[node]:
                # The result of a block's last kernel takes the shortcut's place once that kernel is gone.
                block = home_of_step.get(step.name) if begin == number else home.get(node.name)
                live.add(_dims(node, deps), node.meta["val"].dtype.itemsize, block)
        found.append((step.name, live))
    return tuple(found)


def _dims(node: fx.Node, deps: Dependencies) -> tuple[Extent, ...]:
    return open_shape(node, deps.extents)
