"""The problem says of every choice what the residual predicts for it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import pytest
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError, UsageError
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Program
from hwprune.latency.table import LatencyTable
from hwprune.measure.stats import Summary
from hwprune.planner.loop import PlanningLoop
from hwprune.planner.network import Column
from hwprune.planner.prediction import predict
from hwprune.planner.problem import build_problem
from hwprune.planner.residual import Residual
from hwprune.planner.workbench import Workbench, measure_profile
from hwprune.planner.worth import Worth
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Choice, Problem
from hwprune.target import load_target
from tests.nets import settle
from tests.planner.brute import brute_force
from tests.planner.fakes import row, table
from tests.planner.residual_nets import IMAGE, Blocks, Growing, Inverted

#: Bytes and launches count for something.
RESIDUAL = Residual(launch_ns=700.0, factor=1.1, byte_ns=0.05, shift_ns=9000.0)


@cache
def bench(kind: type[nn.Module], steps: int = 3) -> Workbench:
    captured = capture(settle(kind()), IMAGE)
    target = load_target("host", threads=1)
    return Workbench.open(captured, analyse(captured), target, profile=measure_profile("quick"), steps=steps)


def price(spec: KernelSpec) -> float:
    """A product of channel counts, as loop nests cost; concatenations by what they copy."""
    inputs = [np.prod(i.shape) for i in spec.inputs]
    return 3000.0 + float(sum(inputs)) * (4.0 if spec.anchor == "cat" else 20.0)


class Machine:
    """Kernels cost what :func:`price` says, networks what ``network`` makes of their kernels."""

    def __init__(self, slower: float = 1.0) -> None:
        self.rows: dict[str, KernelSpec] = {}
        self.slower = slower
        self.timed: list[Mapping[str, Program]] = []

    def profile(self, specs: Sequence[KernelSpec]) -> LatencyTable:
        self.rows.update({spec.digest(): spec for spec in specs})
        return table([row(spec, price(spec)) for spec in self.rows.values()])

    def truth(self, program: Program) -> float:
        return self.slower * sum(price(step.spec) for step in program.steps)

    def time_networks(self, programs: Mapping[str, Program]) -> dict[str, Summary]:
        self.timed.append(programs)
        found = {name: self.truth(program) for name, program in programs.items()}
        return {name: Summary(ns, ns, ns, ns, ns, (), 9) for name, ns in found.items()}


def scores(found: Workbench, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {g.name: generator.exponential(1.0, g.size) for g in found.deps.groups}


def worth(found: Workbench, blocks: Mapping[str, float] | None = None) -> Worth:
    groups = Worth.of_scores(scores(found), found.model.domains).groups
    return Worth(groups, dict(blocks or {}))


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


def loop(found: Workbench, machine: Machine, **options: object) -> PlanningLoop:
    return PlanningLoop(
        found,
        options.pop("worth", None) or worth(found),  # pyright: ignore[reportArgumentType]
        profile=machine.profile,
        time_networks=machine.time_networks,
        solve=brute_force,
        **options,  # pyright: ignore[reportArgumentType]
    )


def test_a_budget_that_widths_cannot_reach_is_reached_without_blocks():
    found, machine = bench(Blocks), Machine(slower=1.2)
    least = {g: w[0] for g, w in found.model.domains.items()}
    reachable = machine.truth(found.program_at(least)) / machine.truth(found.program_at(found.dense))
    share = 0.9 * reachable
    with pytest.raises(BudgetError):
        loop(found, machine).run(share)
    result = loop(found, machine, depth=True).run(share)
    assert result.solution.removed
    assert result.measured_ns is not None
    assert result.measured_ns <= result.budget_ns * 1.005
    program = machine.timed[-1]["pruned"]
    names = {step.name for step in program.steps}
    assert all(not any(n.startswith(f"{gone}.") for n in names) for gone in result.solution.removed)
    assert machine.truth(program) == pytest.approx(result.measured_ns, rel=1e-6)
    assert {step.spec.digest() for step in program.steps} <= machine.rows.keys(), "all of it was measured"
    assert result.rounds[-1].removed == result.solution.removed
    for group, width in result.solution.widths.items():
        inside = any(group in b.groups for b in found.removable if b.name in result.solution.removed)
        assert (width == 0) == inside


def test_with_depth_a_plan_is_never_worth_less():
    found, machine = bench(Blocks), Machine()
    for share in (0.6, 0.45):
        narrow = loop(found, machine).run(share, checks=0)
        deep = loop(found, machine, depth=True).run(share, checks=0)
        assert deep.solution.value >= narrow.solution.value - 1e-9


def test_a_dense_block_is_planned_end_to_end():
    found, machine = bench(Growing, steps=2), Machine(slower=1.1)
    result = loop(found, machine).run(0.5)
    assert result.measured_ns is not None
    assert 0.45 * result.dense.median <= result.measured_ns <= result.budget_ns * 1.005
    known = machine.profile([])
    assert found.model.missing(result.solution.widths, known) == []
    assert result.prediction.low_ns < result.predicted_ns < result.prediction.high_ns
    assert result.prediction.interpolated == 0.0
    # The best of all choices, by the problem's own word.
    assert brute_force(result.problem).value == pytest.approx(result.solution.value)


def at(kind: type[nn.Module], side: int) -> Workbench:
    captured = capture(settle(kind()), nn.functional.interpolate(IMAGE, (side, side)))
    target = load_target("host", threads=1)
    return Workbench.open(captured, analyse(captured), target, profile=measure_profile("quick"), steps=3)


def test_a_smaller_input_is_chosen_where_it_is_worth_it():
    full, small, machine = bench(Blocks), at(Blocks, 6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    kept = {}
    for lost in (1e-3, 1e6):
        own = worth(full)
        given = Worth(own.groups, resolutions={(6, 6): -lost})
        result = loop(full, machine, worth=given, columns=columns).run(0.5)
        kept[lost] = result
        alone = {c.resolution: loop(full, machine, columns=[c]).run(0.5, checks=0) for c in columns}
        best = max(alone[None].solution.value, alone[6, 6].solution.value - lost)
        assert result.solution.value == pytest.approx(best)
        assert result.measured_ns is not None
        assert result.measured_ns <= result.budget_ns * 1.005
    assert (kept[1e-3].resolution, kept[1e6].resolution) == ((6, 6), None)
    assert kept[1e-3].rounds[-1].resolution == (6, 6)
    shapes = machine.timed
    assert {p["pruned"].input_shapes[0][2] for p in shapes if "pruned" in p} == {6, 8}


def test_a_budget_out_of_reach_names_what_the_smallest_input_reaches():
    full, small, machine = bench(Blocks), at(Blocks, 6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(6, 6): -1.0})
    messages = {}
    offers = {"both": columns, "one by one": columns, "small": columns[1:], "full": columns[:1]}
    for names, chosen in offers.items():
        planner = loop(full, machine, worth=given, columns=chosen)
        planner.solve = solve_milp if names != "one by one" else lambda problem: solve_milp(problem)
        with pytest.raises(BudgetError, match="cannot be reached") as caught:
            planner.run(0.01)
        messages[names] = caught.value.message
    assert messages["one by one"] == messages["small"] != messages["full"]
    assert messages["small"] in messages["both"]


def test_the_bound_holds_for_all_resolutions():
    full, small, machine = bench(Blocks), at(Blocks, 6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(6, 6): -4.0})
    for solve in (solve_milp, lambda problem: solve_milp(problem)):
        planner = loop(full, machine, worth=given, columns=columns)
        planner.solve = solve
        found = planner.run(0.5, checks=0)
        exact = loop(full, machine, worth=given, columns=columns).run(0.5, checks=0)
        assert found.resolution == exact.resolution
        assert found.solution.value == pytest.approx(exact.solution.value, rel=1e-4)
        assert found.solution.bound >= exact.solution.value - 1e-9


def test_resolutions_without_a_price_cannot_be_compared():
    full, small, machine = bench(Blocks), at(Blocks, 6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(4, 4): 0.0})
    with pytest.raises(UsageError, match="nothing says what is lost at 6x6"):
        loop(full, machine, worth=given, columns=columns).run(0.5)
    result = loop(full, machine, columns=columns[1:]).run(0.5, checks=0)
    assert result.resolution == (6, 6), "there is no choice"


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
