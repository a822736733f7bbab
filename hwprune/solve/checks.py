"""Refuses problems that contradict themselves."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np

from hwprune.errors import PlanError
from hwprune.solve.problem import Concat, Limit, Problem, Term


def check_problem(problem: Problem) -> None:
    """Refuse a problem that contradicts itself.

    Raises
    ------
    PlanError
        Naming the group, block, concatenation, cost or limit and what is wrong with it.
    """
    blocks = _distinct("block", (block.name for block in problem.blocks))
    for block in problem.blocks:
        if not math.isfinite(block.value):
            raise PlanError(
                f"block '{block.name}' is worth {block.value}", hint="check the importance scores"
            )
    home = _check_domains(problem, blocks)
    for concat in problem.concats:
        if concat.name in home:
            raise PlanError(f"'{concat.name}' names two groups or concatenations", hint="rename one of them")
        home[concat.name] = _check_concat(concat, home)
    if not problem.limits:
        raise PlanError("the problem has no limit", hint="give at least the latency as a limit")
    _distinct("limit", (limit.name for limit in problem.limits))
    for limit in problem.limits:
        _check_limit(problem, limit, home, blocks)
    if problem.minimise is not None:
        problem.limit(problem.minimise)
    if math.isnan(problem.floor) or problem.floor == math.inf or not math.isfinite(problem.constant_value):
        raise PlanError(
            f"the least importance {problem.floor} or the constant {problem.constant_value} is not a number",
            hint="check the importance scores",
        )


def _distinct(kind: str, names: Iterable[str]) -> frozenset[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise PlanError(f"there are two {kind}s named '{name}'", hint=f"give every {kind} its own name")
        seen.add(name)
    return frozenset(seen)


def _check_domains(problem: Problem, blocks: frozenset[str]) -> dict[str, str | None]:
    """The block of every group."""
    home: dict[str, str | None] = {}
    for domain in problem.domains:
        where = f"group '{domain.group}'"
        widths = domain.widths
        if domain.group in home:
            raise PlanError(f"{where} has two domains", hint="give every group one domain")
        if not widths or widths[0] < 0 or any(a >= b for a, b in pairwise(widths)):
            raise PlanError(f"{where}: widths {widths} do not ascend", hint="list distinct widths, ascending")
        if len(domain.values) != len(widths) or not all(map(math.isfinite, domain.values)):
            raise PlanError(f"{where}: needs one finite value per width", hint="check the importance scores")
        if domain.block is not None and domain.block not in blocks:
            raise PlanError(f"{where} lies in the unknown block '{domain.block}'", hint="list the block")
        home[domain.group] = domain.block
    return home


def _check_concat(concat: Concat, home: dict[str, str | None]) -> str | None:
    where = f"concatenation '{concat.name}'"
    if not concat.groups or len(concat.groups) != len(concat.channels):
        raise PlanError(f"{where} needs one channel count per group", hint="list its groups and channels")
    if min(concat.channels) < 1:
        raise PlanError(f"{where} has channel counts {concat.channels}", hint="they are at least 1")
    unknown = [group for group in concat.groups if group not in home]
    if unknown:
        raise PlanError(f"{where} depends on '{unknown[0]}', which has no domain", hint="add its domain")
    return _only_block(where, concat.groups, home)


def _only_block(where: str, axes: Iterable[str], home: dict[str, str | None]) -> str | None:
    found = {axis: home[axis] for axis in axes if home[axis] is not None}
    if len(set(found.values())) > 1:
        a, b = sorted({str(block) for block in found.values()})[:2]
        raise PlanError(
            f"{where} reads groups of the blocks '{a}' and '{b}'", hint="a block is read by itself only"
        )
    return next(iter(found.values()), None)


def _check_limit(problem: Problem, limit: Limit, home: dict[str, str | None], blocks: frozenset[str]) -> None:
    if not math.isfinite(limit.fixed) or math.isnan(limit.at_most):
        raise PlanError(
            f"limit '{limit.name}': fixed {limit.fixed} or at most {limit.at_most} is not a number",
            hint="check the budget and the residual",
        )
    for term in limit.terms:
        where = f"cost '{term.name}' of limit '{limit.name}'"
        unknown = [axis for axis in term.axes if axis not in home]
        if unknown:
            raise PlanError(f"{where} depends on '{unknown[0]}', which has no domain", hint="add its domain")
        if term.block is not None and term.block not in blocks:
            raise PlanError(f"{where} lies in the unknown block '{term.block}'", hint="list the block")
        inside = _only_block(where, term.axes, home)
        if inside is not None and inside != term.block:
            raise PlanError(
                f"{where} reads a group of block '{inside}' but does not lie in it",
                hint="put the cost into the block, or the group out of it",
            )
        _check_table(problem, term, where)


def _check_table(problem: Problem, term: Term, where: str) -> None:
    shape = tuple(len(problem.all_levels[axis]) for axis in term.axes)
    if np.shape(term.cost_ns) != shape:
        raise PlanError(
            f"{where} has shape {np.shape(term.cost_ns)}, its groups have {shape}",
            hint="give one entry per width of every group",
        )
    bad = np.argwhere(~np.isfinite(term.cost_ns))
    if len(bad):
        at = ", ".join(
            f"{axis}={problem.all_levels[axis][i]}" for axis, i in zip(term.axes, bad[0], strict=True)
        )
        raise PlanError(
            f"{where} is missing or not finite at {len(bad)} of {np.size(term.cost_ns)} widths"
            f"{', the first ' + at if at else ''}",
            hint="measure its kernels again",
        )
