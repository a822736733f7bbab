"""The optimisation problem of one network on one device, from what has been measured."""

from __future__ import annotations

import math

import numpy as np

from hwprune.latency.predict import FamilyCost
from hwprune.latency.table import LatencyTable
from hwprune.planner.network import Network
from hwprune.planner.residual import Residual
from hwprune.planner.worth import Worth
from hwprune.solve.problem import Block, Concat, Domain, Limit, Problem, Term

LATENCY = "latency"


def build_problem(
    network: Network,
    worth: Worth,
    table: LatencyTable,
    residual: Residual,
    budget_ns: float,
    *,
    depth: bool = False,
    constant_value: float | None = None,
    only_measured: bool = False,
) -> Problem:
    """Greatest importance under a latency budget.

    The latency of every choice is the residual's prediction for it, so that the problem and
    :func:`hwprune.planner.prediction.predict` agree.

    Parameters
    ----------
    network
        Its kernel families, and the widths and blocks that may be chosen.
    worth
        What they are worth.
    table
        Measured kernels; those between them are interpolated.
    residual
        What the sum of kernels does not explain.
    budget_ns
        Nanoseconds; infinite for none.
    depth
        Blocks may be removed, but for those of which nothing says what they are worth.
    constant_value
        Importance that is kept in any case (default: that of ``worth``).
    only_measured
        Interpolated kernels become unaffordable.

    Raises
    ------
    KernelMissError
        The table has too few kernels of a family; the message names one and those that are near.
    UsageError
        A kernel depends on the widths of too many groups in too many ways.
    """
    # A block without groups would cost nothing to leave out.
    removable = [b for b in network.removable if b.groups or b.name in worth.blocks] if depth else []
    home = {group: block.name for block in removable for group in block.groups}
    block_of = {family: block.name for block in removable for family in block.families}
    first_group = {block.name: block.groups[0] for block in removable if block.groups}
    domains = tuple(
        Domain(group, tuple(widths), tuple(worth.groups[group]), home.get(group))
        for group, widths in network.model.domains.items()
    )
    sizes = {domain.group: len(domain.widths) for domain in domains}
    fixed = residual.shift_ns
    terms: list[Term] = []
    for cost in network.model.costs(table):
        block = block_of.get(cost.family.name)
        values = _priced(cost, residual)
        if only_measured:
            values = np.where(cost.measured, values, _unaffordable(budget_ns, values))
        axes = cost.axes
        if not axes and block in first_group:
            # A kernel of a fixed size goes with the block as well: it costs the same at each width.
            axes = (first_group[block],)
            values = np.full(sizes[axes[0]], float(values))
        if axes or block is not None:
            terms.append(Term(cost.family.name, axes, values, block))
        else:
            fixed += float(values)
    used = {axis for term in terms for axis in term.axes}
    return Problem(
        domains,
        (Limit(LATENCY, tuple(terms), fixed, budget_ns),),
        blocks=tuple(Block(block.name, worth.blocks.get(block.name, 0.0)) for block in removable),
        concats=tuple(Concat(s.name, s.groups, s.channels) for s in network.model.sums if s.name in used),
        constant_value=worth.constant if constant_value is None else constant_value,
    )


def _priced(cost: FamilyCost, residual: Residual) -> np.ndarray:
    """What a kernel adds to the latency of its network."""
    streamed = residual.byte_ns * cost.streamed_bytes
    return residual.launch_ns + residual.factor * cost.cost_ns + streamed


def _unaffordable(budget_ns: float, values: np.ndarray) -> float:
    return 2.0 * budget_ns if math.isfinite(budget_ns) else 1e3 * float(values.max())
