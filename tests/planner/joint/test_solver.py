"""The whole search on the smallest network."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hwprune.errors import BudgetError, PlanError, RepairError, UsageError
from hwprune.planner.joint import JointOptions
from hwprune.planner.joint.mapping import Mapping
from hwprune.planner.joint.space import Space
from hwprune.solve.problem import Limit
from tests.planner.joint.setting import QUICK, TRAIN, problem, solver, subject, used


def test_a_search_keeps_its_budget_and_says_what_it_is_worth() -> None:
    asked, solve = problem(0.5), solver()
    solution = solve(asked)
    assert solution.solver == "joint"
    assert 0.7 < used(asked, solution) <= 1.0
    assert solution.usage == {"latency": asked.usage(asked.limits[0], solution.choice)}
    assert solution.value == asked.value(solution.choice) <= solution.bound
    result = solve.result
    assert result.losses[result.candidates.index(result.architecture)] == min(result.losses)
    assert result.start in result.candidates
    assert len(result.training_losses) == 16 and len(result.trail) == 6
    assert (np.abs(np.diff(result.trail, axis=0)).max(axis=1) > 0).all()


def test_a_search_is_deterministic_and_leaves_random_states_alone() -> None:
    loader = DataLoader(torch.utils.data.ConcatDataset([_Pairs(b) for b in TRAIN]), 16, shuffle=True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, second = solver(data=loader), solver(data=loader)
    assert first(problem(0.5)).choice == second(problem(0.5)).choice
    assert np.array_equal(first.result.trail, second.result.trail)
    assert torch.equal(torch.get_rng_state(), before)


class _Pairs(torch.utils.data.Dataset[Any]):
    def __init__(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch[1])

    def __getitem__(self, index: int) -> Any:
        return self.batch[0][index], self.batch[1][index]


def test_a_resumed_search_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    loader = DataLoader(torch.utils.data.ConcatDataset([_Pairs(b) for b in TRAIN]), 16, shuffle=True)
    whole = solver(data=loader)
    expected = whole(problem(0.5))

    def interrupt_at(step: int) -> Any:
        def progress(what: str, done: int, total: int) -> None:
            if what == "joint search" and done == step:
                signal.raise_signal(signal.SIGINT)

        return progress

    checkpoint = tmp_path / "search.safetensors"
    for step in (3, 9):  # in the warm-up and between two moves
        with pytest.raises(KeyboardInterrupt):
            solver(data=loader, checkpoint=checkpoint, progress=interrupt_at(step))(problem(0.5))
    again = solver(data=loader, checkpoint=checkpoint)
    assert again(problem(0.5)).choice == expected.choice
    assert np.array_equal(again.result.trail, whole.result.trail)
    assert again.result.losses == whole.result.losses
    assert again.result.training_losses == whole.result.training_losses
    assert all(torch.equal(t, whole.weights[n]) for n, t in again.weights.items())
    # A finished search is not repeated.
    steps: list[str] = []
    done = solver(data=loader, checkpoint=checkpoint, progress=lambda what, *_: steps.append(what))
    assert done(problem(0.5)).choice == expected.choice
    assert "joint search" not in steps


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "search.safetensors"
    solver(checkpoint=checkpoint)(problem(0.5))
    with pytest.raises(UsageError, match="eta"):
        solver(QUICK.model_copy(update={"eta": 0.05}), checkpoint=checkpoint)(problem(0.5))
    other = problem(0.5)
    fewer = replace(other.domains[0], widths=other.domains[0].widths[1:], values=other.domains[0].values[1:])
    terms = tuple(
        replace(t, cost_ns=t.cost_ns[_without_first(t.axes, fewer.group)]) for t in other.limits[0].terms
    )
    changed = replace(
        other, domains=(fewer, *other.domains[1:]), limits=(replace(other.limits[0], terms=terms),)
    )
    with pytest.raises(UsageError, match=fewer.group):
        solver(checkpoint=checkpoint)(changed)


def _without_first(axes: tuple[str, ...], group: str) -> tuple[slice, ...]:
    return tuple(slice(1 if axis == group else 0, None) for axis in axes)


def test_with_a_constant_loss_only_coordinates_of_the_latency_move() -> None:
    asked = problem(0.5)
    free = "a.0"
    (priced,) = (d.group for d in asked.domains if d.group != free)
    terms = tuple(t for t in asked.limits[0].terms if free not in t.axes)
    dense = replace(asked, limits=(replace(asked.limits[0], terms=terms),))
    full = dense.usage(dense.limits[0], dense.dense)
    # Begins within a wide budget, then has to go down under a narrow one.
    wide, narrow = (
        replace(dense, limits=(Limit("latency", terms, 100.0, share * full),)) for share in (1.0, 0.8)
    )
    solve = solver(loss=lambda outputs, target: 0.0 * outputs.sum())
    solve(wide)
    assert (solve.result.trail == 1.0).all()
    solution = solve(narrow)
    moved = {c: solve.result.trail[:, i] for i, c in enumerate(d.group for d in narrow.domains)}
    assert (moved[free] == 1.0).all()
    assert moved[priced][-1] < 1.0
    assert solution.choice.widths[free] == 32 and used(narrow, solution) <= 1.0


def test_a_heavy_penalty_ends_at_the_budget() -> None:
    asked = problem(0.3)
    solve = solver(QUICK.model_copy(update={"penalty": 1e9, "iterations": 40, "eta": 0.02, "eta_end": 0.005}))
    solution = solve(asked)
    assert used(asked, solution) <= 1.0
    vector, space = solve.result.vector, Space.of(asked)
    assert (
        asked.usage(asked.limits[0], Mapping(space, asked, ()).at(vector).choice)
        <= 1.1 * asked.limits[0].at_most
    )


def test_a_corrected_problem_needs_no_further_training() -> None:
    solve = solver()
    first = solve(problem(0.5))
    weights = solve.weights
    assert solve(problem(0.5)).choice == first.choice
    for share in (0.35, 0.8):
        asked = problem(share)
        solution = solve(asked)
        assert used(asked, solution) <= 1.0
        assert solution.choice != first.choice
        # A wider budget is used, too.
        assert used(asked, solution) > 0.75
    assert all(torch.equal(t, weights[n]) for n, t in solve.weights.items())
    with pytest.raises(PlanError, match="changed after the search"):
        asked = problem(0.5)
        solve(replace(asked, domains=asked.domains[:1]))


def test_blocks_go_when_widths_are_not_enough() -> None:
    asked = problem(1.0, depth=True)
    no_widths = tuple(replace(d, widths=d.widths[-1:], values=d.values[-1:]) for d in asked.domains)
    terms = tuple(
        replace(t, cost_ns=t.cost_ns[(slice(-1, None),) * len(t.axes)]) for t in asked.limits[0].terms
    )
    limit = Limit("latency", terms, 100.0, 0.5 * asked.limits[0].at_most)
    only_depth = replace(asked, domains=no_widths, limits=(limit,))
    solution = solver()(only_depth)
    (block,) = (b.name for b in asked.blocks)
    assert solution.removed == {block}
    assert used(only_depth, solution) <= 1.0
    inner = next(d.group for d in asked.domains if d.block == block)
    assert solution.widths[inner] == 0


def test_resolutions_are_searched_too() -> None:
    sizes = (8, 12)
    dense = problem(1.0, side=12).limits[0].at_most
    problems = {side: problem(0.3, side=side, dense_ns=dense) for side in sizes}
    solve = solver(variants={side: subject(side) for side in sizes})
    size, solution = solve.best_of(problems)
    assert used(problems[size], solution) <= 1.0
    assert solve.result.vector.shape == (3,)
    with pytest.raises(UsageError, match="2 input sizes"):
        solve(problems[8])
    with pytest.raises(PlanError, match="problems for 8, but networks for 12, 8"):
        solve.best_of({8: problems[8]})


def test_bad_input_is_refused_before_anything_is_trained() -> None:
    with pytest.raises(UsageError, match="needs data="):
        solver(data=None)
    with pytest.raises(UsageError, match="needs held_out="):
        solver(held_out=None)
    with pytest.raises(UsageError, match="held_out= is empty"):
        solver(held_out=[])
    with pytest.raises(UsageError, match="only once"):
        solver(data=iter(TRAIN))
    with pytest.raises(UsageError, match="same batches"):
        solver(held_out=TRAIN)
    with pytest.raises(UsageError, match="not been called"):
        _ = solver().result
    trained: list[str] = []
    watched = solver(progress=lambda what, *_: trained.append(what))
    with pytest.raises(BudgetError, match="ms"):
        watched(problem(0.01))
    with pytest.raises(PlanError, match="cannot minimise 'latency'"):
        watched(replace(problem(0.5), minimise="latency"))
    with pytest.raises(PlanError, match="no floor of importance"):
        watched(replace(problem(0.5), floor=1.0))
    with pytest.raises(PlanError, match="no budget"):
        watched(replace(problem(0.5), limits=(Limit("latency", (), 0.0),)))
    assert not trained
    with pytest.raises(UsageError, match="same number of pixels"):
        solver(variants={"a": subject(8), "b": subject(8)})
    with pytest.raises(ValueError, match="fall"):
        JointOptions(sigma=0.01, sigma_end=0.05)


def test_training_that_fails_says_where() -> None:
    with pytest.raises(RepairError, match="step 1 "):
        solver(loss=lambda outputs, target: outputs.sum() * float("nan"))(problem(0.5))
    with pytest.raises(RepairError, match="no labels"):
        solver(data=[b[0] for b in TRAIN])(problem(0.5))


def test_options_are_read_from_texts() -> None:
    assert JointOptions.read({"iterations": "800", "optimizer": "adamw"}, seed=3) == JointOptions(
        iterations=800, optimizer="adamw", seed=3
    )
    assert JointOptions.read({"seed": "5"}, seed=3).seed == 5
    for given, match in (
        ({"iteration": "8"}, "'iteration' of the joint search is '8': extra"),
        ({"iterations": "few"}, "'iterations' of the joint search is 'few': .*integer"),
        ({"eta": "0.001"}, "the joint search: sigma and eta fall"),
    ):
        with pytest.raises(UsageError, match=match):
            JointOptions.read(given)
