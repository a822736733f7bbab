"""The problem says of every choice what the residual predicts for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from torch import Tensor, nn

from hwprune.planner.prediction import predict
from hwprune.planner.problem import build_problem
from hwprune.planner.residual import Residual
from hwprune.planner.worth import Worth
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Problem
from tests.planner.brute import brute_force
from tests.planner.made_network import Machine, bench, scores, worth
from tests.planner.residual_nets import Blocks, Growing, Inverted

#: Bytes and launches count for something.
RESIDUAL = Residual(launch_ns=700.0, factor=1.1, byte_ns=0.05, shift_ns=9000.0)


def some_choices(problem: Problem, count: int = 60) -> list[Choice]:
    generator = np.random.default_rng(1)
    made: list[Choice] = [problem.dense]
    for _ in range(count):
        removed = frozenset(b.name for b in problem.blocks if generator.random() < 0.5)
        widths = {
            d.group: 0 if d.block in removed else int(generator.choice(d.widths)) for d in problem.domains
        }
        made.append(Choice(widths, removed))
    return made


@pytest.mark.parametrize(("kind", "steps"), [(Blocks, 2), (Inverted, 3), (Growing, 2)])
@pytest.mark.parametrize("share", [0.75, 0.5, 0.35])
def test_the_solver_finds_the_best_choice_even_where_launches_cost_less_than_nothing(
    kind: type[nn.Module], steps: int, share: float
):
    found, machine = bench(kind, steps), Machine()
    known = machine.profile(found.model.specs())
    launches = Residual(launch_ns=-8000.0, factor=0.9, shift_ns=2e5)
    dense = predict(found.model, found.dense, known, launches).latency_ns
    problem = build_problem(found, worth(found), known, launches, share * dense, depth=True)
    best, solved = brute_force(problem), solve_milp(problem)
    assert solved.latency_ns <= share * dense
    assert solved.value == pytest.approx(best.value, rel=1e-4)


@pytest.mark.parametrize("kind", [Blocks, Inverted, Growing])
def test_usage_is_the_prediction(kind: type[nn.Module]):
    found, machine = bench(kind), Machine()
    known = machine.profile(found.model.specs())
    problem = build_problem(found, worth(found), known, RESIDUAL, 1e6, depth=True)
    assert len(problem.blocks) == len(found.removable)
    for choice in some_choices(problem):
        usage = problem.usage(problem.limits[0], choice)
        predicted = predict(found.without(choice.removed), choice.widths, known, RESIDUAL)
        assert usage == pytest.approx(predicted.latency_ns, rel=1e-9)


def test_a_long_concatenation_becomes_few_costs():
    found, machine = bench(Growing), Machine()
    known = machine.profile(found.model.specs())
    problem = build_problem(found, worth(found), known, RESIDUAL, 1e6)
    assert problem.concats
    longest = max(problem.concats, key=lambda concat: len(concat.groups))
    assert len(longest.groups) == 8
    assert set(longest.channels) == {1}
    assert max(term.cost_ns.size for limit in problem.limits for term in limit.terms) < 100
    # All that read the same channels share one axis.
    assert len({(c.groups, c.channels) for c in problem.concats}) == len(problem.concats)


def test_without_depth_nothing_can_go():
    found, machine = bench(Blocks), Machine()
    problem = build_problem(found, worth(found), machine.profile(found.model.specs()), RESIDUAL, 1e6)
    assert problem.blocks == ()
    assert all(domain.block is None for domain in problem.domains)
    assert all(term.block is None for term in problem.limits[0].terms)


def test_what_blocks_are_worth():
    found, machine = bench(Blocks), Machine()
    known = machine.profile(found.model.specs())
    problem = build_problem(found, worth(found, blocks={"two": 7.5}), known, RESIDUAL, 1e6, depth=True)
    assert {block.name: block.value for block in problem.blocks} == {"one": 0.0, "two": 7.5}
    widths = dict(problem.dense.widths)
    lost = problem.value(problem.dense) - problem.value(Choice({**widths, "two.a.0": 0}, frozenset({"two"})))
    assert lost == pytest.approx(7.5 + float(scores(found)["two.a.0"].sum()))


class Bare(nn.Module):
    """A block with a single layer: its channels are those of the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.branch(x)).mean((2, 3)))


def test_a_block_of_which_nothing_says_what_it_is_worth_is_not_on_offer():
    found, machine = bench(Bare), Machine()
    (block,) = found.removable
    assert block.groups == ()
    known = machine.profile(found.model.specs())
    assert build_problem(found, worth(found), known, RESIDUAL, 1e6, depth=True).blocks == ()
    priced = build_problem(found, worth(found, blocks={block.name: 3.0}), known, RESIDUAL, 1e6, depth=True)
    assert [b.value for b in priced.blocks] == [3.0]
    without = Choice(priced.dense.widths, frozenset({block.name}))
    usage = priced.usage(priced.limits[0], without)
    predicted = predict(found.without(without.removed), without.widths, known, RESIDUAL)
    assert usage == pytest.approx(predicted.latency_ns)


def test_values_that_were_measured_count_as_they_are():
    """Losses: nothing is lost where nothing is cut, and a block that is gone loses its own."""
    found, machine = bench(Blocks), Machine()
    groups = {
        g: tuple(-1.0 * (len(w) - 1 - i) for i in range(len(w))) for g, w in found.model.domains.items()
    }
    given = Worth(groups, blocks={"one": 0.1, "two": 50.0}, constant=-0.1 - 50.0)
    known = machine.profile(found.model.specs())
    problem = build_problem(found, given, known, RESIDUAL, 1e9, depth=True)
    assert problem.value(problem.dense) == pytest.approx(0.0)
    gone = Choice({**problem.dense.widths, "one.a.0": 0}, frozenset({"one"}))
    assert problem.value(gone) == pytest.approx(-0.1)


def test_only_measured_kernels_are_affordable_when_nothing_can_be_measured():
    found, machine = bench(Blocks), Machine()
    first = machine.profile(found.model.specs()[::1])
    problem = build_problem(found, worth(found), first, RESIDUAL, 1e6, depth=True, only_measured=True)
    for cost, term in itertools.product(found.model.costs(first), problem.limits[0].terms):
        if cost.family.name == term.name and cost.axes == term.axes:
            assert (term.cost_ns[~cost.measured] == 2e6).all()
