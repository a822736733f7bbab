"""Checks a problem, and brings its latency terms into the form that the solvers use."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hwprune.errors import PlanError
from hwprune.solve.problem import Choice, Problem


@dataclass(frozen=True)
class Merged:
    """All latency that depends on exactly these domains.

    ``axes`` are positions in ``problem.domains``, ascending and distinct, each with at least two
    widths; ``cost_ns`` has one axis per entry. ``names`` are the terms that were summed.
    """

    axes: tuple[int, ...]
    cost_ns: np.ndarray
    names: tuple[str, ...]


def check_problem(problem: Problem) -> None:
    """Refuse a problem that contradicts itself.

    Raises
    ------
    PlanError
        Naming the domain or term and what is wrong with it.
    """
    sizes: dict[str, int] = {}
    for domain in problem.domains:
        where = f"group '{domain.group}'"
        widths = domain.widths
        if domain.group in sizes:
            raise PlanError(f"{where} has two domains", hint="give every group one domain")
        if not widths or any(a >= b for a, b in pairwise(widths)):
            raise PlanError(f"{where}: widths {widths} do not ascend", hint="list distinct widths, ascending")
        if len(domain.values) != len(widths) or not all(map(math.isfinite, domain.values)):
            raise PlanError(f"{where}: needs one finite value per width", hint="check the importance scores")
        sizes[domain.group] = len(widths)
    for term in problem.limits[0].terms:
        where = f"latency term '{term.name}'"
        unknown = [g for g in term.axes if g not in sizes]
        if unknown:
            raise PlanError(f"{where} depends on '{unknown[0]}', which has no domain", hint="add its domain")
        shape = tuple(sizes[g] for g in term.axes)
        if term.cost_ns.shape != shape:
            raise PlanError(f"{where} has costs of shape {term.cost_ns.shape}, not {shape}")
        if not np.isfinite(term.cost_ns).all():
            raise PlanError(f"{where} has costs that are not finite", hint="measure its kernels again")
    limit = problem.limits[0]
    if not math.isfinite(limit.fixed) or math.isnan(limit.at_most):
        raise PlanError(f"fixed {limit.fixed} ns or budget {limit.at_most} ns is not a number")


def latency_of(problem: Problem, widths: Mapping[str, int]) -> float:
    """What widths use of the first limit."""
    return problem.usage(problem.limits[0], Choice(widths))


def merge_terms(problem: Problem) -> tuple[float, list[Merged]]:
    """Constant latency, and one merged term per set of groups.

    Terms over the same groups in any order are transposed and summed; a group that occurs twice
    in a term is reduced to the diagonal; groups without a choice are indexed away.
    """
    position = {d.group: i for i, d in enumerate(problem.domains)}
    constant = problem.limits[0].fixed
    costs: dict[tuple[int, ...], np.ndarray] = {}
    names: dict[tuple[int, ...], list[str]] = {}
    for term in problem.limits[0].terms:
        axes, cost = _canonical([position[g] for g in term.axes], np.asarray(term.cost_ns, np.float64))
        keep = [k for k, size in enumerate(cost.shape) if size > 1]
        axes = tuple(axes[k] for k in keep)
        cost = cost.reshape([cost.shape[k] for k in keep])
        if not axes:
            constant += float(cost)
            continue
        costs[axes] = costs[axes] + cost if axes in costs else cost
        names.setdefault(axes, []).append(term.name)
    return constant, [Merged(axes, costs[axes], tuple(names[axes])) for axes in sorted(costs)]


def _canonical(axes: list[int], cost: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Ascending distinct axes; repeated ones become the diagonal."""
    distinct = sorted(set(axes))
    labels = [distinct.index(a) for a in axes]
    return tuple(distinct), np.einsum(cost, labels, list(range(len(distinct))))
