"""Prices of widths: measured where a row exists, interpolated inside the grid, never beyond it."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hwprune.errors import KernelMissError, UsageError
from hwprune.extent import Extent
from hwprune.latency.kernel import FamilyInput, FamilyOp, KernelFamily, KernelOp, KernelSpec
from hwprune.latency.predict import LatencyModel, grid_points
from hwprune.latency.rows import Row
from tests.planner.fakes import CHAIN, DOMAINS, WIDTHS, dense_family, of, row, sizes, staircase, table

AB = CHAIN[1]


def model(*families: KernelFamily, untrusted: bool = False) -> LatencyModel:
    groups = {g for f in families for g in f.groups}
    domains = {g: w for g, w in DOMAINS.items() if g in groups}
    return LatencyModel(families, domains, untrusted=untrusted)


def grid_rows(found: LatencyModel, cost: object = None) -> list[Row]:
    price = cost if callable(cost) else multilinear
    return [row(spec, price(spec)) for spec in found.specs()]


def multilinear(spec: KernelSpec) -> float:
    outputs, inputs = sizes(spec)
    return 50.0 + 7.0 * outputs + 3.0 * inputs + 0.25 * outputs * inputs


@pytest.mark.parametrize(("size", "points"), [(1, 4), (2, 4), (4, 4), (5, 4), (8, 4), (9, 8), (100, 3)])
def test_grid_has_both_ends(size: int, points: int):
    found = grid_points(size, points)
    assert found[0] == 0
    assert found[-1] == size - 1
    assert list(found) == sorted(set(found))
    assert len(found) == min(size, points)


def test_interpolation_is_exact_for_multilinear_costs():
    found = model(*CHAIN)
    full = found.costs(table(grid_rows(found)))
    for family, cost in zip(CHAIN, full, strict=True):
        assert cost.cost_ns.shape == tuple(len(DOMAINS[g]) for g in family.groups)
        for index in np.ndindex(*cost.cost_ns.shape):
            widths = {g: DOMAINS[g][i] for g, i in zip(family.groups, index, strict=True)}
            assert cost.cost_ns[index] == pytest.approx(multilinear(family.at(widths)))
    ab = full[1]
    assert 0 < ab.measured.sum() < ab.measured.size, "four grid points for each of eight widths"
    assert full[4].measured.all()


def test_widths_are_the_coordinates_not_their_numbers():
    """Unevenly spaced widths: a linear cost stays linear."""
    family = dense_family("f", Extent(3), of("a"))
    widths = (8, 16, 24, 32, 64, 128, 256, 512, 1024)
    uneven = LatencyModel([family], {"a": widths})
    (cost,) = uneven.costs(table(grid_rows(uneven)))
    assert cost.cost_ns == pytest.approx([multilinear(family.at({"a": w})) for w in widths])
    assert not cost.measured.all()


def test_measured_rows_replace_the_interpolation():
    found = model(AB)
    grid = grid_rows(found, staircase(0))
    (before,) = found.costs(table(grid))
    index = tuple(int(i) for i in np.argwhere(~before.measured)[0])
    widths = {g: DOMAINS[g][i] for g, i in zip(AB.groups, index, strict=True)}
    (after,) = found.costs(table([*grid, row(AB.at(widths), 1.02 * before.cost_ns[index])]))
    assert after.measured[index]
    assert after.cost_ns[index] == 1.02 * before.cost_ns[index]
    # Other measured costs are what they were; interpolated ones may learn from the new row, a little.
    assert np.array_equal(after.cost_ns[before.measured], before.cost_ns[before.measured])
    assert after.cost_ns == pytest.approx(before.cost_ns, rel=0.05)


def test_interpolated_costs_of_a_noisy_staircase_are_near_the_truth():
    found = model(AB)
    cost = staircase(3)
    (costs,) = found.costs(table(grid_rows(found, cost)))
    errors = [
        costs.cost_ns[index] / cost(AB.at({g: DOMAINS[g][i] for g, i in zip(AB.groups, index, strict=True)}))
        - 1
        for index in zip(*np.nonzero(~costs.measured), strict=True)
    ]
    # Half a step of the staircase (a quarter at middle widths) and 5 % of noise.
    assert np.median(np.abs(errors)) < 0.15


def test_a_hole_in_the_grid_is_named_not_extrapolated():
    found = model(*CHAIN)
    rows = grid_rows(found)
    corner = AB.at({"a": 128, "b": 128})
    remaining = table([r for r in rows if r.digest != corner.digest()])
    with pytest.raises(KernelMissError) as caught:
        found.costs(remaining)
    assert "nearest: " in caught.value.message
    assert "hwprune profile" in str(caught.value)
    with pytest.raises(KernelMissError, match=corner.digest()):
        found.predict({"a": 128, "b": 128, "c": 128}, remaining)


def test_sum_counts_repeated_kernels_and_misses_are_named():
    twice = (dense_family("one", of("a"), of("a")), dense_family("two", of("a"), of("a")))
    found = model(*twice)
    rows = grid_rows(found)
    assert len(rows) == 8, "equal kernels are measured once"
    spec = twice[0].at({"a": 32})
    assert found.sum_ns({"a": 32}, table(rows)) == pytest.approx(2 * multilinear(spec))
    assert found.missing({"a": 32}, table(rows)) == []
    assert found.missing({"a": 32}, table([])) == [spec]
    with pytest.raises(KernelMissError, match=spec.digest()):
        found.sum_ns({"a": 32}, table([]))


def test_untrusted_rows_are_used_only_when_asked_for():
    found, lenient = model(AB), model(AB, untrusted=True)
    rows = grid_rows(found)
    rows[0] = replace(rows[0], status="untrusted")
    widths = dict(zip(AB.groups, sizes(KernelSpec.parse(rows[0].spec))[::-1], strict=True))
    with pytest.raises(KernelMissError, match="untrusted"):
        found.costs(table(rows))
    with pytest.raises(KernelMissError, match="untrusted"):
        found.sum_ns(widths, table(rows))
    assert np.array_equal(
        lenient.costs(table(rows))[0].cost_ns, found.costs(table(grid_rows(found)))[0].cost_ns
    )
    assert lenient.disturbed(widths, table(rows)) == 1
    assert lenient.disturbed(dict.fromkeys(AB.groups, 128), table(rows)) == 0


def test_failed_rows_have_no_price():
    lenient = model(AB, untrusted=True)
    rows = grid_rows(lenient)
    rows[3] = replace(rows[3], status="failed:no such schedule", median=0.0)
    with pytest.raises(KernelMissError, match="no such schedule"):
        lenient.costs(table(rows))


def test_groups_with_a_single_width_are_constant():
    family = dense_family("f", of("a"), of("b"))
    frozen = LatencyModel([family], {"a": (64,), "b": (16, 32, 48)})
    (cost,) = frozen.costs(table(grid_rows(frozen)))
    expected = [[multilinear(family.at({"a": 64, "b": b})) for b in (16, 32, 48)]]
    by_group = dict(zip(family.groups, cost.cost_ns.shape, strict=True))
    assert by_group == {"a": 1, "b": 3}
    assert cost.cost_ns.reshape(-1) == pytest.approx(expected[0])
    one = LatencyModel([family], {"a": (64,), "b": (48,)})
    assert one.costs(table(grid_rows(one)))[0].cost_ns.reshape(-1) == pytest.approx([expected[0][2]])


def concatenation(groups: str) -> KernelFamily:
    inputs = tuple(FamilyInput((Extent(1), of(g), Extent(7), Extent(7)), "data") for g in groups)
    return KernelFamily("cat", inputs, (KernelOp("cat", tuple(range(len(groups)))),))


def joined(spec: KernelSpec) -> float:
    return 10.0 + 3.0 * len(spec.inputs) + sum(i.shape[1] for i in spec.inputs)


def test_concatenations_are_priced_by_their_inputs_and_channels():
    """Nobody can measure every combination of many widths, and only their sum matters."""
    found = model(concatenation("abc"))
    specs = found.specs()
    assert [sum(i.shape[1] for i in s.inputs) for s in specs] == [48, 192 + 48, 384]
    (cost,) = found.costs(table(grid_rows(found, joined)))
    for index in itertools.product(range(8), repeat=3):
        widths = {g: DOMAINS[g][i] for g, i in zip("abc", index, strict=True)}
        assert cost.cost_ns[index] == pytest.approx(joined(concatenation("abc").at(widths)))


def wide(count: int, output: str | None = None) -> tuple[LatencyModel, KernelFamily]:
    """A concatenation of many groups, or a layer that reads one."""
    groups = [f"g{n}" for n in range(count)]
    domains = {**dict.fromkeys(groups, (16, 32, 48, 64)), **({output: WIDTHS} if output else {})}
    if output is None:
        inputs = tuple(FamilyInput((Extent(1), of(g), Extent(7), Extent(7)), "data") for g in groups)
        family = KernelFamily("cat", inputs, (KernelOp("cat", tuple(range(count))),))
    else:
        family = dense_family("behind", Extent(8, tuple((g, 2) for g in groups)), of(output))
    return LatencyModel([family], domains), family


def test_a_kernel_of_many_groups_costs_by_their_sum():
    found, family = wide(12)
    rows = table([row(spec, joined(spec)) for spec in found.specs()])
    (cost,) = found.costs(rows)
    (total,) = found.sums
    assert cost.axes == (total.name,)
    assert total.groups == tuple(found.domains)
    assert cost.cost_ns.shape == (12 * 3 + 1,)
    assert cost.cost_ns == pytest.approx([10.0 + 36.0 + 16 * n for n in range(12, 49)])
    assert [bool(m) for m in cost.measured] == [n in (0, 24, 36) for n in range(37)]
    widths = {g: (16, 48)[n % 2] for n, g in enumerate(found.domains)}
    assert found.predict(widths, rows).ns == pytest.approx(joined(family.at(widths)))


def test_a_layer_behind_a_concatenation_costs_by_the_sum_and_its_own_width():
    found, family = wide(6, "out")
    rows = table(grid_rows(found))
    (cost,) = found.costs(rows)
    (total,) = found.sums
    assert (total.groups, total.channels) == (tuple(f"g{n}" for n in range(6)), (1,) * 6)
    assert cost.axes == (total.name, "out") or cost.axes == ("out", total.name)
    assert sorted(cost.cost_ns.shape) == [len(WIDTHS), 6 * 3 + 1]
    widths = {g: (64, 16, 32)[n % 3] for n, g in enumerate(total.groups)} | {"out": 80}
    place = {total.name: sum(widths[g] for g in total.groups) // 16 - 6, "out": WIDTHS.index(80)}
    at = cost.cost_ns[tuple(place[axis] for axis in cost.axes)]
    assert at == pytest.approx(multilinear(family.at(widths)))
    assert at == pytest.approx(found.predict(widths, rows).ns)


def test_a_concatenation_that_was_measured_prices_those_that_share_it_out_otherwise():
    found, family = wide(3)
    one, other = {"g0": 16, "g1": 48, "g2": 32}, {"g0": 32, "g1": 32, "g2": 32}
    rows = [row(spec, joined(spec)) for spec in found.specs()]
    assert found.missing(one, table(rows)) == [family.at(one)]
    extended = table([*rows, row(family.at(other), 500.0)])
    assert found.missing(one, extended) == []
    assert found.sum_ns(one, extended) == 500.0
    both = table([*rows, row(family.at(other), 500.0), row(family.at(one), 400.0)])
    assert found.sum_ns(one, both) == found.sum_ns(other, both) == 450.0
    assert 450.0 in found.costs(both)[0].cost_ns


def test_costs_of_too_many_combinations_are_refused():
    groups = [f"g{n}" for n in range(6)]
    attributes = tuple((f"n{n}", of(g)) for n, g in enumerate(groups))
    family = KernelFamily(
        "odd", (FamilyInput((Extent(1), Extent(8)), "data"),), (FamilyOp("relu", (0,), attributes),)
    )
    found = LatencyModel([family], dict.fromkeys(groups, WIDTHS))
    with pytest.raises(UsageError, match="'odd' depends on the widths of 6 groups"):
        found.costs(table([]))


def test_what_a_table_encloses_need_not_be_measured():
    found = model(AB)
    everything = grid_rows(found)
    assert found.unpriced(table([])) == found.specs()
    assert found.unpriced(table(everything)) == []
    corners = [r for r in everything if set(sizes(KernelSpec.parse(r.spec))) <= {16, 128}]
    assert len(found.unpriced(table(corners))) == len(everything) - len(corners), "four corners say little"
    inside = row(AB.at({"a": 80, "b": 80}), 1.0)
    assert found.unpriced(table([*corners, inside])) == []
    missing = found.unpriced(table([*corners[1:], inside, row(AB.at({"a": 32, "b": 80}), 1.0)]))
    assert missing
    assert {r.digest for r in corners[:1]} <= {s.digest() for s in missing}


def test_bytes_of_weights_are_counted_beyond_what_a_cache_keeps():
    widths = (64, 512, 1024)
    large = LatencyModel([AB], {"a": widths, "b": widths})
    (cost,) = large.costs(table(grid_rows(large)))
    for i, j in itertools.product(range(3), repeat=2):
        expected = max(0, 4 * widths[i] * widths[j] - (1 << 19))
        assert cost.streamed_bytes[i, j] == expected
        assert large.streamed_bytes(dict(zip(AB.groups, (widths[i], widths[j]), strict=True))) == expected


def test_layers_of_equal_shape_learn_from_each_other():
    """Names of groups do not matter: what was measured for one layer prices the other."""
    twins = model(AB, replace(AB, name="twin"), dense_family("bc", of("b"), of("c")))
    assert len(set(map(id, twins.shapes))) == 1
    alone = model(AB)
    assert {s.canonical() for s in twins.specs()} == {s.canonical() for s in alone.specs()}
    rows = table(grid_rows(alone))
    assert twins.predict({"a": 48, "b": 80, "c": 112}, rows).ns == pytest.approx(
        sum(multilinear(s) for s in twins.kernels({"a": 48, "b": 80, "c": 112}))
    )


def test_a_prediction_tells_how_much_of_it_is_interpolated_and_how_sure_it_is():
    found = model(*CHAIN)
    rows = table(grid_rows(found, staircase(1)))
    dense = found.predict(found.dense, rows)
    assert (dense.interpolated, dense.deviation_ns, dense.kernels) == (0.0, 0.0, len(CHAIN))
    assert dense.ns == pytest.approx(found.sum_ns(found.dense, rows))
    between = found.predict({"a": 48, "b": 80, "c": 112}, rows)
    assert 0.2 < between.interpolated < 1.0
    assert 0.01 * between.ns < between.deviation_ns < 0.2 * between.ns
