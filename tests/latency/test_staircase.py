"""Steps are found where they are, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from hwprune.latency.kernel import KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.latency.staircase import edge_searches, find_edges
from hwprune.latency.table import LatencyTable
from tests.planner.fakes import CHAIN, DOMAINS, row, sizes, table

MODEL = LatencyModel(CHAIN, DOMAINS)


def measured(cost: Callable[[KernelSpec], float], asked: list[int]):
    rows: dict[str, KernelSpec] = {}

    def measure(specs: Sequence[KernelSpec]) -> LatencyTable:
        asked.append(len(specs))
        rows.update((spec.digest(), spec) for spec in specs)
        return table([row(spec, cost(spec)) for spec in rows.values()])

    return measure


def blocks(block: int) -> Callable[[KernelSpec], float]:
    """Time of whole blocks of outputs; linear in the inputs."""

    def cost(spec: KernelSpec) -> float:
        outputs, inputs = sizes(spec)
        return -(-outputs // block) * (40.0 + inputs)

    return cost


@pytest.mark.parametrize("block", [4, 8, 16])
def test_the_block_of_outputs_is_found_and_inputs_are_gradual(block: int):
    asked: list[int] = []
    shape = MODEL.shapes[1]
    found = find_edges(edge_searches(MODEL, [shape.key]), measured(blocks(block), asked))
    inputs, outputs = found
    assert (inputs.group, outputs.group) == ("a", "b")
    assert (outputs.verdict, outputs.alignment) == ("step", block)
    assert (outputs.low, outputs.high) == (outputs.top - block, outputs.top - block + 1)
    assert (inputs.verdict, inputs.alignment) == ("gradual", 1)
    assert sum(asked) <= 12


def test_a_flat_cost_has_no_alignment():
    found = find_edges(edge_searches(MODEL, [MODEL.shapes[1].key]), measured(lambda spec: 100.0, []))
    assert [(search.verdict, search.alignment) for search in found] == [("flat", None)] * 2


def test_equal_shapes_are_searched_once_and_fixed_ones_never():
    searches = edge_searches(MODEL, [shape.key for shape in MODEL.shapes])
    # first: a; ab (and bc, which has its shape): a, b; last: c.
    assert [search.group for search in searches] == ["a", "a", "b", "c"]
