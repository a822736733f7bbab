"""Random small problems, and their answers by trying everything."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from hwprune.solve.problem import Block, Choice, Concat, Domain, Limit, Problem, Term

#: More choices than this take too long to try.
MOST_CHOICES = 1500


@st.composite
def problems(draw: st.DrawFn, *, plain: bool = False) -> Problem:
    """A few groups, blocks, concatenations and limits; costs over zero to three of them.

    Costs and budgets are such that many choices lie exactly at the budget or a nanosecond off.
    ``plain`` ones have groups and a latency only.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    blocks = (
        ()
        if plain
        else tuple(Block(f"B{i}", random.integers(0, 9) / 8) for i in range(draw(st.integers(0, 2))))
    )
    names = "abcde"[: draw(st.integers(1, 4 if plain else 5))]
    domains: list[Domain] = []
    for name in names:
        widths = np.sort(
            random.choice(np.arange(1, 20), random.integers(1, 5 if len(names) < 5 else 4), replace=False)
        )
        values = np.sort(random.integers(0, 50, widths.size)) / 8
        block = f"B{random.integers(len(blocks))}" if blocks and random.random() < 0.5 else None
        domains.append(Domain(name, tuple(widths.tolist()), tuple(values.tolist()), block))
    home = {d.group: d.block for d in domains}
    concats: list[Concat] = []
    for i in range(0 if plain else draw(st.integers(0, 2))):
        inside = _block(random, blocks)
        pool = [g for g in names if home[g] in (None, inside)]
        groups = tuple(map(str, random.choice(pool, random.integers(1, 5)))) if pool else ()
        if groups:
            concats.append(Concat(f"cat{i}", groups, tuple(random.integers(1, 3, len(groups)).tolist())))
            home[f"cat{i}"] = next((home[g] for g in groups if home[g]), None)
    empty = Problem(tuple(domains), (), blocks, tuple(concats), constant_value=0.0 if plain else 0.5)
    base = draw(st.sampled_from([0, 1_000_000]))
    limits: list[Limit] = []
    for i in range(1 if plain else draw(st.integers(1, 3))):
        terms = tuple(_term(random, empty, home, blocks, f"t{j}", base) for j in range(random.integers(1, 7)))
        limits.append(Limit(f"limit{i}" if i else "latency", terms, float(random.integers(0, 20))))
    problem = replace(empty, limits=tuple(limits))
    every = list(choices(problem))
    for limit in limits:
        reachable = sorted({problem.usage(limit, choice) for choice in every})
        # Loose more often than not, so that several limits leave something to choose.
        picked = reachable[int(len(reachable) * random.beta(2, 1) ** (1 if len(limits) > 1 else 2))]
        problem = problem.limited(picked + draw(st.sampled_from([0.0, 0.0, -1.0, 0.5])), limit.name)
    if not plain and draw(st.booleans()):
        values = sorted({problem.value(choice) for choice in every})
        floor = values[random.integers(len(values))] + draw(st.sampled_from([0.0, 0.0, 1 / 16]))
        problem = replace(problem, minimise=limits[0].name, floor=floor)
    return problem


def _block(random: np.random.Generator, blocks: tuple[Block, ...]) -> str | None:
    return f"B{random.integers(len(blocks))}" if blocks and random.random() < 0.5 else None


def _term(
    random: np.random.Generator,
    problem: Problem,
    home: dict[str, str | None],
    blocks: tuple[Block, ...],
    name: str,
    base: int,
) -> Term:
    inside = _block(random, blocks)
    pool = [axis for axis, block in home.items() if block in (None, inside)]
    axes = tuple(map(str, random.choice(pool, random.integers(0, 4)))) if pool else ()
    cost = random.integers(0, 30, [len(problem.all_levels[axis]) for axis in axes]).astype(float) + base
    if random.random() < 0.5:  # mostly growing with the widths, as real ones are
        for axis in range(cost.ndim):
            cost = np.sort(cost, axis=axis)
    return Term(name, axes, cost, inside)


def choices(problem: Problem) -> Iterator[Choice]:
    """All choices of blocks and widths."""
    names = [d.group for d in problem.domains]
    for there in itertools.product([True, False], repeat=len(problem.blocks)):
        removed = frozenset(b.name for b, keep in zip(problem.blocks, there, strict=True) if not keep)
        widths = [(0,) if d.block in removed else d.widths for d in problem.domains]
        for picked in itertools.product(*widths):
            yield Choice(dict(zip(names, picked, strict=True)), removed)


def brute_force(problem: Problem) -> float | None:
    """Best objective within the limits; ``None`` if there is none."""
    return max((problem.objective(c) for c in choices(problem) if problem.keeps(c)), default=None)


def least(problem: Problem, name: str) -> float:
    """Least that is used of a limit by any choice."""
    limit = problem.limit(name)
    return min(problem.usage(limit, choice) for choice in choices(problem))
