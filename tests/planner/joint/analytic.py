"""Problems whose prices are a formula of the layers' sizes, for networks that nobody measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import fx

from hwprune.capture.captured import Captured
from hwprune.dependency.blocks import Block as Branch
from hwprune.dependency.groups import Dependencies
from hwprune.solve.domains import domain_values
from hwprune.solve.problem import Block, Domain, Limit, Problem, Term

CALL_NS = 100.0
MULTIPLY_NS = 0.01


def analytic_problem(
    captured: Captured,
    deps: Dependencies,
    share: float,
    *,
    step: int = 4,
    branches: Sequence[Branch] = (),
    dense_ns: float | None = None,
) -> Problem:
    """Every convolution and linear layer costs a call and its multiplications.

    Parameters
    ----------
    share
        Budget as a share of ``dense_ns`` (the dense network's latency by default).
    step
        Widths on offer are multiples of it.
    branches
        Blocks that may go.
    """
    home = {group: b.name for b in branches for group in b.groups}
    domains = tuple(
        Domain(
            g.name,
            widths := tuple(range(step, g.size + 1, step)),
            domain_values(np.ones(g.size), widths),
            home.get(g.name),
        )
        for g in deps.groups
    )
    offered = {d.group: d.widths for d in domains}
    terms: list[Term] = []
    for node in captured.graph.graph.nodes:
        if str(node.target) in ("aten.conv2d.default", "aten.linear.default"):
            block = next((b.name for b in branches if node.name in b.nodes), None)
            terms.append(_term(node, deps, offered, block))
    dense = Problem(domains, (Limit("latency", tuple(terms), 100.0),), tuple(Block(b.name) for b in branches))
    budget = share * (dense_ns or dense.usage(dense.limits[0], dense.dense))
    return Problem(domains, (Limit("latency", tuple(terms), 100.0, budget),), dense.blocks)


def _term(node: fx.Node, deps: Dependencies, offered: dict[str, tuple[int, ...]], block: str | None) -> Term:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    out, inner = deps.extents[node.name], deps.extents[weight.name][1:]
    axes = tuple(dict.fromkeys(g for e in (*out, *inner) for g in e.groups))
    cost = np.empty(tuple(len(offered[a]) for a in axes))
    for index in np.ndindex(*cost.shape):
        widths = {a: offered[a][i] for a, i in zip(axes, index, strict=True)}
        cost[index] = CALL_NS + MULTIPLY_NS * math.prod(e.at(widths) for e in (*out, *inner))
    return Term(node.name, axes, cost, block)
