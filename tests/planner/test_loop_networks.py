"""The planning loop on networks with blocks, concatenations and several input resolutions."""

from __future__ import annotations

from functools import partial

import pytest

from hwprune.errors import BudgetError, UsageError
from hwprune.planner.network import Column
from hwprune.planner.worth import Worth
from hwprune.solve.cpsat import solve_cpsat
from hwprune.solve.milp import solve_milp
from hwprune.solve.problem import Problem
from tests.planner.brute import brute_force
from tests.planner.made_network import Machine, bench, loop, worth
from tests.planner.residual_nets import Blocks, Growing


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


def test_a_smaller_input_is_chosen_where_it_is_worth_it():
    full, small, machine = bench(Blocks), bench(Blocks, side=6), Machine()
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


def test_a_limit_that_one_input_cannot_keep_leaves_the_others():
    full, small, machine = bench(Blocks), bench(Blocks, side=6), Machine()

    def refuse(problem: Problem) -> Problem:
        raise BudgetError("the memory is not enough")

    columns = [Column(full, shape=refuse), Column(small, (6, 6))]
    given = Worth(worth(full).groups, resolutions={(6, 6): -1.0})
    assert loop(full, machine, worth=given, columns=columns).run(0.5, checks=0).resolution == (6, 6)
    columns[1] = Column(small, (6, 6), shape=refuse)
    with pytest.raises(BudgetError, match="the memory is not enough"):
        loop(full, machine, worth=given, columns=columns).run(0.5, checks=0)


def test_a_budget_out_of_reach_names_what_the_smallest_input_reaches():
    full, small, machine = bench(Blocks), bench(Blocks, side=6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(6, 6): -1.0})
    messages = {}
    for names, chosen in {"both": columns, "small": columns[1:], "full": columns[:1]}.items():
        planner = loop(full, machine, worth=given, columns=chosen)
        planner.solve = solve_milp
        with pytest.raises(BudgetError, match="cannot be reached") as caught:
            planner.run(0.01)
        messages[names] = caught.value.message
    assert messages["both"].endswith(f"the input of 6x6 comes closest: {messages['small']}")
    assert messages["small"] != messages["full"]


def test_the_bound_holds_for_all_resolutions():
    full, small, machine = bench(Blocks), bench(Blocks, side=6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(6, 6): -4.0})
    exact = loop(full, machine, worth=given, columns=columns).run(0.5, checks=0)
    for solve in (partial(solve_milp, gap=0.0), solve_cpsat):
        planner = loop(full, machine, worth=given, columns=columns)
        planner.solve = solve
        found = planner.run(0.5, checks=0)
        assert found.resolution == exact.resolution
        assert found.solution.value == pytest.approx(exact.solution.value, rel=1e-4)
        assert found.solution.bound >= exact.solution.value - 1e-9


def test_resolutions_without_a_price_cannot_be_compared():
    full, small, machine = bench(Blocks), bench(Blocks, side=6), Machine()
    columns = (Column(full), Column(small, (6, 6)))
    given = Worth(worth(full).groups, resolutions={(4, 4): 0.0})
    with pytest.raises(UsageError, match="nothing says what is lost at 6x6"):
        loop(full, machine, worth=given, columns=columns).run(0.5)
    result = loop(full, machine, columns=columns[1:]).run(0.5, checks=0)
    assert result.resolution == (6, 6), "there is no choice"
