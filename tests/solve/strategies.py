"""Random small problems, and their answers by trying everything."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import strategies as st

from hwprune.solve.problem import Choice, Domain, Problem, Term
from hwprune.solve.terms import latency_of


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """One to four groups; terms over zero to three of them, the same one twice included.

    Costs and budgets are such that many choices lie exactly at the budget or a nanosecond off.
    """
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = "abcd"[: draw(st.integers(1, 4))]
    domains: list[Domain] = []
    for name in names:
        widths = np.sort(random.choice(np.arange(1, 20), draw(st.integers(1, 4)), replace=False))
        values = np.sort(random.integers(0, 50, widths.size)) / 8
        domains.append(Domain(name, tuple(widths.tolist()), tuple(values.tolist())))
    sizes = {d.group: len(d.widths) for d in domains}
    base = draw(st.sampled_from([0, 1_000_000]))
    terms: list[Term] = []
    for i in range(draw(st.integers(1, 6))):
        groups = tuple(draw(st.lists(st.sampled_from(names), max_size=3)))
        cost = random.integers(0, 30, [sizes[g] for g in groups]).astype(float) + base
        if draw(st.booleans()):  # mostly growing with the widths, as real ones are
            for axis in range(cost.ndim):
                cost = np.sort(cost, axis=axis)
        terms.append(Term(f"t{i}", groups, cost))
    fixed = float(draw(st.integers(0, 20)))
    problem = Problem.of_latency(tuple(domains), tuple(terms), fixed, 0.0)
    reachable = sorted({latency_of(problem, w) for w in choices(problem)})
    budget = draw(st.sampled_from(reachable)) + draw(st.sampled_from([0.0, 0.0, -1.0, 0.5]))
    return Problem.of_latency(tuple(domains), tuple(terms), fixed, budget)


def choices(problem: Problem) -> list[dict[str, int]]:
    """All combinations of widths."""
    names = [d.group for d in problem.domains]
    return [dict(zip(names, w, strict=True)) for w in itertools.product(*(d.widths for d in problem.domains))]


def brute_force(problem: Problem) -> tuple[float | None, float]:
    """Best value within the budget (``None`` if there is none), and the least latency."""
    priced = [(latency_of(problem, w), problem.value(Choice(w))) for w in choices(problem)]
    fits = [value for latency, value in priced if latency <= problem.limits[0].at_most]
    return (max(fits) if fits else None), min(latency for latency, _ in priced)
