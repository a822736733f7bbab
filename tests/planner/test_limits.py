"""Parameters and memory as functions of widths, against models that were really cut and simulated."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.errors import BudgetError, UsageError
from hwprune.latency.fusion import fuse
from hwprune.latency.program import Program
from hwprune.planner.limits.amount import Amount, describe, parse_range
from hwprune.planner.limits.limits import MEMORY, PARAMETERS, Sizes, peaks
from hwprune.planner.removable import removable_blocks
from hwprune.solve.problem import Block as SolveBlock
from hwprune.solve.problem import Choice, Concat, Domain, Problem
from hwprune.surgery import prune_model
from hwprune.surgery.blocks import bypassed
from tests.nets import NETS, conv_bn, settle
from tests.surgery.helpers import prepared, random_keep

torch.set_num_threads(1)


class Long(nn.Module):
    """Four groups side by side in front of a convolution and a linear layer; a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Conv2d(3, 4 + 2 * i, 3, padding=1) for i in range(4)])
        self.mix = conv_bn(28, 8)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.unread = nn.Parameter(torch.zeros(5))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(torch.cat([part(x) for part in self.parts], 1)).mean((2, 3))
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))))


def problem_of(deps, concats=(), blocks=()) -> Problem:
    domains = tuple(
        Domain(g.name, tuple(range(1, g.size + 1)), tuple(float(w) for w in range(1, g.size + 1)))
        for g in deps.groups
    )
    return Problem(domains, (), blocks, tuple(concats))


def simulated_peak(program: Program) -> int:
    """Runs through a program, freeing every tensor after its last reader."""
    from hwprune.compile.shapes import infer_shapes

    readers: dict[tuple[str, int], int] = {}
    for number, step in enumerate(program.steps):
        for source in step.sources:
            readers[source.kind, source.index] = number
    for source in program.outputs:
        readers[source.kind, source.index] = len(program.steps)
    weights = sum(4 * int(np.prod(w.shape)) for w in program.weights)
    alive = {("input", i): 4 * int(np.prod(shape)) for i, shape in enumerate(program.input_shapes)}
    peak = 0
    for number, step in enumerate(program.steps):
        alive["step", number] = 4 * int(np.prod(infer_shapes(step.spec)[-1]))
        peak = max(peak, sum(alive.values()))
        for key in list(alive):
            if readers.get(key, -1) <= number:
                del alive[key]
    return peak + weights


@pytest.mark.parametrize("name", NETS)
def test_parameters_and_memory_are_those_of_the_cut_model(name: str):
    captured, deps = prepared(name)
    sizes = Sizes.of(captured, deps, fuse(captured.graph))
    for seed in range(3):
        keep = random_keep(deps, seed)
        model, _ = prune_model(captured, deps, keep)
        needs = sizes.needs({group: len(units) for group, units in keep.items()})
        assert needs.parameters == sum(p.numel() for p in model.parameters())
        assert needs.bytes == simulated_peak(fuse(capture(model, captured.example_inputs).graph).program())
    dense = sizes.needs(deps.dense_widths)
    assert dense.parameters == sum(p.numel() for p in captured.model.parameters())


def test_tied_and_unread_parameters_and_sums_of_many_groups():
    torch.manual_seed(0)
    captured = capture(settle(Long()), torch.randn(1, 3, 8, 8))
    deps = analyse(captured)
    sizes = Sizes.of(captured, deps, fuse(captured.graph))
    (concat,) = sizes.concats.values()
    assert len(concat.groups) == 4
    for seed in range(3):
        keep = random_keep(deps, seed)
        model, reason = prune_model(captured, deps, keep)
        assert reason is None
        needs = sizes.needs({group: len(units) for group, units in keep.items()})
        assert needs.parameters == sum(p.numel() for p in model.parameters())
        assert needs.bytes == simulated_peak(fuse(capture(model, captured.example_inputs).graph).program())
    # A sum that has a name already is not named again.
    named = Concat("all parts", concat.groups[::-1], tuple(2 * n for n in concat.channels[::-1]))
    again = Sizes.of(captured, deps, fuse(captured.graph), concats=[replace(named, channels=concat.channels)])
    assert list(again.concats) == ["all parts"]
    assert again.needs(deps.dense_widths) == sizes.needs(deps.dense_widths)


@pytest.mark.parametrize("name", ["residual", "concat", "gate", "long"])
def test_limits_of_a_problem_are_exact_for_every_choice(name: str):
    captured, deps = prepared(name) if name != "long" else (None, None)
    if captured is None or deps is None:
        captured = capture(settle(Long()), torch.randn(1, 3, 8, 8))
        deps = analyse(captured)
    sizes = Sizes.of(captured, deps, fuse(captured.graph))
    dense = sizes.needs(deps.dense_widths)
    problem = problem_of(deps)
    least = sizes.needs(dict.fromkeys(deps.dense_widths, 1))
    amounts = [
        Amount.parse(f"{0.5 + 0.5 * a / b:.4f}", unit, "it")
        for a, b, unit in (
            (least.parameters, dense.parameters, "parameters"),
            (least.bytes, dense.bytes, "bytes"),
        )
    ]
    limited = sizes.limited(problem, *amounts)
    parameters = limited.limit(PARAMETERS)
    memory = [limit for limit in limited.limits if limit.name.startswith(MEMORY)]
    assert memory
    assert len(memory) < len(sizes.live), "steps that are never the peak are left out"
    choose, within = random.Random(0), set[bool]()
    for _ in range(200):
        share = choose.random()
        widths = {
            d.group: d.widths[min(len(d.widths) - 1, int(len(d.widths) * share * 2 * choose.random()))]
            for d in problem.domains
        }
        needs, choice = sizes.needs(widths), Choice(widths)
        assert limited.usage(parameters, choice) == needs.parameters
        fits = all(limited.usage(limit, choice) <= limit.at_most for limit in memory)
        assert fits == (needs.bytes <= amounts[1].of(dense.bytes))
        within.add(fits)
        # Where it matters the largest limit is the peak itself.
        if not fits:
            assert max(limited.usage(limit, choice) for limit in memory) == needs.bytes
    assert within == {True, False}


def test_steps_that_are_never_the_peak_are_left_out():
    captured, deps = prepared("residual")
    sizes = Sizes.of(captured, deps, fuse(captured.graph))
    problem = problem_of(deps)
    kept = peaks(sizes.live, problem)
    assert 0 < len(kept) < len(sizes.live)
    choose = random.Random(1)
    for _ in range(300):
        widths = {d.group: choose.choice(d.widths) for d in problem.domains}
        assert max(q.at(widths) for _, q in kept) == max(q.at(widths) for _, q in sizes.live)


class Blocks(nn.Module):
    """Identity blocks of both kinds: with a ReLU behind the sum, and with the sum as the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.a = nn.ModuleList([conv_bn(12, 20), conv_bn(20, 12)])
        self.b = nn.ModuleList([conv_bn(12, 30, 1), nn.Conv2d(30, 12, 1)])
        self.wide = conv_bn(12, 24)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.a[1](self.a[0](x)))
        x = x + self.b[1](self.b[0](x))
        return self.head(self.wide(x).mean((2, 3)))


def test_parameters_and_memory_without_removable_blocks():
    captured = capture(settle(Blocks()), torch.randn(1, 3, 8, 8))
    deps, fused = analyse(captured), fuse(captured.graph)
    blocks = removable_blocks(captured, deps, fused)
    names = [block.name for block in blocks.removable]
    assert len(names) == 2, blocks.declined
    sizes = Sizes.of(captured, deps, fused, blocks=blocks)
    choose = random.Random(3)
    for removed in itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(3)):
        gone = frozenset(removed)
        found = [block for block in blocks.blocks if block.name in gone]
        left = fuse(bypassed(captured, found))
        families = left.families(deps.extents)
        lost = {group for block in found for group in block.groups}
        for _ in range(5):
            widths = {g.name: choose.randint(1, g.size) for g in deps.groups}
            needs = sizes.needs({g: 0 if g in lost else w for g, w in widths.items()}, gone)
            assert needs.bytes == simulated_peak(left.shape_program(families, widths))
        parameters = dict(captured.model.named_parameters())
        dense = sum(p.numel() for p in parameters.values())
        without = sum(parameters[n].numel() for b in found for n in b.parameters if n in parameters)
        assert sizes.needs(deps.dense_widths, gone).parameters == dense - without
    # As a problem: terms of a block go with it.
    home = {group: block.name for block in blocks.blocks for group in block.groups}
    domains = tuple(replace(d, block=home.get(d.group)) for d in problem_of(deps).domains)
    problem = Problem(domains, (), tuple(SolveBlock(name) for name in names))
    most = sizes.needs(deps.dense_widths)
    limited = sizes.limited(
        problem, Amount.parse("0.6", "parameters", "it"), Amount.parse("0.7", "bytes", "it")
    )
    fits = set[bool]()
    for number in range(60):
        gone = frozenset(name for name in names if choose.random() < 0.5) if number else frozenset(names)
        widths = {d.group: 0 if d.block in gone else choose.choice(d.widths) for d in domains}
        needs, choice = sizes.needs(widths, gone), Choice(widths, gone)
        assert limited.usage(limited.limit(PARAMETERS), choice) == needs.parameters
        memory = [limit for limit in limited.limits if limit.name.startswith(MEMORY)]
        kept = all(limited.usage(limit, choice) <= limit.at_most for limit in memory)
        assert kept == (needs.bytes <= int(0.7 * most.bytes))
        fits.add(kept)
    assert fits == {True, False}


def test_limits_that_nothing_exceeds_and_limits_that_nothing_meets():
    captured, deps = prepared("plain")
    sizes = Sizes.of(captured, deps, fuse(captured.graph))
    problem = problem_of(deps)
    dense = sizes.needs(deps.dense_widths)
    loose = Amount.parse(f"{dense.parameters}", "parameters", "it"), Amount.parse("1GB", "bytes", "it")
    assert sizes.limited(problem, *loose).limits == ()
    smallest = sizes.needs(dict.fromkeys(deps.dense_widths, 1))
    with pytest.raises(BudgetError, match="parameters cannot be reached") as caught:
        sizes.limited(problem, Amount.parse("2", "parameters", "it"))
    assert f"still needs {smallest.parameters:,} parameters" in caught.value.message
    with pytest.raises(BudgetError, match="memory cannot be reached"):
        sizes.limited(problem, None, Amount.parse("20b", "bytes", "it"))
    least = sizes.limited(problem, Amount.parse(str(smallest.parameters), "parameters", "it"))
    assert (
        least.usage(least.limit(PARAMETERS), Choice(dict.fromkeys(deps.dense_widths, 1)))
        == smallest.parameters
    )


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("50%", "parameters", 500.0),
        (0.25, "bytes", 250.0),
        ("5M", "parameters", 5e6),
        ("1.2k", "parameters", 1200.0),
        (1200000, "parameters", 1.2e6),
        ("8MB", "bytes", 8e6),
        ("8 MiB", "bytes", 8 * 2**20),
        ("512KiB", "bytes", 512 * 1024),
    ],
)
def test_amounts(text: str | float, unit: str, expected: float):
    assert Amount.parse(text, unit, "it").of(1000.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "unit", "match"),
    [
        ("", "bytes", "cannot be read"),
        ("-5M", "parameters", "cannot be read"),
        ("nan", "parameters", "cannot be read"),
        (True, "parameters", "cannot be read"),
        ("5MB", "parameters", "unknown unit 'MB'"),
        ("5M", "bytes", "unknown unit 'M'"),
        ("5", "bytes", "no unit"),
        ("0%", "bytes", "above zero"),
    ],
)
def test_amounts_that_cannot_be_read(text: str | float, unit: str, match: str):
    with pytest.raises(BudgetError, match=match) as caught:
        Amount.parse(text, unit, "memory")
    assert caught.value.hint


def test_amounts_for_people():
    assert describe(4_520_000, "bytes") == "4.52 MB"
    assert describe(812, "bytes") == "812 bytes"
    assert describe(1234567, "parameters") == "1,234,567 parameters"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50%..100%", (0.5, 1.0)),
        ("0.25..0.75", (0.25, 0.75)),
        ("..75%", (0.0, 0.75)),
        ("50%..", (0.5, 1.0)),
        ("50%", (0.0, 0.5)),
        ("100%..100%", (1.0, 1.0)),
    ],
)
def test_ranges(text: str, expected: tuple[float, float]):
    assert parse_range(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "..", "a..b", "50%..40%", "0..2", "-1..1", "nan..1", "1..2..3"])
def test_ranges_that_cannot_be_read(text: str):
    with pytest.raises(UsageError) as caught:
        parse_range(text)
    assert caught.value.hint
