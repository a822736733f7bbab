"""What is said before any training on devices on which pruning does not help, and on one where it does."""

from __future__ import annotations

import math

import pytest

from hwprune.dependency.groups import Refusal
from hwprune.errors import KernelMissError
from hwprune.extent import Extent
from hwprune.latency.kernel import FamilyInput, KernelFamily, KernelOp, KernelSpec
from hwprune.latency.predict import LatencyModel
from hwprune.planner.verdict import Verdict, judge
from tests.planner.fakes import CHAIN, DOMAINS, Cost, dense_family, of, row, table

CONV = (("dilation", (1, 1)), ("groups", 1), ("padding", (0, 0, 0, 0)), ("stride", (8, 8)))
SMALLEST = {group: widths[0] for group, widths in DOMAINS.items()}


def patches(name: str, group: str) -> KernelFamily:
    """A convolution that reads a large map, which nothing cuts, and writes a small one."""
    return KernelFamily(
        name,
        (
            FamilyInput((Extent(1), Extent(64), Extent(64), Extent(64)), "data"),
            FamilyInput((of(group), Extent(64), Extent(1), Extent(1)), "weight"),
        ),
        (KernelOp("conv2d", (0, 1, -1), CONV),),
    )


def flops(spec: KernelSpec) -> float:
    outputs = math.prod(spec.inputs[1].shape)
    return 2.0 * outputs * (64.0 if spec.anchor == "conv2d" else 1.0)


def verdict_of(
    families: tuple[KernelFamily, ...], cost: Cost, **options: object
) -> tuple[Verdict, float, float]:
    """The verdict, and the true latency of kernels at full and at smallest widths."""
    groups = {g for family in families for g in family.groups}
    model = LatencyModel(families, {g: w for g, w in DOMAINS.items() if g in groups})
    found = table([row(spec, cost(spec)) for spec in {s.digest(): s for s in model.specs()}.values()])
    sums = [sum(cost(s) for s in model.kernels(widths)) for widths in (model.dense, SMALLEST)]
    return judge(model, found, target="fake", **options), *sums  # type: ignore[arg-type]


def test_where_time_follows_arithmetic_pruning_helps():
    verdict, dense, least = verdict_of(CHAIN[:4], lambda spec: 10.0 * flops(spec))
    assert verdict.helps
    assert verdict.bound_by is None
    assert verdict.saving == pytest.approx(1 - least / dense)
    assert {k.kind for k in verdict.kernels} == {"open"}
    assert [k.slope for k in verdict.kernels] == pytest.approx([1.0] * 4)
    assert sum(k.dense_ns for k in verdict.kernels) == pytest.approx(dense)


def test_a_device_bound_by_launches():
    verdict, dense, least = verdict_of(CHAIN[:4], lambda spec: 5000.0 + 0.01 * flops(spec))
    assert verdict.saving == pytest.approx(1 - least / dense) == pytest.approx(0.0, abs=0.05)
    assert not verdict.helps
    assert verdict.bound_by == "launch"
    assert {k.kind for k in verdict.kernels} == {"launch"}
    text = verdict.text
    assert text.startswith("pruning does not help here: pruning can save at most")
    assert "calling them costs most of their time" in text


def test_time_outside_of_kernels_counts_as_launches():
    verdict, dense, least = verdict_of(
        CHAIN[:4], lambda spec: 10.0 * flops(spec), dense_ns=4e6, outside_ns=3.9e6
    )
    assert verdict.bound_by == "launch"
    assert not verdict.helps
    assert verdict.least_ns == pytest.approx(3.9e6 + 1e5 * least / dense)
    assert "98% (3.9 ms) of the time is spent outside of kernels" in verdict.text


def test_a_device_bound_by_memory():
    def bytes_(spec: KernelSpec) -> float:
        outputs = math.prod(spec.inputs[1].shape[:1]) * (64 if spec.anchor == "conv2d" else 1)
        return 4.0 * (sum(math.prod(i.shape) for i in spec.inputs) + outputs)

    verdict, dense, least = verdict_of((patches("p", "a"), patches("q", "b")), bytes_)
    assert verdict.saving == pytest.approx(1 - least / dense)
    assert not verdict.helps
    assert verdict.bound_by == "memory"
    assert {k.kind for k in verdict.kernels} == {"memory"}
    assert "move almost the same bytes" in verdict.text
    # On a device that is bound by arithmetic the same network can be pruned.
    assert verdict_of((patches("p", "a"),), flops)[0].helps


def test_a_network_of_layers_that_cannot_be_cut():
    big = dense_family("stem.proj", Extent(4000), Extent(1000))
    head = dense_family("head", Extent(1000), Extent(1000))
    ledger = [Refusal("head", 1000, "output of the model"), Refusal("stem", 1000, "operator aten.foo")]
    verdict, dense, _ = verdict_of((*CHAIN[:4], big, head), flops, ledger=ledger)
    assert verdict.bound_by == "uncut"
    assert not verdict.helps
    assert verdict.share_ns("uncut") == pytest.approx(2 * 5e6)
    assert verdict.share_ns("uncut") / dense > 0.9
    assert (
        "in 2 kernels that no width changes (stem.proj 8 ms: operator aten.foo, head 2 ms: output"
        in verdict.text
    )
    reasons = {k.name: k.reason for k in verdict.kernels}
    assert reasons["ab"] is None


def test_least_latency_and_dense_latency_that_are_known_are_used():
    verdict, dense, _ = verdict_of(CHAIN[:4], flops, dense_ns=2e5, least_ns=5e4)
    assert verdict.saving == pytest.approx(0.75)
    assert sum(k.dense_ns for k in verdict.kernels) == pytest.approx(2e5)
    assert dense != pytest.approx(2e5)
    slower = verdict_of(CHAIN[:4], flops, dense_ns=2e5, least_ns=3e5)[0]
    assert slower.saving == 0.0
    cycles = verdict_of(CHAIN[:4], flops, dense_ns=2e5, unit="cycles")[0]
    assert "2e+05 cycles" in cycles.text


def test_a_table_that_lacks_a_width_names_the_kernel():
    model = LatencyModel(CHAIN, DOMAINS)
    with pytest.raises(KernelMissError, match="linear"):
        judge(model, table([row(spec, flops(spec)) for spec in model.specs()[1:]]), target="fake")
